"""Compare dilated networks with the original networks."""

import copy
import re

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.backbones import Backbone
from cnnarch.blocks import ECA, GRN, SE, ChannelAttention, KernelAttention
from cnnarch.dilation import DilatedPool2d, dilate
from cnnarch.testing import assert_close, calibrate
from tests.small_forms import Build, small_forms

FORMS = small_forms()
ATTENTION = (ChannelAttention, ECA, GRN, KernelAttention, SE, nn.GroupNorm)
POOLS = ("densenet-bc", "vgg-batch_norm", "googlenet-torchvision", "efficientnet-same")
"""One form for each type of pool and of padding that `dilate` replaces."""


NOT_ALIGNED = (
    "alexnet",
    "gmlp",
    "inception_resnet",
    "inception_v",
    "lenet",
    "mlp_mixer",
    "resmlp",
)
"""Families whose maps lose their borders and thus shift, or whose input size is fixed."""
UNPADDED = {"squeezenet-unpadded-stem": 5, "xception-flows": 5, "xception-small_images": 4}
"""Pixels that unpadded stems remove: 7 - 2 (7x7, stride 2), 3 - 2 + 2 * 2 (3x3, stride 2, then 3x3)
and 2 + 2 (two 3x3)."""
ALIGNED_FORMS = [name for name in FORMS if not name.startswith(NOT_ALIGNED) and name != "nin"]


