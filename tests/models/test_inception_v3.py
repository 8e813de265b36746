"""Inception v3 against its paper (Szegedy et al., 2015), torchvision and timm."""

from functools import partial

import pytest
import torch
import torchvision
from torch import nn

import cnnarch
from cnnarch.blocks import ConvRow, PoolRow, SplitRow
from cnnarch.models.inception_v3 import InceptionV3
from cnnarch.testing import assert_close, assert_parameters
from cnnarch.weights import port
from cnnarch.weights.catalog import get_weights
from tests.oracles.libraries import randomize

REDUCTION = ((ConvRow(8, 3, 2, valid=True),), (PoolRow("max"),))
STAGES = (
    (((ConvRow(8),), (PoolRow("avg"), ConvRow(8))),),
    (REDUCTION, ((ConvRow(8), ConvRow(8, (1, 7)), ConvRow(8, (7, 1))), (ConvRow(8),))),
    (REDUCTION, ((ConvRow(8), SplitRow(8)), (ConvRow(8),))),
)
SMALL_FORMS = {
    "inception_v3": partial(InceptionV3, STAGES),
    "aux_logits": partial(InceptionV3, STAGES, aux_logits=True),
    "small_images": partial(InceptionV3, STAGES, small_images=True),
}


def on_meta(**options: object) -> cnnarch.InceptionV3:
    with torch.device("meta"):
        return cnnarch.inception_v3(**options)


def test_the_auxiliary_head_has_the_parameters_of_torchvision() -> None:
    """768 * 128 + 2 * 128, 25 * 128 * 768 + 2 * 768, and 769 * 1000: 27,161,264 in total."""
    assert_parameters(on_meta(aux_logits=True), 27_161_264)


@torch.no_grad()
def test_the_auxiliary_head_returns_the_logits_of_torchvision() -> None:
    theirs = torchvision.models.inception_v3(init_weights=False, num_classes=10).eval()
    randomize(theirs)
    ours = cnnarch.inception_v3(aux_logits=True, num_classes=10).eval()
    ours.load_state_dict(port(theirs.state_dict(), ours))
    features = torch.randn(2, 768, 17, 17)
    # The 5x5 convolution of a 5x5 map may be computed in a different order.
    assert_close(ours.aux1(features), theirs.AuxLogits(features), 1e-5)


def test_training_returns_the_logits_of_both_heads() -> None:
    model = InceptionV3(STAGES, aux_logits=True, num_classes=7)
    images = torch.randn(2, 3, 107, 107)
    logits, aux1, aux2 = model(images)
    assert (logits.shape, aux1.shape, aux2) == ((2, 7), (2, 7), None)
    assert model.eval()(images).shape == (2, 7)


def test_average_pools_count_padding_and_norms_have_an_eps_of_a_thousandth() -> None:
    modules = [*on_meta().modules()]
    pools = [m for m in modules if isinstance(m, nn.AvgPool2d)]
    assert len(pools) == 3 + 4 + 2
    assert all(m.count_include_pad for m in pools)
    assert {m.eps for m in modules if isinstance(m, nn.BatchNorm2d)} == {1e-3}


def test_torchvisions_checkpoint_expects_a_mean_and_std_of_one_half() -> None:
    """Torchvision renormalizes the images inside the network (`transform_input`)."""
    preprocessing = get_weights("inception_v3")["IMAGENET1K_V1"].preprocessing
    assert preprocessing is not None
    assert (preprocessing.mean, preprocessing.std) == ((0.5,) * 3, (0.5,) * 3)
    assert (preprocessing.crop_size, preprocessing.resize_size) == (299, 342)


@pytest.mark.parametrize(("small_images", "side"), [(False, 75), (True, 17)])
def test_the_smallest_image_leaves_one_pixel(small_images: bool, side: int) -> None:
    """Torchvision's metadata states 75 pixels, too."""
    model = on_meta(small_images=small_images).eval()
    assert model.min_input_size == side
    images = torch.empty(1, 3, side, side, device="meta")
    assert model.forward_features(images).shape == (1, 2048, 1, 1)


def test_small_images_give_a_4x4_map_and_keep_all_tensor_shapes() -> None:
    small = on_meta(small_images=True).eval()
    assert small.forward_features(torch.empty(1, 3, 32, 32, device="meta")).shape[2:] == (4, 4)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (small, on_meta())]
    assert shapes[0] == shapes[1]


def test_stages_of_another_number_are_rejected() -> None:
    with pytest.raises(ValueError, match="stages must have 3 entries, got"):
        InceptionV3(STAGES[:2])
    with pytest.raises(ValueError, match="depth of a stage must be an integer of at least 1"):
        InceptionV3((*STAGES[:2], ()))
