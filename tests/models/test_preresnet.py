"""Pre-activation ResNet against its paper (He et al., 2016) and pytorchcv."""

from functools import partial

import pytest
import timm
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import PreActBottleneck
from cnnarch.models.preresnet import PreResNet

SMALL_FORMS = {
    "preresnet": partial(PreResNet, (1, 2, 1, 1), (4, 6, 8, 12)),
    "stride_in_3x3": partial(PreResNet, (1, 1, 1, 1), (4, 6, 8, 12), stride_in_1x1=False),
    "small_images": partial(PreResNet, (1, 1, 1, 1), (4, 4, 6, 6), small_images=True),
}


@pytest.mark.parametrize(
    ("depth", "depths"),
    [(50, [3, 4, 6, 3]), (101, [3, 4, 23, 3]), (152, [3, 8, 36, 3]), (200, [3, 24, 36, 3])],
)
def test_the_name_counts_the_layers_with_weights(depth: int, depths: list[int]) -> None:
    with torch.device("meta"):
        model = cnnarch.get_model(f"preresnet{depth}")
    counts = [sum(isinstance(m, PreActBottleneck) for m in stage) for stage in model.stages]
    assert counts == depths
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sum("shortcut" not in name for name in layers) == depth


@pytest.mark.parametrize("in_1x1", [True, False])
def test_the_stride_is_in_the_first_1x1_unless_it_is_moved(in_1x1: bool) -> None:
    with torch.device("meta"):
        model = cnnarch.preresnet50(**({} if in_1x1 else {"stride_in_1x1": False}))
    for stage in list(model.stages)[1:]:
        branch = stage[0].branch
        strides = [branch.reduce.stride, branch.conv.stride, branch.expand.stride]
        assert strides == ([(2, 2), (1, 1), (1, 1)] if in_1x1 else [(1, 1), (2, 2), (1, 1)])


def test_norms_surround_the_pool_and_end_the_last_stage() -> None:
    model = PreResNet((1, 1, 1, 1), (4, 6, 8, 12))
    assert [type(m) for m in model.stem] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    pool, block = model.stages[0]
    assert isinstance(pool, nn.MaxPool2d)
    assert isinstance(block.norm, nn.BatchNorm2d)
    assert [name for name, _ in model.stages[-1].named_children()] == ["0", "norm", "act"]
    maps = model.forward_stages(torch.randn(2, 3, 64, 64))
    assert bool((maps[-1] >= 0).all())
    assert bool((maps[-2] < 0).any())


def test_timms_resnetv2_50_lacks_the_norm_of_the_stem() -> None:
    """It has 64 scales and 64 shifts fewer."""
    with torch.device("meta"):
        theirs = timm.create_model("resnetv2_50")
    assert sum(p.numel() for p in theirs.parameters()) == 25_549_480 - 128


def test_small_images_give_a_4x4_map() -> None:
    with torch.device("meta"):
        model = cnnarch.preresnet50(small_images=True).eval()
        features = model.forward_features(torch.empty(1, 3, 32, 32))
    assert features.shape == (1, 2048, 4, 4)
