"""Ghost modules and bottlenecks against the paper, timm's blocks and manual calculations."""

import pytest
import torch
from timm.models.ghostnet import GhostBottleneck as TimmBottleneck
from timm.models.ghostnet import GhostModule as TimmModule
from torch import nn

from cnnarch.blocks import SE, GhostBottleneck, GhostModule
from cnnarch.testing import assert_close, assert_macs, assert_parameters
from tests.oracles.in_order import copy_in_order, randomize_norms


def test_half_of_the_maps_are_computed_and_half_are_ghosts() -> None:
    module = GhostModule(16, 24).eval()
    assert module.primary.conv.weight.shape == (12, 16, 1, 1)
    assert module.cheap.conv.weight.shape == (12, 1, 3, 3)
    x = torch.randn(2, 16, 7, 7)
    primary = module.primary(x)
    assert torch.equal(module(x)[:, :12], primary)
    assert torch.equal(module(x)[:, 12:], module.cheap(primary))


def test_a_larger_ratio_computes_fewer_maps() -> None:
    module = GhostModule(16, 24, ratio=3, cheap_kernel_size=5)
    assert module.primary.conv.weight.shape == (8, 16, 1, 1)
    assert module.cheap.conv.weight.shape == (16, 1, 5, 5)


def test_the_cost_is_that_of_equation_4() -> None:
    """n/s * h * w * c primary and (s - 1) * n/s * h * w * d * d cheap multiply-adds."""
    module = GhostModule(64, 128)
    assert_macs(module, 64 * 14 * 14 * 64 + 64 * 14 * 14 * 9, (64, 14, 14))
    assert_parameters(module, 64 * 64 + 2 * 64 + 9 * 64 + 2 * 64)


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_the_module_matches_timm(kernel_size: int) -> None:
    ours, theirs = GhostModule(16, 24, kernel_size), TimmModule(16, 24, kernel_size).eval()
    x = torch.randn(4, 16, 15, 18)
    randomize_norms(ours, x)
    copy_in_order(ours, theirs)
    assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("out_channels", "kernel_size", "stride"), [(16, 3, 1), (24, 3, 2), (24, 5, 1), (16, 5, 2)]
)
def test_the_bottleneck_matches_timm(out_channels: int, kernel_size: int, stride: int) -> None:
    ours = GhostBottleneck(16, 48, out_channels, kernel_size, stride)
    theirs = TimmBottleneck(16, 48, out_channels, kernel_size, stride).eval()
    x = torch.randn(4, 16, 15, 18)
    randomize_norms(ours, x)
    copy_in_order(ours, theirs)
    assert_close(ours(x), theirs(x))


def test_only_a_strided_block_has_a_depthwise_convolution_and_a_shortcut_with_layers() -> None:
    """Fig. 3 shows the two blocks."""
    plain, strided = GhostBottleneck(16, 48, 16), GhostBottleneck(16, 48, 16, 3, 2)
    assert [name for name, _ in plain.branch.named_children()] == ["expand", "project"]
    assert isinstance(plain.shortcut, nn.Identity)
    names = [name for name, _ in strided.branch.named_children()]
    assert names == ["expand", "depthwise", "project"]
    assert strided.shortcut.depthwise.conv.stride == (2, 2)


def test_a_block_without_a_stride_can_have_a_depthwise_convolution() -> None:
    block, x = GhostBottleneck(16, 48, 16, depthwise=True), torch.zeros(1, 16, 8, 8)
    assert block.branch.depthwise.conv.stride == (1, 1)
    assert block(x).shape == x.shape
    with pytest.raises(ValueError, match="depthwise must be True if stride is not 1, got stride 2"):
        GhostBottleneck(16, 48, 16, 3, 2, depthwise=False)


def test_only_the_expansion_has_activations() -> None:
    block = GhostBottleneck(16, 48, 24, 3, 2)
    acts = [name for name, m in block.named_modules() if isinstance(m, nn.ReLU)]
    assert acts == ["branch.expand.primary.act", "branch.expand.cheap.act"]


def test_squeeze_and_excitation_precedes_the_projection() -> None:
    block = GhostBottleneck(16, 48, 24, se=lambda channels: SE(channels, 12))
    assert [name for name, _ in block.branch.named_children()] == ["expand", "se", "project"]
    assert block.branch.se.reduce.weight.shape == (12, 48, 1, 1)


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="out_channels must be a multiple of 2, got 25"):
        GhostModule(16, 25)
    with pytest.raises(ValueError, match="ratio must be an integer of at least 2, got 1"):
        GhostModule(16, 24, ratio=1)
    with pytest.raises(ValueError, match="hidden_channels must be an integer of at least 1, got 0"):
        GhostBottleneck(16, 0, 24)
    with pytest.raises(ValueError, match="in_channels must be an integer of at least 1, got 0"):
        GhostBottleneck(0, 16, 24)
