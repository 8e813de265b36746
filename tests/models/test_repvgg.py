"""RepVGG against its paper (Ding et al., 2021) and the names in the authors' repository."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import RepConv, RepConvAct
from cnnarch.models.repvgg import RepVGG, RepVGGRow
from cnnarch.testing import assert_stage_shapes
from cnnarch.weights import export, port

SMALL = RepVGGRow((1, 3, 1, 1), 0.0625, 0.03125)  # widths 4, 8, 16, 16
SMALL_FORMS = {"repvgg": partial(RepVGG, SMALL, 2)}


def on_meta(name: str = "repvgg_a0", **options: object) -> RepVGG:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


def layers(model: nn.Module) -> list[RepConvAct]:
    return [module for module in model.modules() if isinstance(module, RepConvAct)]


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("repvgg_a0", [48, 48, 96, 192, 1280]),
        ("repvgg_a1", [64, 64, 128, 256, 1280]),
        ("repvgg_a2", [64, 96, 192, 384, 1408]),
        ("repvgg_b0", [64, 64, 128, 256, 1280]),
        ("repvgg_b1", [64, 128, 256, 512, 2048]),
        ("repvgg_b2", [64, 160, 320, 640, 2560]),
        ("repvgg_b3", [64, 192, 384, 768, 2560]),
    ],
)
def test_widths_and_layers_are_those_of_tables_2_and_3(name: str, widths: list[int]) -> None:
    """Widths are 64a, 128a, 256a and 512b; the first stage has at most 64 channels."""
    model = on_meta(name)
    assert [row.channels for row in model.feature_info] == widths
    assert [row.stride for row in model.feature_info] == [2, 4, 8, 16, 32]
    expected = [2, 4, 14, 1] if "_a" in name else [4, 6, 16, 1]
    assert [len(stage) for stage in model.stages] == expected


@pytest.mark.parametrize("name", ["repvgg_b1g4", "repvgg_b2g4", "repvgg_b3g4"])
def test_the_3rd_5th_to_27th_layers_have_four_groups(name: str) -> None:
    grouped = [
        number
        for number, layer in enumerate(layers(on_meta(name)), 1)
        if {m.groups for m in layer.modules() if isinstance(m, nn.Conv2d)} == {4}
    ]
    assert grouped == list(range(3, 28, 2))


@pytest.mark.parametrize("options", [{}, {"in_channels": 48, "small_images": True}])
def test_layers_add_their_input_except_the_first_of_each_stage(options: dict[str, int]) -> None:
    """Not in the stem either, even if the image has its number of channels."""
    model = on_meta(**options)
    names = [name for name, m in model.named_modules() if isinstance(m, RepConv)]
    without = [n for n in names if not hasattr(model.get_submodule(n), "identity")]
    assert without == ["stem.conv", *(f"stages.{i}.0.conv" for i in range(4))]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 2 * 22 + 22 - 5


def test_without_branches_it_is_a_plain_stack_of_3x3_convolutions() -> None:
    model = on_meta(deploy=True)
    leaves = [m for m in model.modules() if not any(m.children())]
    assert [type(m) for m in leaves[:44]] == [nn.Conv2d, nn.ReLU] * 22
    assert [type(m) for m in leaves[44:]] == [
        *(nn.AdaptiveAvgPool2d, nn.Flatten, nn.Dropout, nn.Linear)
    ]
    convolutions = [m for m in leaves if isinstance(m, nn.Conv2d)]
    assert all(m.kernel_size == (3, 3) and m.bias is not None for m in convolutions)


@pytest.mark.parametrize("deploy", [False, True])
def test_small_images_give_a_4x4_map_and_keep_all_tensor_shapes(deploy: bool) -> None:
    small, usual = on_meta(small_images=True, deploy=deploy), on_meta(deploy=deploy)
    assert [r.stride for r in small.feature_info] == [1, 1, 2, 4, 8]
    assert_stage_shapes(small, {"stages.3": (1280, 4, 4)}, (3, 32, 32))
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (small, usual)]
    assert shapes[0] == shapes[1]


def test_tensors_are_named_as_in_the_authors_files() -> None:
    """https://github.com/DingXiaoH/RepVGG, "train" and "deploy"."""
    theirs = export(RepVGG(SMALL, num_classes=2), "repvgg")
    assert [name for name in theirs if name.endswith(".weight")] == [
        *("stage0.rbr_dense.conv.weight", "stage0.rbr_dense.bn.weight"),
        *("stage0.rbr_1x1.conv.weight", "stage0.rbr_1x1.bn.weight"),
        *("stage1.0.rbr_dense.conv.weight", "stage1.0.rbr_dense.bn.weight"),
        *("stage1.0.rbr_1x1.conv.weight", "stage1.0.rbr_1x1.bn.weight"),
        *("stage2.0.rbr_dense.conv.weight", "stage2.0.rbr_dense.bn.weight"),
        *("stage2.0.rbr_1x1.conv.weight", "stage2.0.rbr_1x1.bn.weight"),
        *("stage2.1.rbr_dense.conv.weight", "stage2.1.rbr_dense.bn.weight"),
        *("stage2.1.rbr_1x1.conv.weight", "stage2.1.rbr_1x1.bn.weight"),
        "stage2.1.rbr_identity.weight",
        *("stage2.2.rbr_dense.conv.weight", "stage2.2.rbr_dense.bn.weight"),
        *("stage2.2.rbr_1x1.conv.weight", "stage2.2.rbr_1x1.bn.weight"),
        "stage2.2.rbr_identity.weight",
        *("stage3.0.rbr_dense.conv.weight", "stage3.0.rbr_dense.bn.weight"),
        *("stage3.0.rbr_1x1.conv.weight", "stage3.0.rbr_1x1.bn.weight"),
        *("stage4.0.rbr_dense.conv.weight", "stage4.0.rbr_dense.bn.weight"),
        *("stage4.0.rbr_1x1.conv.weight", "stage4.0.rbr_1x1.bn.weight"),
        "linear.weight",
    ]
    plain = RepVGG(SMALL, num_classes=2, deploy=True)
    theirs = export(plain, "repvgg")
    assert list(theirs)[:4] == [
        *("stage0.rbr_reparam.weight", "stage0.rbr_reparam.bias"),
        *("stage1.0.rbr_reparam.weight", "stage1.0.rbr_reparam.bias"),
    ]
    assert port(theirs, plain).keys() == plain.state_dict().keys()


@pytest.mark.parametrize("side", [1, 33, 320])
def test_any_resolution_works(side: int) -> None:
    images = torch.empty(2, 3, side, side + 3, device="meta")
    assert on_meta().eval()(images).shape == (2, 1000)


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="groups must be an integer of at least 1, got 0"):
        RepVGG(SMALL, 0)
    with pytest.raises(ValueError, match="a must be a number above 0, got -1"):
        RepVGG(RepVGGRow((1, 1, 1, 1), -1, 1))
    with pytest.raises(ValueError, match="b must be a number above 0, got 0"):
        RepVGG(RepVGGRow((1, 1, 1, 1), 1, 0))
    with pytest.raises(ValueError, match="layers of a stage must be an integer of at least 1"):
        RepVGG(RepVGGRow((1, 1, 0, 1), 1, 1))
    with pytest.raises(ValueError, match="deploy must be True or False, got 'yes'"):
        on_meta(deploy="yes")
