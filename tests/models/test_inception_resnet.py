"""Inception-ResNet v1 and v2 against their paper (Szegedy et al., 2016)."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import ConvRow, PoolRow, ResidualInception
from cnnarch.models.inception_resnet import V1, V2, InceptionResNet

ROW, COLUMN = ConvRow(8, (1, 7)), ConvRow(8, (7, 1))
REDUCTION = ((ConvRow(8), ConvRow(8, 3, 2, valid=True)), (PoolRow("max"),))
NARROW = {
    "residual": (
        ((ConvRow(8),), (ConvRow(8), ConvRow(8, 3))),
        ((ConvRow(8),), (ConvRow(8), ROW, COLUMN)),
        ((ConvRow(8),), (ConvRow(8), ConvRow(8, (1, 3)))),
    ),
    "reductions": (REDUCTION, REDUCTION),
}
V1_NARROW, V2_NARROW = V1._replace(**NARROW), V2._replace(**NARROW)
SMALL_FORMS = {
    "v1": partial(InceptionResNet, V1_NARROW, (1, 1, 1)),
    "v2": partial(InceptionResNet, V2_NARROW, (1, 1, 2)),
    "small_images": partial(InceptionResNet, V2_NARROW, (1, 2, 2), small_images=True),
}


def on_meta(name: str, **options: object) -> cnnarch.ImageClassifier:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


@pytest.mark.parametrize(
    ("name", "depths"),
    [("inception_resnet_v1", [5, 10, 6]), ("inception_resnet_v2", [10, 20, 10])],
)
def test_residuals_are_scaled_except_in_the_last_block(name: str, depths: list[int]) -> None:
    stages = [
        [m for m in stage if isinstance(m, ResidualInception)]
        for stage in list(on_meta(name).stages)[1:]
    ]
    assert [len(blocks) for blocks in stages] == depths
    *others, last = stages[-1]
    for blocks, scale in zip([*stages[:-1], others], (0.17, 0.10, 0.20), strict=True):
        assert {b.scale for b in blocks} == {scale}
        assert all(isinstance(b.act, nn.ReLU) for b in blocks)
    assert last.scale == 1.0
    assert isinstance(last.act, nn.Identity)


def test_projections_have_a_bias_and_no_norm() -> None:
    model = on_meta("inception_resnet_v2")
    projections = [m.project for m in model.modules() if isinstance(m, ResidualInception)]
    assert all(p.bias is not None and p.kernel_size == (1, 1) for p in projections)


def test_norms_have_an_eps_of_a_thousandth_and_the_pool_does_not_count_padding() -> None:
    modules = [*on_meta("inception_resnet_v2").modules()]
    assert {m.eps for m in modules if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    assert [m.count_include_pad for m in modules if isinstance(m, nn.AvgPool2d)] == [False]


@pytest.mark.parametrize("name", ["inception_resnet_v1", "inception_resnet_v2"])
@pytest.mark.parametrize(("small_images", "side"), [(False, 75), (True, 17)])
def test_the_smallest_image_leaves_one_pixel(name: str, small_images: bool, side: int) -> None:
    model = on_meta(name, small_images=small_images).eval()
    assert model.min_input_size == side
    images = torch.empty(1, 3, side, side, device="meta")
    assert model.forward_features(images).shape[2:] == (1, 1)


@pytest.mark.parametrize("name", ["inception_resnet_v1", "inception_resnet_v2"])
def test_small_images_give_a_4x4_map_and_keep_all_tensor_shapes(name: str) -> None:
    small = on_meta(name, small_images=True).eval()
    assert small.forward_features(torch.empty(1, 3, 32, 32, device="meta")).shape[2:] == (4, 4)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (small, on_meta(name))]
    assert shapes[0] == shapes[1]


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="depths must have 3 entries, got"):
        InceptionResNet(V2, (1, 1))
    with pytest.raises(ValueError, match="depth of a stage must be an integer of at least 1"):
        InceptionResNet(V1, (1, 0, 1))
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1"):
        cnnarch.inception_resnet_v1(dropout=1)
