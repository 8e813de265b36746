"""The CIFAR ResNeXts against their paper (Xie et al., 2016, sec. 5.3)."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import Bottleneck
from cnnarch.models.resnext_cifar import CifarResNeXt

SMALL_FORMS = {"resnext_cifar": partial(CifarResNeXt, 1, 2, 4, (8, 16, 24))}


@pytest.mark.parametrize(("name", "cardinality"), [("8x64d", 8), ("16x64d", 16)])
def test_groups_and_widths_are_those_of_the_template(name: str, cardinality: int) -> None:
    """The first stage has C groups of 64 channels; the width doubles with each smaller map."""
    with torch.device("meta"):
        model = cnnarch.get_model(f"resnext29_{name}_cifar")
    for stage, group_width in zip(model.stages, (64, 128, 256), strict=True):
        assert len(stage) == 3
        for block in stage:
            assert isinstance(block, Bottleneck)
            conv = block.branch.conv.conv
            assert (conv.groups, conv.out_channels) == (cardinality, cardinality * group_width)


def test_the_depth_is_9n_plus_2_layers_and_the_3x3_has_the_stride() -> None:
    with torch.device("meta"):
        model = cnnarch.resnext29_8x64d_cifar()
    convolutions = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    assert sum("shortcut" not in name for name in convolutions) + 1 == 9 * 3 + 2
    for stage in list(model.stages)[1:]:
        assert [layer.conv.stride for layer in stage[0].branch] == [(1, 1), (2, 2), (1, 1)]


def test_defaults_match_cifar_10() -> None:
    with torch.device("meta"):
        model = cnnarch.resnext29_16x64d_cifar()
    assert (model.num_classes, model.in_channels, model.num_features) == (10, 3, 1024)
    assert [r.stride for r in model.feature_info] == [1, 1, 2, 4]


def test_invalid_depths_and_group_widths_are_rejected() -> None:
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got 0"):
        CifarResNeXt(0, 8, 64)
    with pytest.raises(ValueError, match=r"width 96, must be an integer, got 4\.5"):
        CifarResNeXt(1, 2, 3, (64, 96, 128))
