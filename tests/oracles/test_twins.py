"""The same tensors give the same logits in other libraries' networks and in ours, both ways."""


import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.testing import assert_close
from cnnarch.weights import export, port
from cnnarch.weights.porting.twins import TWINS, Twin
from tests.oracles.libraries import build, randomise

ONE_SIZE = {
    ("timm", "mlp_mixer"),
    ("torchvision", "alexnet"),
    ("torchvision", "vgg"),
    ("timm", "vgg"),
    ("cadene", "inception_bn"),
    ("cadene", "se_resnet"),
    ("cadene", "senet"),
}
"""Their networks that take the size on the card alone, or another one only by pooling unevenly."""


def called(twin: Twin) -> str:
    return f"{twin.library}-{twin.name}"


def every_twin() -> list[object]:
    """All rows; those that are not the smallest of their kind are slow."""
    smallest: dict[tuple[object, ...], Twin] = {}
    for twin in TWINS:
        card = cnnarch.get_card(twin.builder)
        kind = (card.family, twin.library, *twin.options.items())
        if kind not in smallest or card.macs < cnnarch.get_card(smallest[kind].builder).macs:
            smallest[kind] = twin
    quick = {called(twin) for twin in smallest.values()}
    return [
        pytest.param(twin, id=called(twin), marks=() if called(twin) in quick else pytest.mark.slow)
        for twin in TWINS
    ]


def images_for(twin: Twin) -> Tensor:
    """An image of an odd side where they take any: paddings and poolings must agree."""
    card = cnnarch.get_card(twin.builder)
    fixed = (twin.library, card.family) in ONE_SIZE or twin.library == "pytorchcv"
    side = card.input_size[-1] if fixed and card.family != "efficientnet" else 97
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))


def theirs_for(twin: Twin, images: Tensor) -> nn.Module:
    if twin.library == "efficientnet_pytorch":  # it pads for the size that it is told
        return build(twin, image_size=images.shape[-1])
    return build(twin)


@pytest.mark.parametrize("twin", every_twin())
@torch.no_grad()
def test_the_same_tensors_give_the_same_logits_both_ways(twin: Twin) -> None:
    images = images_for(twin)
    theirs = theirs_for(twin, images)
    randomise(theirs)
    with torch.device("meta"):
        ours = cnnarch.get_model(twin.builder, **twin.options).eval()
    ours.load_state_dict(port(theirs.state_dict(), ours), assign=True)
    expected = theirs(images)
    assert_close(ours(images), expected, twin.tolerance)

    again = theirs_for(twin, images)
    again.load_state_dict(export(ours, twin.library), strict=True, assign=True)
    assert_close(again(images), expected, twin.tolerance)
