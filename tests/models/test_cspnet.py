"""CSPNets against their paper (Wang et al., 2019) and the authors' counts."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import Bottleneck, CrossStage, DarknetResidual
from cnnarch.models.cspnet import CSPDarknet, CSPResNet, CSPStage

RESNET_ROWS = (
    CSPStage(1, 8, 8, 4),
    CSPStage(2, 8, 8, 4),
    CSPStage(1, 12, 8, 8),
    CSPStage(1, 16, 8, 8),
)
DARKNET_ROWS = (CSPStage(1, 4, 4, 2), CSPStage(2, 6, 4, 4), *[CSPStage(1, 8, 4, 4)] * 3)
SMALL_FORMS = {
    "cspnet": partial(CSPResNet, RESNET_ROWS, 2, 4),
    "darknet": partial(CSPDarknet, DARKNET_ROWS, 4),
}
NETWORKS = ["cspresnet50", "cspresnext50", "cspdarknet53"]


def on_meta(name: str) -> cnnarch.ImageClassifier:
    with torch.device("meta"):
        return cnnarch.get_model(name)


@pytest.mark.parametrize(
    ("name", "depths", "channels"),
    [
        ("cspresnet50", [3, 3, 5, 2], [64, 128, 256, 512, 1024]),
        ("cspresnext50", [3, 3, 5, 2], [64, 256, 512, 1024, 2048]),
        ("cspdarknet53", [1, 2, 8, 8, 4], [32, 64, 128, 256, 512, 1024]),
    ],
)
def test_depths_and_widths_are_those_of_the_authors(
    name: str, depths: list[int], channels: list[int]
) -> None:
    model = on_meta(name)
    assert [len(stage[-1].blocks) for stage in model.stages] == depths
    assert [row.channels for row in model.feature_info] == channels


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_keep_the_width_of_half_of_the_split_map(name: str) -> None:
    for stage in on_meta(name).stages:
        cross = stage[-1]
        assert isinstance(cross, CrossStage)
        for block in cross.blocks:
            assert 2 * block.out_channels == cross.expand.conv.out_channels
            assert isinstance(block.shortcut, nn.Identity)


def test_only_3x3_convolutions_of_cspresnext_have_groups() -> None:
    groups = {(1, 1): set(), (3, 3): set(), (7, 7): set()}
    for conv in (m for m in on_meta("cspresnext50").modules() if isinstance(m, nn.Conv2d)):
        groups[conv.kernel_size].add(conv.groups)
    assert groups == {(1, 1): {1}, (3, 3): {32}, (7, 7): {1}}


def test_only_the_split_of_resnets_is_linear() -> None:
    for name, linear, kind in (
        ("cspresnet50", True, Bottleneck),
        ("cspdarknet53", False, DarknetResidual),
    ):
        for stage in on_meta(name).stages:
            assert hasattr(stage[-1].expand, "act") is not linear
            assert {type(block) for block in stage[-1].blocks} == {kind}


@pytest.mark.parametrize(
    ("name", "params", "billions", "extra"),
    [
        # In the authors' first stage, the split maps 64 channels to 128 + 64, not 128 + 128, and
        # the first 1x1 convolution of the first block reads 64 channels, not 128.
        ("cspresnet50", "21.57", "8.97", 64 * 64 + 64 * 64),
        ("cspresnext50", "20.50", "7.93", 64 * 64 + 64 * 128),
        ("cspdarknet53", "27.61", "13.07", 0),
    ],
)
def test_the_authors_counts_follow_from_their_first_stage(
    name: str, params: str, billions: str, extra: int
) -> None:
    """They omit BatchNorm's parameters and count a multiply and an add as two operations."""
    model = on_meta(name)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    without_norms = sum(p.numel() for p in model.parameters()) - sum(
        2 * norm.num_features for norm in norms
    )
    assert f"{(without_norms - extra) / 1e6:.2f}" == params
    macs = cnnarch.analysis.count_macs(model, (3, 256, 256)) - extra * 64 * 64  # pixels
    assert f"{2 * macs / 1e9:.2f}" == billions


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"rows must have 4 entries, got \(\)"):
        CSPResNet(())
    with pytest.raises(ValueError, match="rows must have 5 entries"):
        CSPDarknet(RESNET_ROWS)
    with pytest.raises(ValueError, match="negative_slope must be a number of at least 0, got inf"):
        CSPDarknet(DARKNET_ROWS, negative_slope=float("inf"))
