"""Checks for accepted images, logits and feature maps."""

import copy

import torch
from torch import Tensor, nn

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.testing._helpers import expect_error, failing_as, on_a_copy
from cnnarch.testing.assertions import assert_close
from cnnarch.testing.examples import example_images

__all__ = [
    "check_cam_layer",
    "check_eval_mode_changes_nothing",
    "check_feature_info",
    "check_head_reads_the_last_map",
    "check_logits",
    "check_logits_are_not_probabilities",
    "check_min_input_size_is_tight",
    "check_odd_and_oblong_images",
    "check_one_image_equals_its_batch",
    "check_reset_classifier",
    "check_stages_come_in_the_order_asked",
    "check_wrong_input_is_named",
]


@on_a_copy(calibrated=True)
@torch.no_grad()
def check_logits(model: ImageClassifier) -> None:
    """Logits are finite and have shape `(N, num_classes)`."""
    logits = model(example_images(model))
    expected = (2, model.num_classes)
    assert logits.shape == expected, f"logits have shape {tuple(logits.shape)}, expected {expected}"
    assert logits.isfinite().all(), "logits are not finite"


@on_a_copy(calibrated=True)
@torch.no_grad()
def check_logits_are_not_probabilities(model: ImageClassifier) -> None:
    """The network does not end in softmax or log-softmax, which loss functions include."""
    logits = model(example_images(model))
    ones = torch.ones(len(logits))
    for name, sums in (("softmax", logits.sum(1)), ("log_softmax", logits.exp().sum(1))):
        normalized = torch.allclose(sums, ones, atol=1e-4)
        assert not normalized, f"the network ends in {name}: its outputs are probabilities"


@on_a_copy(calibrated=True)
@torch.no_grad()
def check_eval_mode_changes_nothing(model: ImageClassifier) -> None:
    """In eval mode, running statistics stay unchanged and the logits are reproducible."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = example_images(model)
    first, second = model(images), model(images)
    changed = [name for name, t in model.state_dict().items() if not torch.equal(t, before[name])]
    assert not changed, f"a forward pass in eval mode changes {', '.join(changed)}"
    assert torch.equal(first, second), "a second pass over the same images returns different logits"


@on_a_copy(calibrated=True)
@torch.no_grad()
def check_one_image_equals_its_batch(model: ImageClassifier) -> None:
    """The logits of an image do not depend on the rest of its batch."""
    model.double()  # float32 rounding errors accumulate in deep networks
    images = example_images(model, 3).double()
    assert_close(torch.cat([model(image[None]) for image in images]), model(images), 1e-9)


@on_a_copy()
@torch.no_grad()
def check_odd_and_oblong_images(model: ImageClassifier) -> None:
    """The network accepts any height and width, or raises an error that states its fixed size."""
    side = model.min_input_size
    height = max(97, side | 1)
    images = torch.randn(1, model.in_channels, height, height + 34)
    if model.fixed_input_size:
        _check_rejects(model, images, f"expected images of {side}x{side}")
        return
    with failing_as(f"an image of {height}x{height + 34} pixels is rejected"):
        shape = tuple(model(images).shape)
    assert shape == (1, model.num_classes), f"logits have shape {shape}"


@on_a_copy(calibrated=True)
@torch.no_grad()
def check_min_input_size_is_tight(model: ImageClassifier) -> None:
    """Images of `min_input_size` are accepted.

    An image one pixel smaller raises ValueError, and without the size check, the layers fail.
    """
    side = model.min_input_size
    with failing_as(f"min_input_size is {side}, but an image of {side} pixels is rejected"):
        finite = model(example_images(model, 1, side)).isfinite().all()
    assert finite, f"the logits of an image of {side} pixels are not finite"
    if side == 1:
        return
    for height, width in ((side - 1, side), (side, side - 1)):
        image = torch.randn(1, model.in_channels, height, width)
        _check_rejects(model, image, f"{side}x{side} pixels, got {height}x{width}")
        if not model.fixed_input_size:
            model.min_input_size = 1  # without the size check, the layers must fail
            what = f"min_input_size is {side}, but an image of {height}x{width} pixels"
            expect_error(what, RuntimeError, "", model, image)
            model.min_input_size = side


@on_a_copy()
@torch.no_grad()
def check_wrong_input_is_named(model: ImageClassifier) -> None:
    """Unbatched images and wrong channel counts raise an error that states the expected shape."""
    images = example_images(model)
    for wrong in (images[0], images.repeat(1, 2, 1, 1)):
        _check_rejects(model, wrong, f"expected images of shape (N, {model.in_channels}, H, W)")


def _check_rejects(model: ImageClassifier, images: Tensor, message: str) -> None:
    what = f"an image of shape {tuple(images.shape)}"
    expect_error(what, ValueError, message, model, images)


@on_a_copy(calibrated=True)
@torch.no_grad()
def check_head_reads_the_last_map(model: ImageClassifier) -> None:
    """`forward_features` returns the last stage's map, and `forward` applies the head to it."""
    images = example_images(model)
    features = model.forward_features(images)
    last = model.forward_stages(images)[-1]
    assert torch.equal(features, last), "forward_features does not return the last stage's map"
    logits = model.forward_head(features)
    assert torch.equal(logits, model(images)), "forward_head does not return the logits"
    width = tuple(model.forward_head(features, pre_logits=True).shape)
    expected = (2, model.num_features)
    assert width == expected, f"pre-logits have shape {width}, expected {expected}"


