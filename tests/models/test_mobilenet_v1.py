"""MobileNet V1 against its paper (Howard et al., 2017), pytorchcv and timm."""

from functools import partial

import pytest
import timm
import torch
from torch import nn

import cnnarch
from cnnarch.analysis import count_macs, summary
from cnnarch.blocks import DepthwiseSeparable
from cnnarch.models.mobilenet_v1 import MobileNetV1
from cnnarch.testing import assert_stage_shapes
from tests.oracles.in_order import assert_same_outputs

SMALL_FORMS = {
    "relu": partial(MobileNetV1, width=0.1),
    "relu-small_images": partial(MobileNetV1, width=0.1, small_images=True),
    "relu6-same": partial(MobileNetV1, width=0.1, padding="same", activation="relu6"),
}


def on_meta(**options: object) -> cnnarch.MobileNetV1:
    with torch.device("meta"):
        return cnnarch.mobilenet_v1(**options)


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [m for m in model.modules() if isinstance(m, nn.Conv2d)]


def test_the_network_has_28_layers() -> None:
    """Section 3.2 counts depthwise and pointwise convolutions separately."""
    model = on_meta()
    assert len([m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]) == 28


def test_each_stage_has_its_own_stride() -> None:
    rows = on_meta().feature_info
    assert [r.stride for r in rows] == [2, 2, 4, 8, 16, 32]
    assert [r.name for r in rows] == ["conv1", "ds1", "ds2-3", "ds4-5", "ds6-11", "ds12-13"]


def test_strides_match_table_1_except_for_the_last_depthwise_row() -> None:
    """Table 1 lists stride 2 for the last depthwise layer but equal input and output sizes."""
    strides = [c.stride[0] for c in convolutions(on_meta()) if c.groups > 1]
    assert strides == [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    assert {c.stride for c in convolutions(on_meta()) if c.kernel_size == (1, 1)} == {(1, 1)}


def test_every_convolution_has_a_norm_and_a_relu() -> None:
    """Section 3.2: BatchNorm and ReLU follow all layers except the last."""
    leaves = [type(m) for m in on_meta().modules() if not any(m.children())]
    assert leaves[: 27 * 3] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 27
    assert all(c.bias is None for c in convolutions(on_meta()))


def test_norms_have_pytorchs_constants_and_eps_is_an_option() -> None:
    for options, eps in (({}, 1e-5), ({"norm_eps": 1e-3}, 1e-3)):
        norms = [m for m in on_meta(**options).modules() if isinstance(m, nn.BatchNorm2d)]
        assert {(m.eps, m.momentum) for m in norms} == {(eps, 0.1)}


@pytest.mark.parametrize(
    ("kind", "macs", "weights"), [("1x1", 94.86, 74.59), ("dw", 3.06, 1.06), ("fc", 0.18, 24.33)]
)
def test_the_fraction_of_each_layer_type_matches_table_2(
    kind: str, macs: float, weights: float
) -> None:
    """The 3x3 stem's row (1.19%) is excluded: even with it, the column sums to only 99.29%."""
    model = on_meta()

    def kind_of(layer: nn.Module) -> str:
        if isinstance(layer, nn.Linear):
            return "fc"
        return "1x1" if layer.kernel_size == (1, 1) else "dw" if layer.groups > 1 else "3x3"

    layers = {r: model.get_submodule(r.path) for r in summary(model).rows if r.macs}
    ours = [(r, layer.weight.numel()) for r, layer in layers.items() if kind_of(layer) == kind]
    all_weights = sum(layer.weight.numel() for layer in layers.values())
    share = 100 * sum(r.macs for r, _ in ours) / count_macs(model)
    assert share == pytest.approx(macs, abs=0.01)
    assert 100 * sum(n for _, n in ours) / all_weights == pytest.approx(weights, abs=0.01)


def test_output_matches_timm_with_the_constants_of_the_authors_checkpoints() -> None:
    ours = cnnarch.mobilenet_v1(num_classes=10, activation="relu6", norm_eps=1e-3, padding="same")
    theirs = timm.create_model("mobilenetv1_100", num_classes=10, bn_eps=1e-3, pad_type="same")
    assert_same_outputs(ours, theirs, (64, 64), (97, 70))


@pytest.mark.parametrize(
    ("width", "stem", "last"), [(1.4, 44, 1433), (0.3, 9, 307), (0.01, 1, 10), (1e-9, 1, 1)]
)
def test_any_width_rounds_down_to_at_least_one_channel(width: float, stem: int, last: int) -> None:
    """The unscaled widths are 32 and 1024 channels."""
    model = cnnarch.mobilenet_v1(width=width, num_classes=3)
    assert (model.feature_info[0].channels, model.num_features) == (stem, last)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize("side", [1, 33, 128, 448])
def test_any_resolution_works(side: int) -> None:
    images = torch.empty(2, 3, side, side + 3, device="meta")
    assert on_meta().eval()(images).shape == (2, 1000)


def test_small_images_give_a_4x4_map_and_keep_all_tensor_shapes() -> None:
    small, usual = on_meta(small_images=True), on_meta()
    assert_stage_shapes(small, {"stem": (32, 32, 32), "stages.4": (1024, 4, 4)}, (3, 32, 32))
    assert [r.stride for r in small.feature_info] == [1, 1, 1, 2, 4, 8]
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (small, usual)]
    assert shapes[0] == shapes[1]


def test_dropout_is_off_by_default() -> None:
    assert on_meta().head.dropout.p == 0
    assert on_meta(dropout=0.2).head.dropout.p == 0.2


def test_convolutions_use_he_initialization() -> None:
    """N(0, 2 / fan_out), where fan_out is 9 for depthwise and 1024 for pointwise kernels."""
    block = cnnarch.mobilenet_v1().stages[4][1]
    assert isinstance(block, DepthwiseSeparable)
    assert block.depthwise.conv.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    assert block.pointwise.conv.weight.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=0.05)


@pytest.mark.parametrize("width", [0, -0.5, float("nan"), float("inf"), "1.0"])
def test_a_width_out_of_range_is_rejected(width: object) -> None:
    with pytest.raises(ValueError, match=f"width must be a number above 0, got {width!r}"):
        cnnarch.mobilenet_v1(width=width)


def test_other_invalid_options_are_rejected() -> None:
    with pytest.raises(ValueError, match="activation must be one of 'relu', 'relu6', got 'swish'"):
        cnnarch.mobilenet_v1(activation="swish")
    with pytest.raises(ValueError, match="padding must be one of"):
        cnnarch.mobilenet_v1(padding="valid")
    with pytest.raises(ValueError, match="norm_eps must be a number above 0, got 0"):
        cnnarch.mobilenet_v1(norm_eps=0)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1.0"):
        cnnarch.mobilenet_v1(dropout=1.0)
