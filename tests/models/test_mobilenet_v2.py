"""MobileNet V2 against its paper (Sandler et al., 2018) and torchvision."""

from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import MobileNetV2 as TorchvisionMobileNetV2

import cnnarch
from cnnarch.blocks import InvertedResidual
from cnnarch.models.mobilenet_v2 import MobileNetV2
from cnnarch.testing import assert_stage_shapes
from tests.oracles.in_order import assert_same_outputs

SMALL_FORMS = {
    "inverted": partial(MobileNetV2, width=0.1),
    "same": partial(MobileNetV2, width=0.1, padding="same"),
    "small_images": partial(MobileNetV2, width=0.1, small_images=True),
}


def on_meta(**options: object) -> cnnarch.MobileNetV2:
    with torch.device("meta"):
        return cnnarch.mobilenet_v2(**options)


def blocks(model: nn.Module) -> list[InvertedResidual]:
    return [m for m in model.modules() if isinstance(m, InvertedResidual)]


def test_stages_are_the_rows_of_table_2() -> None:
    model = on_meta()
    assert [r.stride for r in model.feature_info] == [2, 2, 4, 8, 16, 16, 32, 32]
    assert [r.channels for r in model.feature_info] == [32, 16, 24, 32, 64, 96, 160, 320]
    assert [len(stage) for stage in model.stages] == [1, 2, 3, 4, 3, 3, 1]


def test_blocks_expand_sixfold_except_the_first() -> None:
    widths = [
        (b.branch[0].conv.in_channels, b.branch.depthwise.conv.groups) for b in blocks(on_meta())
    ]
    assert [hidden / inputs for inputs, hidden in widths] == [1] + [6] * 16
    assert {b.branch.depthwise.conv.kernel_size for b in blocks(on_meta())} == {(3, 3)}


def test_ten_blocks_have_a_residual_connection() -> None:
    """All except the first of each of the seven stages: 17 - 7."""
    assert sum(b.has_residual for b in blocks(on_meta())) == 10


def test_projections_are_linear_and_everything_else_ends_in_relu6() -> None:
    model = on_meta()
    assert all(
        [type(m) for m in b.branch.project] == [nn.Conv2d, nn.BatchNorm2d] for b in blocks(model)
    )
    leaves = [m for m in model.modules() if not any(m.children())]
    convolutions = [m for m in leaves if isinstance(m, nn.Conv2d)]
    assert len(convolutions) - len([m for m in leaves if isinstance(m, nn.ReLU6)]) == 17
    assert all(conv.bias is None for conv in convolutions)


@pytest.mark.parametrize(
    ("width", "stem", "last", "features"),
    [
        (1.4, 48, 448, 1792),  # 44.8 and 448 are rounded to multiples of 8; 1280 * 1.4
        (0.75, 24, 240, 1280),
        (0.35, 16, 112, 1280),  # 11.2 would be rounded to 8, which is more than 10% less
        (1e-9, 8, 8, 1280),
    ],
)
def test_widths_are_multiples_of_8_and_the_last_layer_never_shrinks(
    width: float, stem: int, last: int, features: int
) -> None:
    model = on_meta(width=width)
    rows = model.feature_info
    assert (rows[0].channels, rows[-1].channels, model.num_features) == (stem, last, features)


@pytest.mark.parametrize("width", [0.1, 1.3])
def test_output_matches_torchvision_at_other_widths(width: float) -> None:
    theirs = TorchvisionMobileNetV2(num_classes=10, width_mult=width)
    assert_same_outputs(
        cnnarch.mobilenet_v2(num_classes=10, width=width), theirs, (64, 64), (97, 70)
    )


def test_norms_have_pytorchs_constants_and_eps_is_an_option() -> None:
    for options, eps in (({}, 1e-5), ({"norm_eps": 1e-3}, 1e-3)):
        norms = [m for m in on_meta(**options).modules() if isinstance(m, nn.BatchNorm2d)]
        assert {(m.eps, m.momentum) for m in norms} == {(eps, 0.1)}


def test_dropout_is_an_option() -> None:
    assert on_meta().head.dropout.p == 0.2
    assert on_meta(dropout=0.0).head.dropout.p == 0


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("side", [1, 33, 128, 448])
def test_any_resolution_works(side: int, padding: str) -> None:
    images = torch.empty(2, 3, side, side + 3, device="meta")
    assert on_meta(padding=padding).eval()(images).shape == (2, 1000)


def test_small_images_give_a_4x4_map_and_keep_all_tensor_shapes() -> None:
    small, usual = on_meta(small_images=True), on_meta()
    assert_stage_shapes(small, {"stem": (32, 32, 32), "stages.6": (320, 4, 4)}, (3, 32, 32))
    assert [r.stride for r in small.feature_info] == [1, 1, 1, 2, 4, 4, 8, 8]
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (small, usual)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("width", [0, -0.5, float("nan"), float("inf"), "1.0"])
def test_a_width_out_of_range_is_rejected(width: object) -> None:
    with pytest.raises(ValueError, match=f"width must be a number above 0, got {width!r}"):
        cnnarch.mobilenet_v2(width=width)


def test_other_invalid_options_are_rejected() -> None:
    with pytest.raises(ValueError, match="padding must be one of"):
        on_meta(padding="valid")
    with pytest.raises(ValueError, match="norm_eps must be a number above 0, got 0"):
        on_meta(norm_eps=0)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1.0"):
        on_meta(dropout=1.0)
    with pytest.raises(TypeError, match="has no option 'activation'"):
        on_meta(activation="relu")