@pytest.mark.parametrize("name", ALIGNED_FORMS)
@torch.no_grad()
def test_every_kth_pixel_equals_the_original_pixel(name: str) -> None:
    """This property defines dilation and shows that pretrained weights still work."""
    model = FORMS[name]()
    for module in list(model.modules()):
        for child_name, child in module.named_children():
            if isinstance(child, ATTENTION):  # also pools the new pixels
                setattr(module, child_name, nn.Identity())
    strides = [row.stride for row in model.feature_info]
    model.double()  # float32 rounding errors accumulate in deep networks
    calibrate(model, torch.randn(4, model.in_channels, 64, 64).double())
    border = UNPADDED.get(name, 0)
    images = torch.randn(1, model.in_channels, 96 + border, 64 + border).double()
    maps = model.forward_stages(images)
    assert [m.shape[-2:] for m in maps] == [(96 // s, 64 // s) for s in strides]
    for output_stride in (8, 16):
        dilated = copy.deepcopy(model)
        dilate(dilated, output_stride)
        dilated.load_state_dict(model.state_dict())
        kept = [min(stride, output_stride) for stride in strides]
        for old, new, original, dense in zip(
            strides, kept, maps, dilated.forward_stages(images), strict=True
        ):
            k = old // new
            assert dense.shape[-2:] == (96 // new, 64 // new)
            torch.testing.assert_close(dense[..., ::k, ::k], original, rtol=1e-8, atol=1e-8)
        assert [row.stride for row in dilated.feature_info] == kept


@pytest.mark.parametrize("name", ["alexnet-one_tower", "inception_v3", "inception_v4"])
@torch.no_grad()
def test_unpadded_networks_keep_every_pixel_far_from_the_last_border(name: str) -> None:
    """Original pixels next to the border are computed from padding, or are lost."""
    model = FORMS[name]().double()
    calibrate(model, torch.randn(2, model.in_channels, 171, 171).double())
    images = torch.randn(1, model.in_channels, 395, 395).double()
    maps = model.forward_stages(images)
    for output_stride in (8, 16):
        dilated = copy.deepcopy(model)
        dilate(dilated, output_stride)
        for row, original, dense in zip(
            model.feature_info, maps, dilated.forward_stages(images), strict=True
        ):
            k = max(1, row.stride // output_stride)
            kept = [side // 2 for side in original.shape[-2:]]
            every_kth, expected = (
                m[..., : kept[0], : kept[1]] for m in (dense[..., ::k, ::k], original)
            )
            torch.testing.assert_close(every_kth, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["resnet-residual", *POOLS])
def test_a_dilated_backbone_trains(name: str) -> None:
    backbone = Backbone(FORMS[name]())
    dilate(backbone, 8)
    maps = backbone(torch.randn(2, 3, 64, 64))
    last = maps[backbone.names[-1]]
    assert last.shape[-2:] == (8, 8)
    last.square().mean().backward()
    assert all(p.grad is not None for p in backbone.parameters())


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_every_network_reaches_the_output_stride_or_raises(
    distinct_form: Build, output_stride: int
) -> None:
    with torch.device("meta"):
        model = distinct_form().eval()
        stem, last = model.feature_info[0].stride, model.feature_info[-1].stride
        weights = {name: tensor.shape for name, tensor in model.state_dict().items()}
        if stem > output_stride:
            with pytest.raises(ValueError, match=f"{output_stride} is below the stem's stride of"):
                dilate(model, output_stride)
            return
        dilate(model, output_stride)
        if not model.fixed_input_size:  # every stride divides both sides
            images = (torch.empty(1, model.in_channels, side, side) for side in (256, 512))
            small, large = (model.forward_stages(x) for x in images)
            growth = [b.shape[-1] - a.shape[-1] for a, b in zip(small, large, strict=True)]
            assert min(growth) == 256 // min(last, output_stride)
            assert growth == [256 // row.stride for row in model.feature_info]
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == weights


def test_dilating_a_backbone_updates_its_strides() -> None:
    backbone = cnnarch.get_backbone("resnet18", stages=["conv3_x", "conv5_x"])
    assert backbone.strides == (8, 32)
    dilate(backbone, 16)
    assert backbone.strides == (8, 16)
    assert backbone(torch.zeros(1, 3, 64, 64))["conv5_x"].shape == (1, 512, 4, 4)


@pytest.mark.parametrize("name", POOLS)
def test_dilating_twice_equals_dilating_once(name: str) -> None:
    once = FORMS[name]()
    calibrate(once, torch.randn(2, 3, 64, 64))
    twice = copy.deepcopy(once)
    dilate(once, 8)
    for output_stride in (16, 8):
        dilate(twice, output_stride)
    assert twice.feature_info == once.feature_info
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_close(twice.forward_features(images), once.forward_features(images))


def test_an_impossible_output_stride_raises() -> None:
    for wrong in (4, 0, -8, 64, 8.0, "8", True, float("nan")):
        expected = re.escape(f"output_stride must be 8, 16 or 32, got {wrong!r}")
        with pytest.raises(ValueError, match=expected):
            cnnarch.get_backbone("resnet18", output_stride=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="output_stride 8 is below the stem's stride of 32"):
        cnnarch.get_backbone("mixer_s32", output_stride=8)


def test_other_modules_cannot_be_dilated() -> None:
    with pytest.raises(TypeError, match="a cnnarch network or backbone, got Conv2d"):
        dilate(nn.Conv2d(3, 8, 3), 8)  # type: ignore[arg-type]


def test_the_original_output_stride_changes_nothing() -> None:
    model = cnnarch.resnet18()
    before = str(model)
    dilate(model, 32)
    assert str(model) == before


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2, 2), nn.AvgPool2d(2, 2), nn.MaxPool2d(3, 2, 1)])
def test_a_dilated_pool_uses_the_pixels_of_the_original_pool(pool: nn.Module) -> None:
    x = torch.randn(1, 2, 8, 12)
    dense = torch.randn(1, 2, 16, 24)  # the original pixels, interleaved with new ones
    dense[..., ::2, ::2] = x
    assert_close(DilatedPool2d.of(pool, 2)(dense)[..., ::4, ::4], pool(x))


def test_averages_that_do_not_count_padding_stay_averages_of_the_image() -> None:
    pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    x = torch.randn(2, 3, 8, 10)
    torch.testing.assert_close(DilatedPool2d.of(pool, 1)(x), pool(x))
    dilated = DilatedPool2d.of(DilatedPool2d.of(pool, 1), 2)(x)
    for i in (0, 1):
        for j in (0, 1):
            torch.testing.assert_close(dilated[..., i::2, j::2], pool(x[..., i::2, j::2]))


def test_an_unpadded_convolution_and_pool_keep_the_same_pixels() -> None:
    """In a reduction block, both have stride 2 and no padding, and their outputs are joined."""
    model = FORMS["inception_v3"]().eval()
    reduction = model.stages[2][0]
    x = torch.randn(1, 16, 11, 8)
    with torch.no_grad():
        original = reduction(x)
        dilate(model, 8)
        dense = reduction(x)
    assert (original.shape, dense.shape) == ((1, 24, 5, 3), (1, 24, 11, 8))
    torch.testing.assert_close(dense[..., 0:10:2, 0:6:2], original)
