"""SK-ResNet against the paper (Li et al., 2019) and timm."""

from functools import partial

import pytest
import torch

import cnnarch
from cnnarch.blocks import SelectiveKernel
from cnnarch.models.sk_resnet import SKBottleneck, SKResidual, SKResNet

SMALL_FORMS = {
    "bottleneck": partial(SKResNet, SKBottleneck, (1, 1, 1, 1), 2, 2, widths=(4, 4, 8, 8)),
    "residual": partial(SKResNet, SKResidual, (1, 1, 1, 1), widths=(4, 4, 8, 8)),
}


def kernels(name: str) -> list[list[SelectiveKernel]]:
    """Return the selective kernels of each stage."""
    with torch.device("meta"):
        stages = cnnarch.get_model(name).stages
    return [[m for m in stage.modules() if isinstance(m, SelectiveKernel)] for stage in stages]


@pytest.mark.parametrize(
    ("name", "depths"),
    [
        ("skresnet18", [2, 2, 2, 2]),
        ("skresnet34", [3, 4, 6, 3]),
        ("skresnext50_32x4d", [3, 4, 6, 3]),
    ],
)
def test_every_block_has_one_selective_kernel(name: str, depths: list[int]) -> None:
    assert [len(stage) for stage in kernels(name)] == depths


def test_sknet50_is_resnext50_with_the_attention_of_table_1() -> None:
    """M = 2 paths, G = 32 groups, and d = max(C / r, L) with r = 16 and L = 32 (eq. 4)."""
    stages = zip(kernels("skresnext50_32x4d"), (128, 256, 512, 1024), (32, 32, 32, 64), strict=True)
    for stage, width, squeeze in stages:
        for kernel in stage:
            assert not kernel.split
            assert [path.conv.groups for path in kernel.paths] == [32, 32]
            assert {path.conv.out_channels for path in kernel.paths} == {width}
            assert kernel.attention.reduce.conv.out_channels == squeeze


def test_the_basic_networks_split_their_inputs() -> None:
    stages = zip(kernels("skresnet18"), (64, 128, 256, 512), (16, 16, 32, 64), strict=True)
    for stage, width, squeeze in stages:
        assert all(kernel.split for kernel in stage)
        assert [path.conv.in_channels for path in stage[-1].paths] == [width // 2] * 2
        assert stage[-1].attention.reduce.conv.out_channels == squeeze


def test_the_selective_kernel_has_the_stride() -> None:
    for name in ("skresnet18", "skresnext50_32x4d"):
        for stage in kernels(name)[1:]:
            assert [path.conv.stride for path in stage[0].paths] == [(2, 2), (2, 2)]


def test_small_images_give_a_4x4_map() -> None:
    with torch.device("meta"):
        model = cnnarch.skresnet18(small_images=True).eval()
        maps = model.forward_stages(torch.empty(1, 3, 32, 32))
    assert [m.shape[-1] for m in maps] == [32, 32, 16, 8, 4]
