"""MobileOne against its paper (Vasu et al., 2022) and the names in the authors' repository."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import SE, RepConv
from cnnarch.models.mobileone import MobileOne, MobileOneRow, MobileOneStage
from cnnarch.testing import assert_stage_shapes
from cnnarch.weights import export, port

SMALL_STAGES = (
    MobileOneStage(1, 2, 4),
    MobileOneStage(2, 2, 8),
    MobileOneStage(1, 2, 16),
    MobileOneStage(1, 1, 16),
    MobileOneStage(1, 2, 16),
)
SMALL = MobileOneRow((1.0,) * 5, k=2, se=True)
SMALL_FORMS = {"mobileone": partial(MobileOne, SMALL, SMALL_STAGES)}
NAMES = [f"mobileone_s{i}" for i in range(5)]


def on_meta(name: str = "mobileone_s0", **options: object) -> MobileOne:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("mobileone_s0", [48, 48, 128, 256, 256, 1024]),
        ("mobileone_s1", [64, 96, 192, 512, 512, 1280]),
        ("mobileone_s2", [64, 96, 256, 640, 640, 2048]),
        ("mobileone_s3", [64, 128, 320, 768, 768, 2048]),
        ("mobileone_s4", [64, 192, 448, 896, 896, 2048]),
    ],
)
def test_stages_are_those_of_the_paper(name: str, widths: list[int]) -> None:
    """Widths are 64, 128, 256, 256 and 512 times alpha; the stem has at most 64 channels."""
    model = on_meta(name)
    assert [row.channels for row in model.feature_info] == widths
    assert [row.stride for row in model.feature_info] == [2, 4, 8, 16, 16, 32]
    assert [len(stage) for stage in model.stages] == [2, 8, 5, 5, 1]


@pytest.mark.parametrize("name", NAMES)
def test_only_s0_has_four_branches_of_each_kind(name: str) -> None:
    convs = [m for m in on_meta(name).modules() if isinstance(m, RepConv)]
    counts = [sum(b.startswith("conv") for b, _ in conv.named_children()) for conv in convs]
    assert counts == [1] + [4 if name.endswith("s0") else 1] * 42
    sizes = [conv.conv1.conv.kernel_size[0] for conv in convs]
    assert sizes == [3] + [3, 1] * 21
    assert [hasattr(conv, "pointwise") for conv in convs] == [size == 3 for size in sizes]


def test_layers_add_their_input_if_the_shape_is_unchanged() -> None:
    model = on_meta("mobileone_s1")
    without = [
        name.removesuffix(".conv")
        for name, m in model.named_modules()
        if isinstance(m, RepConv) and not hasattr(m, "identity")
    ]
    assert without == [
        "stem",
        *("stages.0.0.depthwise", "stages.0.0.pointwise"),
        *("stages.1.0.depthwise", "stages.1.0.pointwise"),
        *("stages.2.0.depthwise", "stages.2.0.pointwise"),
        *("stages.4.0.depthwise", "stages.4.0.pointwise"),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_only_the_last_two_stages_of_s4_have_squeeze_and_excitation(name: str) -> None:
    squeezes = {n: m for n, m in on_meta(name).named_modules() if isinstance(m, SE)}
    assert [n.split(".")[1] for n in squeezes] == ["3"] * 10 * name.endswith("s4") + ["4"] * (
        2 * name.endswith("s4")
    )
    for squeeze in squeezes.values():
        assert squeeze.reduce.in_channels == 16 * squeeze.reduce.out_channels


def test_squeeze_and_excitation_is_applied_to_the_sum_of_the_branches() -> None:
    layer = on_meta("mobileone_s4").get_submodule("stages.4.0.pointwise")
    assert [name for name, _ in layer.named_children()] == ["conv", "attention", "act"]


def test_without_branches_each_layer_is_one_convolution() -> None:
    model = on_meta(deploy=True)
    kinds = {type(m) for m in model.modules() if not any(m.children())}
    assert kinds == {*(nn.Conv2d, nn.ReLU, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Dropout, nn.Linear)}
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 43
    assert all(m.bias is not None for m in convolutions)


@pytest.mark.parametrize("deploy", [False, True])
def test_small_images_give_a_4x4_map_and_keep_all_tensor_shapes(deploy: bool) -> None:
    small, usual = on_meta(small_images=True, deploy=deploy), on_meta(deploy=deploy)
    assert [r.stride for r in small.feature_info] == [1, 1, 2, 4, 4, 8]
    assert_stage_shapes(small, {"stages.4": (1024, 4, 4)}, (3, 32, 32))
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (small, usual)]
    assert shapes[0] == shapes[1]


def test_tensors_are_named_as_in_the_authors_files() -> None:
    """https://github.com/apple/ml-mobileone, "unfused" and not; stages 4 and 5 are one stage."""
    branched = MobileOne(SMALL, SMALL_STAGES, num_classes=2)
    theirs = export(branched, "mobileone")
    layer = [name for name in theirs if name.startswith("stage3.2.") and "bn" not in name]
    assert [name for name in layer if name.endswith("weight")] == [
        *("stage3.2.rbr_conv.0.conv.weight", "stage3.2.rbr_conv.1.conv.weight"),
        *("stage3.2.rbr_scale.conv.weight", "stage3.2.rbr_skip.weight"),
        *("stage3.2.se.reduce.weight", "stage3.2.se.expand.weight"),
    ]
    stages = {".".join(name.split(".")[:2]) for name in theirs if name.startswith("stage")}
    assert {name for name in stages if "rbr" not in name} == {
        *("stage1.0", "stage1.1"),
        *("stage2.0", "stage2.1", "stage2.2", "stage2.3"),
        *("stage3.0", "stage3.1", "stage3.2", "stage3.3"),
        *("stage4.0", "stage4.1"),
    }
    assert port(theirs, branched).keys() == branched.state_dict().keys()
    plain = MobileOne(SMALL, SMALL_STAGES, num_classes=2, deploy=True)
    theirs = export(plain, "mobileone")
    assert list(theirs)[:4] == [
        *("stage0.reparam_conv.weight", "stage0.reparam_conv.bias"),
        *("stage1.0.reparam_conv.weight", "stage1.0.reparam_conv.bias"),
    ]
    assert port(theirs, plain).keys() == plain.state_dict().keys()


@pytest.mark.parametrize("side", [1, 33, 320])
def test_any_resolution_works(side: int) -> None:
    images = torch.empty(2, 3, side, side + 3, device="meta")
    assert on_meta().eval()(images).shape == (2, 1000)


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="alphas must have 5 entries"):
        MobileOne(MobileOneRow((1.0, 2.0)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alpha must be a number above 0, got 0"):
        MobileOne(MobileOneRow((1.0, 1.0, 1.0, 1.0, 0)))
    with pytest.raises(ValueError, match="branches must be an integer of at least 1, got 0"):
        MobileOne(MobileOneRow((1.0,) * 5, k=0))
    with pytest.raises(ValueError, match="deploy must be True or False, got 1"):
        on_meta(deploy=1)
