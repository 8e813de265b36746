"""EfficientNetV2 against its paper (Tan and Le, 2021), the authors' code and torchvision."""

from functools import partial

import pytest
import torch
import torchvision
from torch import nn

import cnnarch
from cnnarch.blocks import SE, InvertedResidual, StochasticDepth
from cnnarch.models.efficientnet_v2 import FUSED, MBCONV, EfficientNetV2, S, V2Row, V2Table
from cnnarch.testing import assert_stage_shapes

TINY = V2Table(  # every kind of block, with and without a residual connection
    8,
    {
        "stage1": V2Row(FUSED, 1, 1, 8, 1),
        "stage2": V2Row(FUSED, 4, 2, 16, 2),
        "stage3": V2Row(MBCONV, 4, 2, 24, 2),
    },
    32,
    0.2,
)
SMALL_FORMS = {
    "fused": partial(EfficientNetV2, TINY),
    "same": partial(EfficientNetV2, TINY, padding="same"),
    "small_images": partial(EfficientNetV2, TINY, small_images=True),
}
NAMES = [f"efficientnet_v2_{size}" for size in ("s", "m", "l", "xl", "b0", "b1", "b2", "b3")]


def on_meta(name: str = "efficientnet_v2_s", **options: object) -> EfficientNetV2:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


def blocks(model: nn.Module) -> list[InvertedResidual]:
    return [m for m in model.modules() if isinstance(m, InvertedResidual)]


def rates(model: nn.Module) -> dict[int, float]:
    """Return the drop rate of each residual branch by block number."""
    numbered = enumerate(blocks(model))
    return {i: b.branch.drop_path.rate for i, b in numbered if hasattr(b.branch, "drop_path")}


def test_s_has_the_rows_of_table_4() -> None:
    model = on_meta()
    assert [r.name for r in model.feature_info] == [f"stage{i}" for i in range(7)]
    assert [r.stride for r in model.feature_info] == [2, 2, 4, 8, 16, 16, 32]
    assert [r.channels for r in model.feature_info] == [24, 24, 48, 64, 128, 160, 256]
    assert [len(stage) for stage in model.stages] == [2, 4, 4, 6, 9, 15]


def test_the_first_three_stages_are_fused_and_have_no_squeeze_and_excitation() -> None:
    for i, stage in enumerate(on_meta().stages, 1):
        for block in stage:
            names = [name for name, _ in block.branch.named_children() if name != "drop_path"]
            if i == 1:
                assert names == ["fused"]
            elif i <= 3:
                assert names == ["fused", "project"]
            else:
                assert names == ["expand", "depthwise", "se", "project"]


def test_squeezes_have_a_quarter_of_the_blocks_input_channels() -> None:
    squeezes = [m.reduce.out_channels for m in on_meta().modules() if isinstance(m, SE)]
    assert squeezes == [16] + [32] * 6 + [40] * 9 + [64] * 14


def test_all_kernels_are_3x3_or_1x1_and_activations_are_silu() -> None:
    leaves = [m for m in on_meta().modules() if not any(m.children())]
    assert {m.kernel_size for m in leaves if isinstance(m, nn.Conv2d)} == {(1, 1), (3, 3)}
    acts = {type(m) for m in leaves if type(m).__module__ == "torch.nn.modules.activation"}
    assert acts == {nn.SiLU, nn.Sigmoid}


@pytest.mark.parametrize(
    ("name", "channels", "layers"),
    [  # B0's numbers times the factors
        ("b1", [32, 16, 32, 48, 96, 112, 192], [2, 3, 3, 4, 6, 9]),
        ("b2", [32, 16, 32, 56, 104, 120, 208], [2, 3, 3, 4, 6, 10]),
        ("b3", [40, 16, 40, 56, 112, 136, 232], [2, 3, 3, 5, 7, 12]),
    ],
)
def test_b1_to_b3_are_scaled_with_plain_rounding(
    name: str, channels: list[int], layers: list[int]
) -> None:
    """B3: 16 * 1.2 = 19.2 is rounded to 16, which is 17% less; EfficientNet would use 24."""
    model = on_meta(f"efficientnet_v2_{name}")
    assert [r.channels for r in model.feature_info] == channels
    assert [len(stage) for stage in model.stages] == layers


def test_the_head_is_scaled_only_with_the_width() -> None:
    heads = [on_meta(name).num_features for name in NAMES]
    assert heads == [1280, 1280, 1280, 1280, 1280, 1280, 1408, 1536]


def test_dropout_defaults_to_the_variants_rate() -> None:
    expected = [0.2, 0.3, 0.4, 0.4, 0.2, 0.2, 0.3, 0.3]
    assert [on_meta(name).head.dropout.p for name in NAMES] == expected
    assert on_meta(dropout=0.0).head.dropout.p == 0


def test_drop_path_matches_torchvision() -> None:
    with torch.device("meta"):
        theirs = torchvision.models.efficientnet_v2_s()
    shaped = [m for m in theirs.modules() if type(m).__name__ in ("MBConv", "FusedMBConv")]
    expected = {i: m.stochastic_depth.p for i, m in enumerate(shaped) if m.use_res_connect}
    assert rates(on_meta()) == pytest.approx(expected)
    assert sum(isinstance(m, StochasticDepth) for m in on_meta().modules()) == len(expected)


def test_norms_have_the_authors_constants_and_eps_is_an_option() -> None:
    """The authors' code uses a momentum of 0.9, which is 0.1 in PyTorch, and an eps of 1e-3."""
    for options, eps in (({}, 1e-3), ({"norm_eps": 1e-5}, 1e-5)):
        norms = [m for m in on_meta(**options).modules() if isinstance(m, nn.BatchNorm2d)]
        assert {(m.eps, m.momentum) for m in norms} == {(eps, 0.1)}


def test_small_images_give_a_4x4_map_and_keep_all_tensor_shapes() -> None:
    small, usual = on_meta(small_images=True), on_meta()
    assert_stage_shapes(small, {"stem": (24, 32, 32), "stages.5": (256, 4, 4)}, (3, 32, 32))
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (small, usual)]
    assert shapes[0] == shapes[1]
    assert S.rows["stage2"].stride == 2


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("side", [1, 33, 224])
def test_any_resolution_works(side: int, padding: str) -> None:
    images = torch.empty(2, 3, side, side + 3, device="meta")
    assert on_meta("efficientnet_v2_b0", padding=padding).eval()(images).shape == (2, 1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"drop_path": 1}, r"drop_path must be in \[0, 1\), got 1"),
        ({"norm_eps": 0}, "norm_eps must be a number above 0, got 0"),
        ({"padding": "valid"}, "padding must be one of 'symmetric', 'same', got 'valid'"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        on_meta(**options)
