"""StarNet against its paper (Ma et al., 2024)."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import StarBlock, StochasticDepth
from cnnarch.models.starnet import StarNet

SMALL_FORMS = {"starnet": partial(StarNet, 4, (1, 1, 2, 1))}


def on_meta(name: str = "starnet_s1", **options: object) -> StarNet:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


@pytest.mark.parametrize(
    ("name", "embed", "depth"),
    [
        ("starnet_s1", 24, [2, 2, 8, 3]),
        ("starnet_s2", 32, [1, 2, 6, 2]),
        ("starnet_s3", 32, [2, 2, 8, 4]),
        ("starnet_s4", 32, [3, 3, 12, 5]),
    ],
)
def test_variants_are_the_rows_of_table_5(name: str, embed: int, depth: list[int]) -> None:
    model = on_meta(name)
    blocks = [[m for m in stage if isinstance(m, StarBlock)] for stage in model.stages]
    assert [len(stage) for stage in blocks] == depth
    assert [row.channels for row in model.feature_info] == [32, *(embed * k for k in (1, 2, 4, 8))]
    assert [row.stride for row in model.feature_info] == [2, 4, 8, 16, 32]


def test_the_last_stage_ends_with_a_norm_before_the_pool() -> None:
    model = on_meta()
    *_, last = model.stages[3]
    assert isinstance(last, nn.BatchNorm2d)
    assert [type(m) for m in model.head] == [
        *(nn.AdaptiveAvgPool2d, nn.Flatten, nn.Dropout, nn.Linear)
    ]


def test_all_convolutions_have_biases() -> None:
    convolutions = [m for m in on_meta().modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 1 + 4 + 5 * 15
    assert all(m.bias is not None for m in convolutions)


def test_there_is_one_activation_per_block_and_one_in_the_stem() -> None:
    acts = [m for m in on_meta().modules() if isinstance(m, nn.ReLU6)]
    assert len(acts) == 1 + 15


def test_drop_path_increases_linearly_from_zero_to_its_rate() -> None:
    rates = [m.rate for m in on_meta(drop_path=0.28).modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx([0.02 * i for i in range(15)])


def test_small_images_give_a_4x4_map_and_keep_all_tensor_shapes() -> None:
    small, usual = on_meta(small_images=True).eval(), on_meta()
    assert small.forward_features(torch.empty(1, 3, 32, 32, device="meta")).shape[2:] == (4, 4)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (small, usual)]
    assert shapes[0] == shapes[1]


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="depth must have 4 entries, got"):
        StarNet(8, (1, 1, 1))
    with pytest.raises(ValueError, match="depth of a stage must be an integer of at least 1"):
        StarNet(8, (1, 0, 1, 1))
    with pytest.raises(ValueError, match=r"drop_path must be in \[0, 1\), got 1"):
        on_meta(drop_path=1)
