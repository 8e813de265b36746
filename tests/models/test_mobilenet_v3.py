"""MobileNet V3 against its paper (Howard et al., 2019) and torchvision."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import SE, InvertedResidual
from cnnarch.models.mobilenet_v3 import LARGE, SMALL, BneckRow, MobileNetV3, V3Table
from cnnarch.testing import assert_stage_shapes

RE, HS = nn.ReLU, nn.Hardswish
TINY = V3Table(  # every kind of block: with and without expansion, SE and a residual connection
    {
        "bneck1": (BneckRow(3, 16, 16, True, RE, 1),),
        "bneck2-3": (BneckRow(3, 24, 16, False, RE, 2), BneckRow(5, 24, 16, True, HS, 1)),
        "bneck4": (BneckRow(5, 32, 24, True, HS, 2),),
    },
    last=48,
    hidden=64,
)
SMALL_FORMS = {
    "hard_swish": partial(MobileNetV3, TINY),
    "same": partial(MobileNetV3, TINY, padding="same"),
    "minimal": partial(MobileNetV3, TINY, minimal=True),
    "small_images": partial(MobileNetV3, TINY, small_images=True),
}
LARGE_AND_SMALL = ["mobilenet_v3_large", "mobilenet_v3_small"]


def on_meta(name: str = "mobilenet_v3_large", **options: object) -> MobileNetV3:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


def branches(model: nn.Module) -> list[nn.Sequential]:
    return [m.branch for m in model.modules() if isinstance(m, InvertedResidual)]


def test_strides_are_those_of_the_tables() -> None:
    strides = {
        n: [b.depthwise.conv.stride[0] for b in branches(on_meta(n))] for n in LARGE_AND_SMALL
    }
    assert strides["mobilenet_v3_large"] == [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1]
    assert strides["mobilenet_v3_small"] == [2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1]


def test_large_has_hard_swish_from_the_seventh_block_on() -> None:
    """Columns "NL" of Tables 1 and 2."""
    acts = [type(b.depthwise.act) for b in branches(on_meta())]
    assert acts == [nn.ReLU] * 6 + [nn.Hardswish] * 9
    small = [type(b.depthwise.act) for b in branches(on_meta("mobilenet_v3_small"))]
    assert small == [nn.ReLU] * 3 + [nn.Hardswish] * 8


def test_squeezes_are_a_quarter_of_the_hidden_width_with_a_hard_sigmoid() -> None:
    """Section 5.3: "fixed to be 1/4 of the number of channels in expansion layer"."""
    squeezes = [m for m in on_meta().modules() if isinstance(m, SE)]
    assert [m.expand.out_channels for m in squeezes] == [72, 120, 120, 480, 672, 672, 960, 960]
    # 72 / 4 = 18 and 120 / 4 = 30 are rounded to multiples of 8; 16 would be 11% less than 18.
    assert [m.reduce.out_channels for m in squeezes] == [24, 32, 32, 120, 168, 168, 240, 240]
    assert {(type(m.act), type(m.gate)) for m in squeezes} == {(nn.ReLU, nn.Hardsigmoid)}


@pytest.mark.parametrize(
    ("name", "width", "hidden"),
    [
        ("mobilenet_v3_large", 0.35, 1280),
        ("mobilenet_v3_large", 1.25, 1600),
        ("mobilenet_v3_small", 0.75, 1024),
    ],
)
def test_the_hidden_layer_is_not_scaled_down(name: str, width: float, hidden: int) -> None:
    assert on_meta(name, width=width).num_features == hidden


def test_the_hidden_layer_follows_the_pool() -> None:
    """Section 5.1: the last layers "no longer" run at 7x7 but on a single pixel."""
    head = on_meta().head
    assert [name for name, _ in head.named_children()] == [
        *("before", "pool", "flatten", "hidden", "dropout", "classifier")
    ]
    assert [type(m) for m in head.hidden] == [nn.Linear, nn.Hardswish]
    assert (head.hidden.fc.in_features, head.hidden.fc.out_features) == (960, 1280)


@pytest.mark.parametrize("name", LARGE_AND_SMALL)
def test_minimal_networks_have_3x3_kernels_and_relu_only(name: str) -> None:
    model = on_meta(name, minimal=True)
    leaves = {type(m) for m in model.modules() if not any(m.children())}
    assert not leaves & {nn.Hardswish, nn.Hardsigmoid}
    assert not any(isinstance(m, SE) for m in model.modules())
    assert {b.depthwise.conv.kernel_size for b in branches(model)} == {(3, 3)}


@pytest.mark.parametrize("name", LARGE_AND_SMALL)
def test_norms_have_the_papers_momentum_and_eps_is_an_option(name: str) -> None:
    """Section 6.1.1: average decay of 0.99, which is a momentum of 0.01 in PyTorch."""
    for options, eps in (({}, 1e-3), ({"norm_eps": 1e-5}, 1e-5)):
        norms = [m for m in on_meta(name, **options).modules() if isinstance(m, nn.BatchNorm2d)]
        assert {(m.eps, m.momentum) for m in norms} == {(eps, 0.01)}


def test_dropout_is_applied_to_the_hidden_layers_output() -> None:
    """Section 6.1.1: dropout of 0.8, which TensorFlow's code gives as the probability to keep."""
    assert on_meta().head.dropout.p == 0.2
    assert on_meta(dropout=0.0).head.dropout.p == 0


@pytest.mark.parametrize(
    ("name", "channels"), [("mobilenet_v3_large", 160), ("mobilenet_v3_small", 96)]
)
def test_small_images_give_a_4x4_map_and_keep_all_tensor_shapes(name: str, channels: int) -> None:
    small, usual = on_meta(name, small_images=True), on_meta(name)
    last = f"stages.{len(small.stages) - 1}"
    assert_stage_shapes(small, {"stem": (16, 32, 32), last: (channels, 4, 4)}, (3, 32, 32))
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (small, usual)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("side", [1, 33, 320])
def test_any_resolution_works(side: int, padding: str) -> None:
    images = torch.empty(2, 3, side, side + 3, device="meta")
    assert on_meta(padding=padding).eval()(images).shape == (2, 1000)


def test_building_variants_does_not_change_the_tables() -> None:
    on_meta(minimal=True, small_images=True, width=0.5)
    assert LARGE.stages["bneck4-6"][0] == (5, 72, 40, True, RE, 2)
    assert SMALL.stages["bneck1"] == ((3, 16, 16, True, RE, 2),)


@pytest.mark.parametrize("width", [0, -0.5, float("nan"), float("inf"), "1.0"])
def test_a_width_out_of_range_is_rejected(width: object) -> None:
    with pytest.raises(ValueError, match=f"width must be a number above 0, got {width!r}"):
        on_meta(width=width)


def test_other_invalid_options_are_rejected() -> None:
    with pytest.raises(ValueError, match="padding must be one of"):
        on_meta(padding="valid")
    with pytest.raises(ValueError, match="norm_eps must be a number above 0, got 0"):
        on_meta(norm_eps=0)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1.0"):
        on_meta(dropout=1.0)
