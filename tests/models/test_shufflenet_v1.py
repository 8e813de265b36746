"""ShuffleNet against its paper (Zhang et al., 2017)."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.models.shufflenet_v1 import ShuffleNetV1

SMALL_FORMS = {
    "groups": partial(ShuffleNetV1, 2, (32, 64, 96), (2, 1, 1)),
    "small_images": partial(ShuffleNetV1, 3, (48, 96, 120), (1, 2, 1), small_images=True),
}


def on_meta(name: str, **options: object) -> cnnarch.ShuffleNetV1:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


@pytest.mark.parametrize(
    ("groups", "channels"),
    [
        *((1, [144, 288, 576]), (2, [200, 400, 800]), (3, [240, 480, 960])),
        *((4, [272, 544, 1088]), (8, [384, 768, 1536])),
    ],
)
def test_groups_and_widths_are_those_of_table_1(groups: int, channels: list[int]) -> None:
    model = on_meta(f"shufflenet_v1_g{groups}")
    assert [row.channels for row in model.feature_info] == [24, *channels]
    assert [row.stride for row in model.feature_info] == [2, 8, 16, 32]
    pointwise = [m for m in model.stages.modules() if getattr(m, "kernel_size", 0) == (1, 1)]
    assert [m.groups for m in pointwise] == [1] + [groups] * (2 * 16 - 1)


def test_each_stage_has_one_strided_unit_and_the_repeats_of_table_1() -> None:
    blocks = [
        [n for n, _ in s.named_children() if n.isdigit()]
        for s in on_meta("shufflenet_v1_g3").stages
    ]
    assert [len(stage) for stage in blocks] == [1 + 3, 1 + 7, 1 + 3]


def test_bottlenecks_have_a_quarter_of_the_output_channels() -> None:
    model = on_meta("shufflenet_v1_g3")
    depthwise = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 8]
    assert [m.groups for m in depthwise] == [60] * 4 + [120] * 8 + [240] * 4


def test_small_images_give_a_4x4_map_and_keep_all_tensor_shapes() -> None:
    small = on_meta("shufflenet_v1_g8", small_images=True).eval()
    assert small.forward_features(torch.empty(1, 3, 32, 32, device="meta")).shape[2:] == (4, 4)
    shapes = [
        {k: v.shape for k, v in m.state_dict().items()}
        for m in (small, on_meta("shufflenet_v1_g8"))
    ]
    assert shapes[0] == shapes[1]


def test_groups_that_do_not_divide_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"groups must divide 36 channels, got 5"):
        ShuffleNetV1(5, (144, 288, 576))
    with pytest.raises(ValueError, match="channels must have 3 entries"):
        ShuffleNetV1(1, (144, 288))
