"""ResNet-C and ResNet-D against the paper (He et al., 2018) and timm."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import Bottleneck, Residual, projection
from cnnarch.models.resnet_d import ResNetD
from cnnarch.testing import assert_macs, assert_parameters

SMALL_FORMS = {"resnet_d": partial(ResNetD, Bottleneck, (1, 2, 1, 1), widths=(4, 4, 8, 8))}

NAMES = cnnarch.list_models(family="resnet_d")


def on_meta(name: str, **options: object) -> cnnarch.ImageClassifier:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


@pytest.mark.parametrize("name", NAMES)
def test_the_stem_has_three_3x3_convolutions_of_32_32_and_64_channels(name: str) -> None:
    """Fig. 2b."""
    convs = [m for m in on_meta(name).stem.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.kernel_size[0], c.stride[0], c.out_channels) for c in convs] == [
        (3, 2, 32),
        (3, 1, 32),
        (3, 1, 64),
    ]


def test_c_adds_only_the_weights_of_the_stem_to_resnet50() -> None:
    """Four norms' scales and shifts and three kernels replace one norm and a 7x7 kernel."""
    stem = 9 * (3 * 32 + 32 * 32 + 32 * 64) + 2 * (32 + 32 + 64)
    assert_parameters(on_meta("resnet50c"), 25_557_032 + stem - (49 * 3 * 64 + 2 * 64))


def test_d_pools_before_strided_shortcuts_and_adds_nothing() -> None:
    """Fig. 2c: a 2x2 average pool with stride 2, then a 1x1 convolution with stride 1."""
    model = on_meta("resnet50d")
    shortcuts = [stage[1 if i == 0 else 0].shortcut for i, stage in enumerate(model.stages)]
    pools = [getattr(shortcut, "pool", None) for shortcut in shortcuts]
    assert pools[0] is None
    assert {(p.kernel_size, p.stride, p.ceil_mode) for p in pools[1:]} == {(2, 2, True)}
    assert {s.project.conv.stride for s in shortcuts} == {(1, 1)}
    c = on_meta("resnet50c")
    assert_parameters(model, sum(p.numel() for p in c.parameters()))
    assert_macs(model, cnnarch.analysis.count_macs(c), (3, 224, 224))


def test_c_has_strided_projections() -> None:
    strides = [stage[0].shortcut.conv.stride for stage in list(on_meta("resnet50c").stages)[1:]]
    assert strides == [(2, 2)] * 3


def test_the_shortcut_reads_every_pixel() -> None:
    """A 1x1 convolution with stride 2 has no gradient at three of four pixels."""
    for make, share in ((None, 1.0), (projection, 0.25)):
        chosen = {} if make is None else {"make_shortcut": make}
        model = ResNetD(Residual, (1, 1, 1, 1), widths=(4, 8, 8, 8), **chosen)
        x = torch.randn(1, 4, 8, 8, requires_grad=True)
        model.stages[1][0].shortcut.eval()(x).sum().backward()
        assert (x.grad != 0).any(1).float().mean() == share


def test_the_3x3_has_the_stride() -> None:
    for stage in list(on_meta("resnet50d").stages)[1:]:
        assert [c.conv.stride[0] for c in stage[0].branch] == [1, 2, 1]


@pytest.mark.parametrize("name", ["resnet18d", "resnet50c"])
def test_small_images_give_a_4x4_map(name: str) -> None:
    maps = (
        on_meta(name, small_images=True)
        .eval()
        .forward_stages(torch.empty(1, 3, 32, 32, device="meta"))
    )
    assert [m.shape[-1] for m in maps] == [32, 32, 16, 8, 4]
