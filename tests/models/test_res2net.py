"""Res2Net against its paper (Gao et al., 2019)."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch import ImageClassifier
from cnnarch.blocks import Res2NetBottleneck
from cnnarch.models.res2net import Res2Net, Res2NetSetting

SMALL_FORMS = {"res2net": partial(Res2Net, (2, 1, 1, 1), Res2NetSetting(2, 3, 2), (4, 4, 8, 8))}


def on_meta(name: str, **options: object) -> ImageClassifier:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


def blocks(stage: nn.Module) -> list[Res2NetBottleneck]:
    return [block for block in stage if isinstance(block, Res2NetBottleneck)]


@pytest.mark.parametrize(
    ("name", "width", "scale", "groups"),
    [
        ("res2net50_26w_4s", 26, 4, 1),
        ("res2net50_26w_6s", 26, 6, 1),
        ("res2net50_26w_8s", 26, 8, 1),
        ("res2net50_48w_2s", 48, 2, 1),
        ("res2net50_14w_8s", 14, 8, 1),
        ("res2net101_26w_4s", 26, 4, 1),
        ("res2next50", 32, 4, 8),
    ],
)
def test_the_name_is_the_width_and_the_scale(
    name: str, width: int, scale: int, groups: int
) -> None:
    """The width doubles in each stage. Every subset but one has a convolution."""
    for i, stage in enumerate(on_meta(name).stages):
        for block in blocks(stage):
            convs = [layer.conv for layer in block.branch.conv.convs]
            assert len(convs) == scale - 1
            assert {(c.in_channels, c.out_channels, c.groups) for c in convs} == {
                (width << i, width << i, groups)
            }


def test_depths_are_those_of_resnet() -> None:
    assert [len(blocks(s)) for s in on_meta("res2net50_26w_4s").stages] == [3, 4, 6, 3]
    assert [len(blocks(s)) for s in on_meta("res2net101_26w_4s").stages] == [3, 4, 23, 3]
    assert [len(blocks(s)) for s in on_meta("res2next50").stages] == [3, 4, 6, 3]


def test_only_the_first_block_of_a_stage_has_independent_convolutions_and_a_pool() -> None:
    """In the first stage, the pool has stride 1, as in the authors' code."""
    for stage, stride in zip(on_meta("res2net50_26w_4s").stages, (1, 2, 2, 2), strict=True):
        first, *others = (block.branch.conv for block in blocks(stage))
        assert not first.hierarchical
        assert (first.pool.kernel_size, first.pool.stride, first.pool.padding) == (3, stride, 1)
        assert first.pool.count_include_pad
        assert {layer.conv.stride[0] for layer in first.convs} == {stride}
        assert all(conv.hierarchical for conv in others)


def test_small_images_give_a_4x4_map() -> None:
    model = on_meta("res2net50_26w_4s", small_images=True).eval()
    features = model.forward_features(torch.empty(1, 3, 32, 32, device="meta"))
    assert features.shape == (1, 2048, 4, 4)


def test_widths_that_are_not_multiples_are_rounded_down() -> None:
    """A width of 3 at 8 channels is 4.5 at 12 channels; the authors' code rounds down."""
    model = Res2Net((1, 1, 1, 1), Res2NetSetting(3, 2), (8, 12, 16, 16))
    widths = [blocks(stage)[0].branch.conv.convs[0].conv.out_channels for stage in model.stages]
    assert widths == [3, 4, 6, 6]
