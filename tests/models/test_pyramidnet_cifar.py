"""PyramidNets for CIFAR against their paper (Han et al., 2016)."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch import ImageClassifier
from cnnarch.blocks import PyramidBottleneck, PyramidResidual, PyramidSum
from cnnarch.models.pyramidnet_cifar import CifarPyramidNet, pyramid_widths

SMALL_FORMS = {
    "basic": partial(CifarPyramidNet, PyramidResidual, 1, 10),
    "bottleneck": partial(CifarPyramidNet, PyramidBottleneck, 1, 2),
}


def on_meta(name: str) -> ImageClassifier:
    with torch.device("meta"):
        return cnnarch.get_model(name)


@pytest.mark.parametrize(
    ("name", "depth", "features"),
    [
        ("pyramidnet110_a48_cifar", 110, 64),
        ("pyramidnet110_a84_cifar", 110, 100),
        ("pyramidnet110_a270_cifar", 110, 286),
        ("pyramidnet164_a270_bn_cifar", 164, 1144),
        ("pyramidnet200_a240_bn_cifar", 200, 1024),
        ("pyramidnet236_a220_bn_cifar", 236, 944),
        ("pyramidnet272_a200_bn_cifar", 272, 864),
    ],
)
def test_layers_and_features_are_those_of_the_authors_table(
    name: str, depth: int, features: int
) -> None:
    """The table in the README of jhkim89/PyramidNet lists the dimension of the features."""
    model = on_meta(name)
    assert model.num_features == features
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == depth


def test_every_block_adds_channels_whose_fractions_accumulate() -> None:
    """For alpha = 48 and 54 blocks, each adds 48 / 54 channels: nine blocks add eight."""
    model = on_meta("pyramidnet110_a48_cifar")
    widths = [b.out_channels for b in model.stages[0] if isinstance(b, PyramidSum)]
    assert widths == [17, 18, 19, 20, 20, 21, 22, 23, 24, 25, 26, 27, 28, 28, 29, 30, 31, 32]
    assert pyramid_widths(18, 270)[1][:2] == [111, 116]
    assert pyramid_widths(2, 0) == [[16, 16]] * 3


def test_only_the_second_and_third_stage_begin_with_a_stride() -> None:
    for stage, stride in zip(on_meta("pyramidnet164_a270_bn_cifar").stages, (1, 2, 2), strict=True):
        first, *others = [block for block in stage if isinstance(block, PyramidSum)]
        assert first.branch.conv.stride == (stride, stride)
        assert hasattr(first.shortcut, "pool") == (stride == 2)
        assert all(block.branch.conv.stride == (1, 1) for block in others)


def test_the_stem_has_no_activation_and_the_last_stage_ends_with_norm_and_relu() -> None:
    model = CifarPyramidNet(PyramidResidual, 1, 3)
    assert [type(m) for m in model.stem] == [nn.Conv2d, nn.BatchNorm2d]
    assert [name for name, _ in model.stages[-1].named_children()] == ["0", "norm", "act"]


def test_wrong_numbers_are_rejected() -> None:
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got 0"):
        CifarPyramidNet(PyramidResidual, 0, 48)
    with pytest.raises(ValueError, match="alpha must be an integer of at least 0, got -1"):
        CifarPyramidNet(PyramidResidual, 1, -1)
