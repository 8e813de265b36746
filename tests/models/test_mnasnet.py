"""MnasNet against its paper (Tan et al., 2018) and torchvision."""

from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import MNASNet

import cnnarch
from cnnarch.blocks import SE, InvertedResidual
from cnnarch.models.mnasnet import A1, B1, SMALL, MnasNet
from cnnarch.testing import assert_close, assert_stage_shapes
from cnnarch.weights import WeightsError, port
from tests.oracles.libraries import randomize

SMALL_FORMS = {
    "squeeze": partial(MnasNet, SMALL),
    "b1": partial(MnasNet, B1, width=0.1),
    "small_images": partial(MnasNet, A1, width=0.1, small_images=True),
}
BUILDERS = cnnarch.list_models(family="mnasnet")


def on_meta(name: str = "mnasnet_a1", **options: object) -> MnasNet:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


def firsts(model: MnasNet) -> list[nn.Sequential]:
    return [stage[0].branch for stage in model.stages]


def test_a1_has_the_rows_of_figure_7() -> None:
    model = on_meta()
    assert [len(stage) for stage in model.stages] == [1, 2, 3, 4, 2, 3, 1]
    assert [r.channels for r in model.feature_info] == [32, 16, 24, 40, 80, 112, 160, 320]
    assert [r.stride for r in model.feature_info] == [2, 2, 4, 8, 16, 16, 32, 32]
    assert [b.depthwise.conv.kernel_size[0] for b in firsts(model)] == [3, 3, 5, 3, 3, 5, 3]
    widened = [b.depthwise.conv.groups / b[0].conv.in_channels for b in firsts(model)]
    assert widened == [1, 6, 3, 6, 6, 6, 6]


def test_a1_has_squeeze_and_excitation_in_three_stages() -> None:
    """Fig. 7(a): "SE" after the two rows with 5x5 kernels and the row with 112 filters."""
    with_se = [all(hasattr(block.branch, "se") for block in stage) for stage in on_meta().stages]
    assert with_se == [False, False, True, False, True, True, False]
    squeezes = [m.reduce.out_channels for m in on_meta().modules() if isinstance(m, SE)]
    assert squeezes == [6, 10, 10, 20, 28, 28, 40, 40]  # a quarter of each block's input


def test_b1_has_no_squeeze_and_excitation_and_other_rows() -> None:
    model = on_meta("mnasnet1_0")
    assert not any(isinstance(m, SE) for m in model.modules())
    assert [len(stage) for stage in model.stages] == [1, 3, 3, 3, 2, 4, 1]
    assert [b.depthwise.conv.kernel_size[0] for b in firsts(model)] == [3, 3, 5, 5, 3, 5, 3]


def test_widths_are_scaled_as_in_torchvision() -> None:
    stems = {name: on_meta(name).feature_info[0].channels for name in BUILDERS}
    assert stems == {
        "mnasnet_a1": 32,
        "mnasnet_small": 8,
        "mnasnet0_5": 16,
        "mnasnet0_75": 24,
        "mnasnet1_0": 32,
        "mnasnet1_3": 40,  # 41.6, rounded down by 4%
    }
    assert {on_meta(name).num_features for name in BUILDERS} == {1280}
    assert on_meta(width=2.0).num_features == 1280


@torch.no_grad()
def test_output_matches_torchvision_at_another_width() -> None:
    theirs = MNASNet(0.35, num_classes=10).eval()
    randomize(theirs)
    ours = cnnarch.mnasnet1_0(num_classes=10, width=0.35).eval()
    ours.load_state_dict(port(theirs.state_dict(), ours))
    images = torch.randn(2, 3, 97, 70)
    assert_close(ours(images), theirs(images))


def test_scaling_does_not_change_the_tables() -> None:
    on_meta(width=0.5, small_images=True)
    assert A1.stem == 32
    assert A1.rows["mbconv1"] == (6, 3, 24, 2, 2, False)


def test_the_momentum_is_torchvisions_and_an_option() -> None:
    (theirs,) = {m.momentum for m in MNASNet(0.1).modules() if isinstance(m, nn.BatchNorm2d)}
    (ours,) = {m.momentum for m in on_meta().modules() if isinstance(m, nn.BatchNorm2d)}
    assert ours == pytest.approx(theirs, rel=1e-9)
    norms = [m for m in on_meta(norm_momentum=0.01).modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.momentum, m.eps) for m in norms} == {(0.01, 1e-5)}


def test_torchvisions_first_version_is_rejected() -> None:
    """Before version 2, the stem of every width had 32 channels."""
    tensors = MNASNet(0.5).state_dict()
    tensors["layers.0.weight"] = torch.zeros(32, 3, 3, 3)
    with pytest.raises(WeightsError, match=r"stem.conv.weight \(32, 3, 3, 3\)"):
        port(tensors, on_meta("mnasnet0_5"))


def test_all_blocks_use_relu() -> None:
    blocks = [m for m in on_meta().modules() if isinstance(m, InvertedResidual)]
    assert {type(b.branch.depthwise.act) for b in blocks} == {nn.ReLU}


@pytest.mark.parametrize("name", BUILDERS)
def test_small_images_give_a_4x4_map_and_keep_all_tensor_shapes(name: str) -> None:
    small, usual = on_meta(name, small_images=True), on_meta(name)
    channels = usual.feature_info[-1].channels
    assert_stage_shapes(small, {"stages.6": (channels, 4, 4)}, (3, 32, 32))
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (small, usual)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("side", [1, 33, 320])
def test_any_resolution_works(side: int) -> None:
    images = torch.empty(2, 3, side, side + 3, device="meta")
    assert on_meta().eval()(images).shape == (2, 1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be a number above 0, got 0"),
        ({"width": float("nan")}, "width must be a number above 0, got nan"),
        ({"norm_momentum": 0}, r"norm_momentum must be in \(0, 1\], got 0"),
        ({"norm_momentum": 1.5}, r"norm_momentum must be in \(0, 1\], got 1.5"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        on_meta(**options)
