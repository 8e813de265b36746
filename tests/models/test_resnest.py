"""ResNeSt against its paper (Zhang et al., 2020)."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch import ImageClassifier
from cnnarch.blocks import SplitAttentionBottleneck
from cnnarch.models.resnest import ResNeSt

SMALL_FORMS = {"resnest": partial(ResNeSt, (2, 1, 1, 1), 4, (8, 8, 8, 8))}


def on_meta(name: str, **options: object) -> ImageClassifier:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


def branches(stage: nn.Module) -> list[nn.Module]:
    return [block.branch for block in stage if isinstance(block, SplitAttentionBottleneck)]


@pytest.mark.parametrize(
    ("name", "layers", "stem"),
    [
        ("resnest14d", 14, (32, 32, 64)),
        ("resnest26d", 26, (32, 32, 64)),
        ("resnest50d", 50, (32, 32, 64)),
        ("resnest101e", 101, (64, 64, 128)),
        ("resnest200e", 200, (64, 64, 128)),
        ("resnest269e", 269, (64, 64, 128)),
    ],
)
def test_the_name_counts_three_layers_per_block_the_stem_as_one_and_the_classifier(
    name: str, layers: int, stem: tuple[int, ...]
) -> None:
    model = on_meta(name)
    assert 3 * sum(len(branches(stage)) for stage in model.stages) + 2 == layers
    convs = [module for module in model.stem.modules() if isinstance(module, nn.Conv2d)]
    assert tuple(conv.out_channels for conv in convs) == stem
    assert [(conv.kernel_size[0], conv.stride[0]) for conv in convs] == [(3, 2), (3, 1), (3, 1)]


def test_two_splits_come_from_separate_groups_and_a_quarter_of_both_is_the_squeeze() -> None:
    for stage, width in zip(on_meta("resnest50d").stages, (64, 128, 256, 512), strict=True):
        for branch in branches(stage):
            conv = branch.conv.conv
            assert (conv.in_channels, conv.out_channels, conv.groups) == (width, 2 * width, 2)
            assert branch.attention.radix == 2
            assert branch.attention.attention.reduce.conv.out_channels == 2 * width // 4


def test_averages_have_the_strides() -> None:
    first, *others = on_meta("resnest50d").stages
    convs = [m for m in nn.ModuleList([first, *others]).modules() if isinstance(m, nn.Conv2d)]
    assert {conv.stride for conv in convs} == {(1, 1)}
    assert not any(hasattr(branch, "pool") for branch in branches(first))
    for stage in others:
        strided, *rest = stage
        pool = strided.branch.pool
        assert (pool.kernel_size, pool.stride, pool.padding) == (3, 2, 1)
        assert pool.count_include_pad
        assert strided.shortcut.pool.kernel_size == 2
        assert not any(hasattr(block.branch, "pool") for block in rest)


def test_small_images_give_a_4x4_map() -> None:
    model = on_meta("resnest50d", small_images=True).eval()
    features = model.forward_features(torch.empty(1, 3, 32, 32, device="meta"))
    assert features.shape == (1, 2048, 4, 4)
