"""MobileNet V4 against its paper (Qin et al., 2024), the authors' code and timm."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import StochasticDepth, UniversalInvertedBottleneck
from cnnarch.blocks.universal_bottleneck_stages import UIB, Conv2D, FusedIB
from cnnarch.models.mobilenet_v4 import MobileNetV4, V4Table
from cnnarch.testing import assert_stage_shapes

TINY = V4Table(  # every kind of row: Conv2D, FusedIB, ExtraDW, IB, ConvNext and FFN
    8,
    {
        "stage2": (Conv2D(3, 8), Conv2D(1, 8)),
        "stage3": (FusedIB(2, 8),),
        "stage4": (UIB(5, 3, 2, 16), UIB(None, 3, 2, 16), UIB(3, None, 2, 16)),
        "stage5": (UIB(3, 5, 2, 16), UIB(None, None, 2, 16)),
    },
    last=16,
    hidden=24,
)
SMALL_FORMS = {"mobilenet_v4": partial(MobileNetV4, TINY)}
NAMES = ["mobilenetv4_conv_small", "mobilenetv4_conv_medium", "mobilenetv4_conv_large"]
Kernels = tuple[int | None, int | None]


def on_meta(name: str = "mobilenetv4_conv_small", **options: object) -> MobileNetV4:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


def blocks(model: nn.Module) -> list[UniversalInvertedBottleneck]:
    return [m for m in model.modules() if isinstance(m, UniversalInvertedBottleneck)]


def kernels(block: UniversalInvertedBottleneck) -> Kernels:
    layers = [getattr(block.branch, name, None) for name in ("start", "middle")]
    first, second = (layer and layer.conv.kernel_size[0] for layer in layers)
    return first, second


def test_kernels_are_those_of_the_authors_code() -> None:
    """tensorflow/models, official/vision/modeling/backbones/mobilenet.py."""
    ffn: Kernels = (None, None)
    assert [kernels(b) for b in blocks(on_meta(NAMES[0]))] == [
        *((5, 5), *[(None, 3)] * 4, (3, None)),
        *((3, 3), (5, 5), (None, 5), (None, 5), (None, 3), (None, 3)),
    ]
    assert [kernels(b) for b in blocks(on_meta(NAMES[1]))] == [
        *((3, 5), (3, 3)),
        *((3, 5), (3, 3), (3, 3), (3, 5), (3, 3), (3, None), ffn, (3, None)),
        *((5, 5), (5, 5), (3, 5), (3, 5), ffn, (3, None), (3, 5), (5, 5), ffn, ffn, (5, None)),
    ]
    assert [kernels(b) for b in blocks(on_meta(NAMES[2]))] == [
        *((3, 5), (3, 3)),
        *((3, 5), *[(3, 3)] * 3, (3, 5), *[(5, 3)] * 5, (3, None)),
        *(*[(5, 5)] * 4, (5, None), (5, 3), (5, None), (5, None), (5, 3), (5, 5)),
        *[(5, None)] * 3,
    ]


def test_only_the_first_block_of_a_stage_has_a_stride() -> None:
    for name in NAMES:
        model = on_meta(name)
        for stage in model.stages:
            strides = [
                max(m.stride for m in block.modules() if isinstance(m, nn.Conv2d))
                for block in stage
            ]
            assert strides == [(2, 2), *[(1, 1)] * (len(stage) - 1)]


def test_all_activations_are_relu() -> None:
    """Section 6: squeeze-and-excitation and GELU are not well supported on DSPs."""
    leaves = {type(m) for m in on_meta(NAMES[1]).modules() if not any(m.children())}
    assert leaves == {
        *(nn.Conv2d, nn.BatchNorm2d, nn.ReLU, StochasticDepth),
        *(nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear, nn.BatchNorm1d, nn.Dropout),
    }


def test_the_hidden_layer_follows_the_pool_and_has_a_norm_and_no_bias() -> None:
    head = on_meta().head
    assert [type(m) for m in head.hidden] == [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert head.hidden.fc.weight.shape == (1280, 960)
    assert head.hidden.fc.bias is None


def test_the_stem_and_the_hidden_layer_are_not_scaled_down() -> None:
    model = on_meta(width=0.5)
    assert [row.channels for row in model.feature_info] == [32, 16, 32, 48, 64]
    assert (model.head.before.conv.out_channels, model.num_features) == (480, 1280)
    model = on_meta(width=1.5)
    assert [row.channels for row in model.feature_info] == [48, 48, 96, 144, 192]
    assert (model.head.before.conv.out_channels, model.num_features) == (1440, 1920)


@pytest.mark.parametrize("name", NAMES)
def test_small_images_give_a_4x4_map_and_keep_all_tensor_shapes(name: str) -> None:
    small, usual = on_meta(name, small_images=True), on_meta(name)
    assert [row.stride for row in small.feature_info] == [1, 1, 2, 4, 8]
    channels = usual.feature_info[-1].channels
    assert_stage_shapes(small, {"stages.3": (channels, 4, 4)}, (3, 32, 32))
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (small, usual)]
    assert shapes[0] == shapes[1]


def test_drop_path_increases_with_the_number_of_preceding_blocks() -> None:
    """There are 16 blocks; the residual ones of stages 4 and 5 are 5 to 9 and 11 to 15."""
    model = on_meta(drop_path=0.16)
    rates = [m.rate for m in model.modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx([0.01 * i for i in (5, 6, 7, 8, 9, 11, 12, 13, 14, 15)])


def test_invalid_options_are_rejected() -> None:
    with pytest.raises(ValueError, match="width must be a number above 0, got 0"):
        on_meta(width=0)
    with pytest.raises(ValueError, match=r"drop_path must be in \[0, 1\), got 1"):
        on_meta(drop_path=1)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1"):
        on_meta(dropout=1)
