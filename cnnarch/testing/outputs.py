"""Checks of logits and of the images that a network accepts."""

import torch
from torch import Tensor

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.testing._steps import calibrated_copy, evaluation_copy, failing_as, refusal
from cnnarch.testing.assertions import assert_close
from cnnarch.testing.examples import example_images

__all__ = [
    "check_eval_mode_changes_nothing",
    "check_logits",
    "check_logits_are_not_probabilities",
    "check_min_input_size_is_tight",
    "check_odd_and_oblong_images",
    "check_one_image_equals_its_batch",
    "check_wrong_input_is_named",
]


@torch.no_grad()
def check_logits(model: ImageClassifier) -> None:
    """Logits are finite and as wide as `num_classes`."""
    logits = calibrated_copy(model)(example_images(model))
    expected = (2, model.num_classes)
    assert logits.shape == expected, f"logits have shape {tuple(logits.shape)}, expected {expected}"
    assert logits.isfinite().all(), "logits are not finite"


@torch.no_grad()
def check_logits_are_not_probabilities(model: ImageClassifier) -> None:
    """No softmax or log-softmax ends the network: losses apply it themselves."""
    logits = calibrated_copy(model)(example_images(model))
    ones = torch.ones(len(logits))
    for name, sums in (("softmax", logits.sum(1)), ("log_softmax", logits.exp().sum(1))):
        ends = torch.allclose(sums, ones, atol=1e-4)
        assert not ends, f"the network ends in {name}: its outputs are probabilities"


@torch.no_grad()
def check_eval_mode_changes_nothing(model: ImageClassifier) -> None:
    """In eval mode, no running statistic moves and the same images give the same logits."""
    twin = calibrated_copy(model)
    before = {name: tensor.clone() for name, tensor in twin.state_dict().items()}
    images = example_images(twin)
    first, second = twin(images), twin(images)
    moved = [name for name, t in twin.state_dict().items() if not torch.equal(t, before[name])]
    assert not moved, f"a pass in eval mode changes {', '.join(moved)}"
    assert torch.equal(first, second), "the same images give other logits the second time"


@torch.no_grad()
def check_one_image_equals_its_batch(model: ImageClassifier) -> None:
    """An image gives the same logits alone as among others."""
    twin = calibrated_copy(model).double()  # deep networks add up the rounding of single precision
    images = example_images(twin, 3).double()
    assert_close(torch.cat([twin(image[None]) for image in images]), twin(images), 1e-9)


@torch.no_grad()
def check_odd_and_oblong_images(model: ImageClassifier) -> None:
    """An image of any height and width passes where the size is free, else its size is named."""
    twin = evaluation_copy(model)
    side = twin.min_input_size
    height = max(97, side | 1)
    images = torch.randn(1, twin.in_channels, height, height + 34)
    if twin.fixed_input_size:
        _check_is_refused(twin, images, f"expected images of {side}x{side}")
        return
    with failing_as(f"an image of {height}x{height + 34} pixels does not pass"):
        shape = tuple(twin(images).shape)
    assert shape == (1, twin.num_classes), f"logits have shape {shape}"


@torch.no_grad()
def check_min_input_size_is_tight(model: ImageClassifier) -> None:
    """`min_input_size` passes; one pixel less is refused in words, and its layers need it."""
    twin = calibrated_copy(model)
    side = twin.min_input_size
    with failing_as(f"min_input_size is {side}, but an image of {side} pixels"):
        finite = twin(example_images(twin, 1, side)).isfinite().all()
    assert finite, f"an image of {side} pixels gives no finite logits"
    if side == 1:
        return
    sizes = ((side - 1, side), (side, side - 1))
    for height, width in sizes:
        image = torch.randn(1, twin.in_channels, height, width)
        _check_is_refused(twin, image, f"{side}x{side} pixels, got {height}x{width}")
    if twin.fixed_input_size:
        return
    twin.min_input_size = 1  # the refusal alone would make any number "tight"
    for height, width in sizes:
        image = torch.randn(1, twin.in_channels, height, width)
        refusal(f"min_input_size is {side}; {height}x{width} pixels", RuntimeError, twin, image)


@torch.no_grad()
def check_wrong_input_is_named(model: ImageClassifier) -> None:
    """An image without a batch, or with other channels, is refused with the shape expected."""
    twin = evaluation_copy(model)
    images = example_images(twin)
    for wrong in (images[0], images.repeat(1, 2, 1, 1)):
        _check_is_refused(twin, wrong, f"expected images of shape (N, {twin.in_channels}, H, W)")


def _check_is_refused(model: ImageClassifier, images: Tensor, words: str) -> None:
    what = f"an image of shape {tuple(images.shape)}"
    said = refusal(what, ValueError, model, images)
    assert words in said, f"{what} is refused with {said!r}, expected {words!r}"
