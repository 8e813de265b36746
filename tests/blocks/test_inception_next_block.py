"""The InceptionNeXt block against functional reimplementations and timm."""

import pytest
import torch
from timm.models.inception_next import MetaNeXtBlock
from torch import nn
from torch.nn.functional import conv2d

from cnnarch.blocks import InceptionDepthwise, InceptionNeXtBlock, LayerScale
from cnnarch.testing import assert_close, assert_parameters
from tests.oracles.in_order import randomize_norms


def test_the_convolution_filters_three_groups_of_channels() -> None:
    """Section 3.2, with the identity first."""
    layer = InceptionDepthwise(20, band_kernel=5, ratio=0.25)  # groups of 5
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 20, 7, 9)
    square, horizontal, vertical = (
        conv2d(x[:, i : i + 5], conv.weight, conv.bias, padding=padding, groups=5)
        for i, conv, padding in (
            (5, layer.square, (1, 1)),
            (10, layer.horizontal, (0, 2)),
            (15, layer.vertical, (2, 0)),
        )
    )
    assert layer.horizontal.weight.shape == (5, 1, 1, 5)
    assert layer.vertical.weight.shape == (5, 1, 5, 1)
    assert_close(layer(x), torch.cat((x[:, :5], square, horizontal, vertical), 1))


def test_the_number_of_filtered_channels_is_rounded_down() -> None:
    layer = InceptionDepthwise(20)  # 20 / 8 = 2.5
    assert layer.square.out_channels == 2
    assert layer.sizes == [14, 2, 2, 2]


def test_the_convolution_has_the_parameters_of_table_2() -> None:
    """(2k + 9) C / 8, and a bias for each of the three groups."""
    assert_parameters(InceptionDepthwise(96), (2 * 11 + 9) * 96 // 8 + 3 * 96 // 8)


def test_the_block_matches_timm() -> None:
    ours = InceptionNeXtBlock(16, expansion=3, layer_scale=0.3)
    theirs = MetaNeXtBlock(16, mlp_ratio=3).eval()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, 0.1, 0.3)
    x = torch.randn(4, 16, 13, 9)
    randomize_norms(ours, x)
    names = {
        "branch.depthwise.square": "token_mixer.dwconv_hw",
        "branch.depthwise.horizontal": "token_mixer.dwconv_w",
        "branch.depthwise.vertical": "token_mixer.dwconv_h",
        "branch.norm": "norm",
        "branch.expand": "mlp.fc1",
        "branch.project": "mlp.fc2",
    }
    tensors = {
        f"{theirs_name}.{key}": tensor
        for name, theirs_name in names.items()
        for key, tensor in ours.get_submodule(name).state_dict().items()
    }
    theirs.load_state_dict({**tensors, "gamma": ours.branch.scale.gamma})
    assert_close(ours(x), theirs(x))


def test_a_new_block_is_almost_the_identity() -> None:
    x = torch.randn(2, 8, 7, 7)
    assert (InceptionNeXtBlock(8)(x) - x).abs().max() < 1e-5


def test_layer_scale_multiplies_the_given_dimension() -> None:
    scale = LayerScale(3, 0.1, dim=-3)
    nn.init.normal_(scale.gamma)
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(scale(x), x * scale.gamma.view(1, 3, 1, 1))


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="channels must be an integer of at least 1, got 0"):
        InceptionNeXtBlock(0)
    with pytest.raises(ValueError, match="expansion must be an integer of at least 1, got 0"):
        InceptionNeXtBlock(8, expansion=0)
    with pytest.raises(ValueError, match="band_kernel must be odd, got 8"):
        InceptionDepthwise(8, band_kernel=8)
    with pytest.raises(ValueError, match=r"ratio must be in \(0, 1/3\], got 0.5"):
        InceptionDepthwise(8, ratio=0.5)
    with pytest.raises(ValueError, match=r"ratio must leave a channel per group of 4, got 0.125"):
        InceptionDepthwise(4)
    with pytest.raises(ValueError, match="dim must be an integer below 0, got 1"):
        LayerScale(4, 0.1, dim=1)