@on_a_copy(calibrated=True)
@torch.no_grad()
def check_stages_come_in_the_order_asked(model: ImageClassifier) -> None:
    """`forward_stages` accepts names and indices in any order and rejects unknown rows."""
    images = example_images(model)
    names = [row.name for row in model.feature_info]
    every = model.forward_stages(images)
    assert len(set(names)) == len(names), f"two rows have the same name: {names}"
    assert len(every) == len(names), f"{len(every)} maps for the rows {names}"
    last, first = model.forward_stages(images, [-1, names[0]])
    assert torch.equal(last, every[-1]), "row -1 is not the last map"
    assert torch.equal(first, every[0]), f"row {names[0]!r} is not the first map"
    for wrong in (len(names), -len(names) - 1, "nowhere"):
        call, listed = model.forward_stages, repr(names[0])
        expect_error(f"row {wrong!r}", ValueError, listed, call, images, [wrong])


@on_a_copy()
@torch.no_grad()
def check_feature_info(model: ImageClassifier) -> None:
    """Channel counts match the maps, and `k * stride` more input pixels add k pixels to a map."""
    info = model.feature_info
    strides = [row.stride for row in info]
    maps = model.forward_stages(example_images(model, 1))
    found, pixels = [m.shape[-1] for m in maps], model.min_input_size
    if not model.fixed_input_size:
        pixels = max(strides)
        side = example_images(model, 1).shape[-1] + pixels
        larger = model.forward_stages(example_images(model, 1, side))
        found = [m.shape[-1] - before for m, before in zip(larger, found, strict=True)]
    expected = [pixels // stride for stride in strides]
    assert found == expected, (
        f"maps have {found} pixels per {pixels} input pixels, strides imply {expected}"
    )
    channels, described = [m.shape[1] for m in maps], [row.channels for row in info]
    assert channels == described, f"maps have {channels} channels, feature_info has {described}"


@on_a_copy()
def check_cam_layer(model: ImageClassifier) -> None:
    """The layer for class activation maps returns a map that receives a gradient."""
    maps: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        maps.append(output)
        if output.requires_grad:
            output.retain_grad()

    model.get_submodule(model.cam_layer).register_forward_hook(keep)
    logits = model(example_images(model, 1))
    with failing_as("the logits have no gradient"):
        logits.max().backward()  # type: ignore[no-untyped-call]
    assert maps, f"{model.cam_layer} is never called"
    shape = tuple(maps[0].shape)
    assert len(shape) == 4, f"{model.cam_layer} returns a tensor of shape {shape}, expected a map"
    reached = maps[0].requires_grad and maps[0].grad is not None
    assert reached, f"no gradient of the logits reaches the map of {model.cam_layer}"


@on_a_copy(calibrated=True)
@torch.no_grad()
def check_reset_classifier(model: ImageClassifier) -> None:
    """`reset_classifier` changes only the number of logits. With 0, pre-logits are returned."""
    other = copy.deepcopy(model)
    images = example_images(model)
    other.reset_classifier(5)
    shape = tuple(other(images).shape)
    assert shape == (2, 5), f"logits have shape {shape} after reset_classifier(5)"
    features = other.forward_features(images)
    kept = torch.equal(features, model.forward_features(images))
    assert kept, "reset_classifier changes the features"
    pre_logits = model.forward_head(features, pre_logits=True)
    other.reset_classifier(0)
    kept = torch.equal(other(images), pre_logits)
    assert kept, "after reset_classifier(0) the network does not return pre-logits"
    counts = (other.options["num_classes"], other.num_classes)
    assert counts == (0, 0), f"options and num_classes are {counts}, expected 0"
