"""The CIFAR Wide ResNets against their paper (Zagoruyko and Komodakis, 2016) and pytorchcv."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.models.wide_resnet_cifar import CifarWideResNet
from cnnarch.testing import assert_parameters

SMALL_FORMS = {
    "wide_resnet_cifar": partial(CifarWideResNet, 10, 1),
    "dropout": partial(CifarWideResNet, 10, 2, dropout=0.3),
}


@pytest.mark.parametrize(("depth", "k", "n"), [(40, 4, 6), (16, 8, 2), (28, 10, 4)])
def test_depth_and_widths_are_those_of_table_1(depth: int, k: int, n: int) -> None:
    with torch.device("meta"):
        model = cnnarch.get_model(f"wrn{depth}_{k}_cifar")
    assert [sum(name.isdigit() for name, _ in s.named_children()) for s in model.stages] == [n] * 3
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == depth
    rows = [(row.name, row.channels, row.stride) for row in model.feature_info]
    assert rows == [
        ("conv1", 16, 1),
        ("conv2", 16 * k, 1),
        ("conv3", 32 * k, 2),
        ("conv4", 64 * k, 4),
    ]


def test_a_hundred_classes_add_90_rows_to_the_classifier() -> None:
    with torch.device("meta"):
        assert_parameters(cnnarch.wrn28_10_cifar(num_classes=100), 36_479_194 + 90 * (64 * 10 + 1))


def test_the_last_stage_ends_with_norm_and_relu_and_the_stem_is_only_a_convolution() -> None:
    model = CifarWideResNet(10, 1)
    assert [type(m) for m in [*model.stages[-1]][-2:]] == [nn.BatchNorm2d, nn.ReLU]
    assert [type(m) for m in model.stem] == [nn.Conv2d]
    assert bool((model.forward_features(torch.randn(2, 3, 32, 32)) >= 0).all())
    assert not any(isinstance(m, nn.BatchNorm2d) for s in model.stages[:-1] for m in s)


def test_every_block_that_changes_the_shape_has_a_projection_without_norm() -> None:
    with torch.device("meta"):
        model = cnnarch.wrn28_10_cifar()
    projections = [m for n, m in model.named_modules() if n.endswith("shortcut.conv")]
    assert [(m.in_channels, m.out_channels, m.stride) for m in projections] == [
        (16, 160, (1, 1)),
        (160, 320, (2, 2)),
        (320, 640, (2, 2)),
    ]
    assert not any(
        "shortcut" in n and isinstance(m, nn.BatchNorm2d) for n, m in model.named_modules()
    )


def test_dropout_is_in_the_blocks_and_not_before_the_classifier() -> None:
    model = CifarWideResNet(10, 1, dropout=0.3)
    rates = {n: m.p for n, m in model.named_modules() if isinstance(m, nn.Dropout)}
    assert rates == {
        **{f"stages.{i}.0.branch.dropout": 0.3 for i in range(3)},
        "head.dropout": 0.0,
    }
    assert model.options["dropout"] == 0.3


def test_other_depths_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"depth must be 6n \+ 4 with n >= 1, got 20"):
        CifarWideResNet(20, 1)
    with pytest.raises(ValueError, match="depth must be an integer of at least 10, got 4"):
        CifarWideResNet(4, 1)
    with pytest.raises(ValueError, match=r"k must be an integer of at least 1, got 0\.5"):
        CifarWideResNet(10, 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1"):
        cnnarch.wrn16_8_cifar(dropout=1)
