"""GhostNet against its paper (Han et al., 2019) and timm."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import SE, GhostBottleneck
from cnnarch.models.ghostnet import GhostNet
from cnnarch.testing import assert_stage_shapes

SMALL_FORMS = {
    "ghost": partial(GhostNet, 0.1),
    "small_images": partial(GhostNet, 0.1, small_images=True),
}
NAMES = ["ghostnet_0_5", "ghostnet_1_0", "ghostnet_1_3"]


def on_meta(name: str = "ghostnet_1_0", **options: object) -> GhostNet:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


def blocks(model: nn.Module) -> list[GhostBottleneck]:
    return [m for m in model.modules() if isinstance(m, GhostBottleneck)]


def test_blocks_are_the_rows_of_table_1() -> None:
    rows = blocks(on_meta())
    hidden = [2 * b.branch.expand.primary.conv.out_channels for b in rows]
    assert hidden == [
        *(16, 48, 72, 72, 120, 240, 200, 184, 184, 480, 672),
        *(672, 960, 960, 960, 960),
    ]
    with_se = [i for i, b in enumerate(rows, 1) if hasattr(b.branch, "se")]
    assert with_se == [4, 5, 10, 11, 12, 14, 16]
    strided = [i for i, b in enumerate(rows, 1) if hasattr(b.branch, "depthwise")]
    assert strided == [2, 4, 6, 12]


def test_stages_have_their_own_strides() -> None:
    rows = on_meta().feature_info
    assert [r.stride for r in rows] == [2, 2, 4, 8, 16, 32]
    assert [r.channels for r in rows] == [16, 16, 24, 40, 112, 160]


def test_squeezes_are_a_quarter_of_the_hidden_width_with_a_hard_sigmoid() -> None:
    squeezes = [m for m in on_meta().modules() if isinstance(m, SE)]
    # 72 / 4 = 18 is rounded to 20, 120 / 4 = 30 to 32
    assert [m.reduce.out_channels for m in squeezes] == [20, 32, 120, 168, 168, 240, 240]
    assert {(type(m.act), type(m.gate)) for m in squeezes} == {(nn.ReLU, nn.Hardsigmoid)}


@pytest.mark.parametrize(
    ("name", "channels", "last"),
    [
        ("ghostnet_0_5", [8, 8, 12, 20, 56, 80], 480),
        ("ghostnet_1_3", [20, 20, 32, 52, 144, 208], 1248),  # 20.8, 31.2, 145.6, rounded to 4
    ],
)
def test_widths_are_multiples_of_4(name: str, channels: list[int], last: int) -> None:
    model = on_meta(name)
    assert [r.channels for r in model.feature_info] == channels
    assert model.head.before.conv.out_channels == last
    assert model.num_features == 1280


def test_the_hidden_layer_follows_the_pool_and_has_a_bias_but_no_norm() -> None:
    head = on_meta().head
    assert [name for name, _ in head.named_children()] == [
        *("before", "pool", "flatten", "hidden", "dropout", "classifier")
    ]
    assert [type(m) for m in head.hidden] == [nn.Linear, nn.ReLU]
    assert head.hidden.fc.bias is not None


@pytest.mark.parametrize("name", NAMES)
def test_small_images_give_a_4x4_map_and_keep_all_tensor_shapes(name: str) -> None:
    small, usual = on_meta(name, small_images=True), on_meta(name)
    assert [r.stride for r in small.feature_info] == [1, 1, 1, 2, 4, 8]
    channels = usual.feature_info[-1].channels
    assert_stage_shapes(small, {"stages.4": (channels, 4, 4)}, (3, 32, 32))
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (small, usual)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("side", [1, 33, 320])
def test_any_resolution_works(side: int) -> None:
    images = torch.empty(2, 3, side, side + 3, device="meta")
    assert on_meta().eval()(images).shape == (2, 1000)


def test_dropout_is_an_option() -> None:
    assert on_meta().head.dropout.p == 0.2
    assert on_meta(dropout=0.0).head.dropout.p == 0


def test_invalid_options_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1.0"):
        on_meta(dropout=1.0)
    with pytest.raises(ValueError, match="width must be a number above 0, got 0"):
        GhostNet(0)
    with pytest.raises(TypeError, match="has no option 'width'"):
        on_meta(width=0.5)
