"""Inception v4 against its paper (Szegedy et al., 2016)."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import ConvRow, PoolRow, SplitRow
from cnnarch.models.inception_v4 import InceptionV4

REDUCTION = ((ConvRow(8, 3, 2, valid=True),), (PoolRow("max"),))
STAGES = (
    (((ConvRow(8),), (PoolRow("avg"), ConvRow(8))),),
    (REDUCTION, ((ConvRow(8), ConvRow(8, (1, 7)), ConvRow(8, (7, 1))), (ConvRow(8),))),
    (REDUCTION, ((ConvRow(8), SplitRow(8)), (ConvRow(8),))),
)
SMALL_FORMS = {
    "inception_v4": partial(InceptionV4, STAGES),
    "small_images": partial(InceptionV4, STAGES, small_images=True),
}


def on_meta(**options: object) -> cnnarch.InceptionV4:
    with torch.device("meta"):
        return cnnarch.inception_v4(**options)


def test_there_are_4_7_and_3_inception_blocks() -> None:
    """Fig. 9; each stage also contains the block that reduces the map."""
    assert [len(stage) for stage in on_meta().stages] == [2, 1 + 4, 1 + 7, 1 + 3]


def test_average_pools_do_not_count_padding_and_norms_have_an_eps_of_a_thousandth() -> None:
    modules = [*on_meta().modules()]
    pools = [m for m in modules if isinstance(m, nn.AvgPool2d)]
    assert len(pools) == 4 + 7 + 3
    assert not any(m.count_include_pad for m in pools)
    assert {m.eps for m in modules if isinstance(m, nn.BatchNorm2d)} == {1e-3}


def test_one_fifth_of_the_pooled_features_is_dropped() -> None:
    """Fig. 9: dropout (keep 0.8)."""
    assert on_meta().head.dropout.p == 0.2


@pytest.mark.parametrize(("small_images", "side"), [(False, 75), (True, 17)])
def test_the_smallest_image_leaves_one_pixel(small_images: bool, side: int) -> None:
    model = on_meta(small_images=small_images).eval()
    images = torch.empty(1, 3, side, side, device="meta")
    assert model.forward_features(images).shape == (1, 1536, 1, 1)
    with pytest.raises(ValueError, match=f"at least {side}x{side} pixels"):
        model(torch.empty(1, 3, side - 1, side, device="meta"))


def test_small_images_give_a_4x4_map_and_keep_all_tensor_shapes() -> None:
    small = on_meta(small_images=True).eval()
    assert small.forward_features(torch.empty(1, 3, 32, 32, device="meta")).shape[2:] == (4, 4)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (small, on_meta())]
    assert shapes[0] == shapes[1]


def test_stages_of_another_number_are_rejected() -> None:
    with pytest.raises(ValueError, match="stages must have 3 entries, got"):
        InceptionV4(STAGES[:2])
