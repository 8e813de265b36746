"""SE-ResNet, SE-ResNeXt and SENet-154 against the paper (Hu et al., 2017) and timm."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import SE, Bottleneck, Residual
from cnnarch.models.resnet_cifar import CifarResNet
from cnnarch.models.se_resnet import SEResNet, squeeze_excite
from cnnarch.models.senet import HalvedBottleneck, SENet
from cnnarch.testing import assert_close, assert_parameters
from tests.oracles.in_order import assert_same_outputs

DEPTHS, WIDTHS = (1, 2, 1, 1), (4, 8, 16, 32)
SE_RESNET = partial(SEResNet, depths=DEPTHS, widths=WIDTHS, reduction=4)
SENET = partial(SENet, DEPTHS, 4, (4, 8, 12, 16))
SMALL_FORMS = {
    "residual": partial(SE_RESNET, Residual),
    "residual-small_images": partial(SE_RESNET, Residual, small_images=True),
    "bottleneck": partial(SE_RESNET, Bottleneck),
    "bottleneck-padded_pool": partial(SE_RESNET, Bottleneck, stride_in_1x1=False, ceil_pool=False),
    "grouped": partial(SE_RESNET, Bottleneck, groups=2, group_width=2),
    "cifar": partial(CifarResNet, 1, squeeze_excite),
    "senet": SENET,
    "senet-small_images": partial(SENET, small_images=True),
    "senet-padded_pool": partial(SENET, ceil_pool=False),
}

NAMES = [*cnnarch.list_models(family="se_resnet"), *cnnarch.list_models(family="senet")]
BLOCKS = (Residual, Bottleneck, HalvedBottleneck)


def on_meta(name: str, **options: object) -> cnnarch.ImageClassifier:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    return (m for m in model.modules() if isinstance(m, BLOCKS))


@pytest.mark.parametrize("name", NAMES)
def test_every_branch_ends_with_se_of_reduction_16_after_its_last_norm(name: str) -> None:
    model = on_meta(name)
    assert len([*blocks(model)]) == sum(isinstance(m, SE) for m in model.modules()) > 0
    for block in blocks(model):
        *_, last, attention = block.branch
        assert [name for name, _ in last.named_children()] == ["conv", "norm"]
        assert isinstance(attention, SE)
        assert attention.reduce.in_channels == block.out_channels == attention.expand.out_channels
        assert attention.reduce.out_channels == block.out_channels // 16
        assert attention.reduce.bias is not None
        assert attention.expand.bias is not None


def test_the_gate_scales_the_branch_and_not_the_shortcut() -> None:
    """With gates of 0, a block returns its input; with gates of 1, it equals a block without SE."""
    block = Residual(8, 8, attention=lambda channels: SE(channels, 2)).eval()
    x = torch.randn(1, 8, 5, 5)
    gates = block.branch.attention.expand
    nn.init.zeros_(gates.weight)
    nn.init.constant_(gates.bias, -1e4)
    assert torch.equal(block(x), x.relu())
    nn.init.constant_(gates.bias, 1e4)
    without = block.branch[1](block.branch[0](x))
    assert torch.equal(block(x), (without + x).relu())


def strides_of_first_blocks(model: cnnarch.ImageClassifier) -> set[tuple[int, ...]]:
    branches = [next(blocks(stage)).branch for stage in list(model.stages)[1:]]
    return {tuple(c.conv.stride[0] for c in list(b)[:-1]) for b in branches}


def test_in_se_resnet_the_first_1x1_has_the_stride_as_in_the_released_models() -> None:
    assert strides_of_first_blocks(on_meta("se_resnet50")) == {(2, 1, 1)}
    assert strides_of_first_blocks(on_meta("se_resnet50", stride_in_1x1=False)) == {(1, 2, 1)}
    assert strides_of_first_blocks(on_meta("se_resnet18")) == {(2, 1)}


def test_in_se_resnext_and_senet154_the_3x3_has_the_stride() -> None:
    assert strides_of_first_blocks(on_meta("se_resnext50_32x4d")) == {(1, 2, 1)}
    assert strides_of_first_blocks(on_meta("senet154")) == {(1, 2, 1)}


def test_se_resnext_has_32_groups_of_4_channels_that_double_per_stage() -> None:
    for stage, width in zip(on_meta("se_resnext50_32x4d").stages, (4, 8, 16, 32), strict=True):
        for block in blocks(stage):
            assert block.branch.conv.conv.groups == 32
            assert block.branch.conv.conv.out_channels == 32 * width


def test_senet154_has_154_layers_with_weights() -> None:
    """Three layers in the stem, three in each of 3 + 8 + 36 + 3 blocks, and the classifier."""
    model = on_meta("senet154")
    convs = [
        name
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d) and "attention" not in name and "shortcut" not in name
    ]
    assert len(convs) + 1 == 154


def test_senet154_has_64_groups_and_halves_the_width_of_the_first_1x1() -> None:
    for stage, width in zip(on_meta("senet154").stages, (4, 8, 16, 32), strict=True):
        for block in blocks(stage):
            assert block.branch.reduce.conv.out_channels == 64 * width // 2
            assert block.branch.conv.conv.out_channels == 64 * width
            assert block.branch.conv.conv.groups == 64


def test_senet154_downsamples_with_3x3_shortcuts() -> None:
    shortcuts = [b.shortcut.conv for b in blocks(on_meta("senet154")) if any(b.shortcut.children())]
    assert [(c.kernel_size[0], c.stride[0]) for c in shortcuts] == [(1, 1), (3, 2), (3, 2), (3, 2)]


def test_senet154_has_a_stem_of_three_3x3_convolutions_and_dropout_of_0_2() -> None:
    model = on_meta("senet154")
    convs = [m for m in model.stem.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.kernel_size[0], c.stride[0], c.out_channels) for c in convs] == [
        (3, 2, 64),
        (3, 1, 64),
        (3, 1, 128),
    ]
    assert model.head.dropout.p == 0.2
    assert on_meta("senet154", dropout=0.0).head.dropout.p == 0.0


def test_norms_have_the_usual_constants() -> None:
    for name in ("se_resnet18", "se_resnext50_32x4d", "senet154", "se_resnet110_cifar"):
        norms = [m for m in on_meta(name).modules() if isinstance(m, nn.BatchNorm2d)]
        assert {(n.eps, n.momentum) for n in norms} == {(1e-5, 0.1)}


def test_a_shallow_senet_matches_timm_with_the_options_of_senet154() -> None:
    theirs = timm.models.senet.SENet(
        timm.models.senet.SEBottleneck,
        (1, 2, 1, 1),
        groups=64,
        reduction=16,
        downsample_kernel_size=3,
        downsample_padding=1,
        inplanes=128,
        input_3x3=True,
    )
    assert_same_outputs(SENet((1, 2, 1, 1)), theirs, (64, 64), (39, 53))


@pytest.mark.parametrize("depth", [18, pytest.param(34, marks=pytest.mark.slow)])
def test_timms_basic_block_differs_only_by_a_relu_before_the_gate(depth: int) -> None:
    """The ReLU before the gate is in timm but not in the papers. With it, the outputs match."""
    ours = cnnarch.get_model(f"se_resnet{depth}")
    for block in blocks(ours):
        block.branch.conv2.act = nn.ReLU()
    theirs = timm.create_model(f"legacy_seresnet{depth}")
    assert_same_outputs(ours, theirs, (64, 64), (75, 53), (3, 3))


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 37, 111, 112, 113])
def test_the_pool_matches_caffe(side: int) -> None:
    """A 3x3 window starts at every second pixel: the output has ceil((side - 3) / 2) + 1 rows."""
    pool = on_meta("se_resnet18").stages[0][0]
    rows = -(-(side - 3) // 2) + 1
    x = torch.randn(1, 1, side, side)
    if rows < 1:
        with pytest.raises(RuntimeError, match="too small"):
            pool(x)
        return
    expected = [
        [x[0, 0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max() for j in range(rows)]
        for i in range(rows)
    ]
    assert torch.equal(pool(x)[0, 0], torch.tensor(expected))


@pytest.mark.parametrize("name", ["se_resnet18", "senet154"])
def test_only_the_pool_needs_three_pixels(name: str) -> None:
    assert on_meta(name).min_input_size == 3
    assert on_meta(name, small_images=True).min_input_size == 1
    assert on_meta(name, ceil_pool=False).min_input_size == 1
    for options in ({"small_images": True}, {"ceil_pool": False}):
        model = on_meta(name, **options).eval()
        assert model(torch.empty(1, 3, 1, 7, device="meta")).shape == (1, 1000)
    with pytest.raises(ValueError, match="at least 3x3 pixels, got 2x9"):
        on_meta(name)(torch.empty(1, 3, 2, 9, device="meta"))


@pytest.mark.parametrize("name", ["se_resnet18", "se_resnext50_32x4d", "senet154"])
def test_small_images_give_a_4x4_map(name: str) -> None:
    model = on_meta(name, small_images=True).eval()
    maps = model.forward_stages(torch.empty(1, 3, 32, 32, device="meta"))
    assert [m.shape[-1] for m in maps] == [32, 32, 16, 8, 4]


def test_the_pool_is_correct_in_onnx_at_odd_sizes(tmp_path: Path) -> None:
    """Some sizes differ from the size used in the export."""
    model = cnnarch.se_resnet18()
    until_pool = nn.Sequential(model.stem, model.stages[0][0]).eval()
    path = str(tmp_path / "pool.onnx")
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    traced = (torch.randn(1, 3, 64, 64),)
    torch.onnx.export(until_pool, traced, path, dynamo=True, dynamic_shapes=(sides,), verbose=False)
    session = onnxruntime.InferenceSession(path)
    for size in ((64, 64), (77, 90), (3, 5)):
        images = torch.randn(1, 3, *size)
        (pooled,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        with torch.no_grad():
            assert_close(torch.from_numpy(np.asarray(pooled)), until_pool(images), 1e-4)


def test_reduction_sets_the_squeeze_width_and_the_parameter_count() -> None:
    """A block of C channels has 2 C^2 / r weights (eq. 5) and C / r + C biases."""
    widths = [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
    for r in (2, 4, 8, 16, 32):
        added = sum(2 * c * c // r + c // r + c for c in widths)
        assert_parameters(on_meta("se_resnet50", reduction=r), 25_557_032 + added)
    with pytest.raises(ValueError, match="reduction must be an integer of at least 1, got 0"):
        on_meta("se_resnet50", reduction=0)
    with pytest.raises(ValueError, match="squeeze_channels must be an integer of at least 1"):
        on_meta("se_resnet18", reduction=128)


def test_se_adds_the_parameters_counted_by_hand_to_the_cifar_network() -> None:
    """There are 18 blocks for each of 16, 32 and 64 channels, with squeeze widths of 1, 2 and 4."""
    added = 18 * sum(2 * c * s + c + s for c, s in ((16, 1), (32, 2), (64, 4)))
    assert_parameters(on_meta("se_resnet110_cifar"), 1_727_962 + added)


def test_networks_that_are_not_in_the_paper_are_marked() -> None:
    for name in ("se_resnet18", "se_resnet34"):
        assert any("not in the paper" in d for d in cnnarch.get_card(name).departs)
    assert any("pre-activation" in d for d in cnnarch.get_card("se_resnet110_cifar").departs)


def test_stride_in_1x1_requires_a_1x1_convolution() -> None:
    with pytest.raises(ValueError, match="requires Bottleneck blocks, got Residual"):
        on_meta("se_resnet18", stride_in_1x1=True)
    assert on_meta("se_resnet18", stride_in_1x1=False).num_classes == 1000


def test_other_groups_can_be_passed_to_the_class() -> None:
    model = SEResNet(Bottleneck, (1, 1, 1, 1), 8, 16, num_classes=2).eval()
    widths = [b.branch.conv.conv.out_channels for b in blocks(model)]
    assert widths == [128, 256, 512, 1024]
    assert model(torch.randn(1, 3, 40, 40)).shape == (1, 2)
