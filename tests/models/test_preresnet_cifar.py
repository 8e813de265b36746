"""The CIFAR pre-activation ResNets against their paper (He et al., 2016) and pytorchcv."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch import ImageClassifier
from cnnarch.blocks import PreActSum
from cnnarch.models.preresnet_cifar import CifarPreBottleneckNet, CifarPreResNet
from cnnarch.testing import assert_parameters, calibrate

SMALL_FORMS = {
    "zero_padding": partial(CifarPreResNet, 1),
    "projection": partial(CifarPreResNet, 1, shortcut="B", activate_first=False),
    "bottleneck": partial(CifarPreBottleneckNet, 1),
    "stride_in_3x3": partial(CifarPreBottleneckNet, 1, stride_in_1x1=False),
}


def on_meta(name: str) -> ImageClassifier:
    with torch.device("meta"):
        return cnnarch.get_model(name)


@pytest.mark.parametrize(("depth", "convolutions"), [(110, 2), (164, 3), (1001, 3)])
def test_the_name_counts_the_layers_with_weights(depth: int, convolutions: int) -> None:
    model = on_meta(f"preresnet{depth}_cifar")
    n = (depth - 2) // (3 * convolutions)
    for stage in model.stages:
        assert sum(isinstance(m, PreActSum) for m in stage) == n
    layers = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sum("shortcut" not in name for name in layers) == depth == 3 * convolutions * n + 2


def test_projections_add_their_weights_to_option_a() -> None:
    with torch.device("meta"):
        model = cnnarch.preresnet110_cifar(shortcut="B")
    assert_parameters(model, 1_727_962 + 16 * 32 + 32 * 64)


@pytest.mark.parametrize("activate_first", [True, False])
def test_the_first_activation_precedes_the_split_only_as_in_the_paper(activate_first: bool) -> None:
    """With F = 0, the first block returns its shortcut."""
    model = CifarPreResNet(2, activate_first=activate_first).eval()
    first, second = (block for block in model.stages[0])
    for block in (first, second):
        nn.init.zeros_(block.branch.conv2.weight)
    x = torch.randn(1, 16, 4, 4)
    expected = (x / (1 + 1e-5) ** 0.5).relu() if activate_first else x
    torch.testing.assert_close(first(x), expected)
    assert torch.equal(second(x), x)


def test_the_stem_is_only_a_convolution_and_the_last_stage_ends_with_norm_and_relu() -> None:
    for model in (CifarPreResNet(1), CifarPreBottleneckNet(1)):
        assert [type(m) for m in model.stem] == [nn.Conv2d]
        assert [name for name, _ in model.stages[-1].named_children()] == ["0", "norm", "act"]
        assert bool((model.forward_features(torch.randn(2, 3, 32, 32)) >= 0).all())


def test_the_stride_is_in_the_first_1x1() -> None:
    model = on_meta("preresnet164_cifar")
    for stage in list(model.stages)[1:]:
        branch = stage[0].branch
        assert [branch.reduce.stride, branch.conv.stride] == [(2, 2), (1, 1)]


def test_options_of_the_other_block_are_rejected() -> None:
    with pytest.raises(TypeError, match=r"preresnet110_cifar\(\) has no option 'stride_in_1x1'"):
        cnnarch.preresnet110_cifar(stride_in_1x1=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"preresnet164_cifar\(\) has no option 'shortcut'"):
        cnnarch.preresnet164_cifar(shortcut="B")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="shortcut must be one of 'A', 'B', got 'C'"):
        cnnarch.preresnet110_cifar(shortcut="C")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got 0"):
        CifarPreBottleneckNet(0)


@torch.no_grad()
def test_an_untrained_preresnet1001_returns_nan_in_eval_mode_until_calibrated() -> None:
    """The family's page says so."""
    model = cnnarch.preresnet1001_cifar().eval()
    images = torch.randn(2, 3, 32, 32)
    assert not bool(model(images).isfinite().all())
    calibrate(model, images)
    assert bool(model(images).isfinite().all())
