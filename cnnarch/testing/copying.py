"""Checks of what a network is made of: its state, its copies, its device and memory format."""

import copy
import pickle

import torch
from torch import Tensor

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.testing._steps import calibrated_copy, evaluation_copy, failing_as, refusal, small_side
from cnnarch.testing.assertions import assert_close
from cnnarch.testing.examples import example_images

__all__ = [
    "check_channels_last",
    "check_copies_and_pickles_agree",
    "check_foreign_keys_get_a_hint",
    "check_meta_device",
    "check_state_dict_has_everything",
    "check_state_dict_round_trip",
]


def check_state_dict_has_everything(model: ImageClassifier) -> None:
    """Every parameter, buffer and other tensor of the network is in its state dict."""
    twin = evaluation_copy(model)
    saved = twin.state_dict().keys()
    names = {name for name, _ in (*twin.named_parameters(), *twin.named_buffers())}
    for path, module in twin.named_modules():
        names |= {
            f"{path}.{name}".lstrip(".")
            for name, value in vars(module).items()
            if isinstance(value, Tensor)
        }
    left_out = sorted(names - saved)
    assert not left_out, f"not in the state dict: {', '.join(left_out)}"
    assert saved == names, f"in the state dict alone: {', '.join(sorted(saved - names))}"


@torch.no_grad()
def check_state_dict_round_trip(model: ImageClassifier) -> None:
    """A copy with other values gives the same logits once it has loaded the state dict."""
    twin = calibrated_copy(model)
    images = example_images(twin)
    state, logits = twin.state_dict(), twin(images)
    other = evaluation_copy(twin)
    for tensor in (*other.parameters(), *other.buffers()):
        tensor.fill_(2)
    with failing_as("the state dict cannot be loaded"):
        other.load_state_dict(state)
    assert torch.equal(other(images), logits), "another network with its state gives other logits"


def check_foreign_keys_get_a_hint(model: ImageClassifier) -> None:
    """Keys of another library raise with the function that loads such files."""
    twin, foreign = evaluation_copy(model), {"features.0.weight": torch.zeros(1)}
    said = refusal("another library's state dict", RuntimeError, twin.load_state_dict, foreign)
    assert "cnnarch.weights.load" in said, f"it is refused without a hint: {said!r}"


@torch.no_grad()
def check_copies_and_pickles_agree(model: ImageClassifier) -> None:
    """Deep copies and pickles give the same logits, options and feature rows."""
    model = calibrated_copy(model)
    images = example_images(model)
    logits = model(images)
    with failing_as("the network cannot be copied or pickled"):
        twins = {"copy": copy.deepcopy(model), "pickle": pickle.loads(pickle.dumps(model))}
    for kind, twin in twins.items():
        assert torch.equal(twin(images), logits), f"a {kind} gives other logits"
        if kind == "pickle":
            vars(twin).pop("feature_info", None)  # to be computed anew
        for fact in ("builder", "options", "feature_info"):
            found, expected = getattr(twin, fact), getattr(model, fact)
            assert found == expected, f"{fact} of a {kind} is {found}, expected {expected}"


def check_meta_device(model: ImageClassifier) -> None:
    """On the meta device, shapes flow through the network without memory."""
    with failing_as("the network does not run on the meta device"):
        twin = evaluation_copy(model, ("cpu", "meta")).to("meta")
        kinds = {tensor.device.type for tensor in twin.state_dict().values()}
        shape = tuple(twin(example_images(twin, 2, small_side(twin)).to("meta")).shape)
    assert kinds == {"meta"}, f"tensors are on {', '.join(sorted(kinds))}"
    assert shape == (2, twin.num_classes), f"logits have shape {shape}"


@torch.no_grad()
def check_channels_last(model: ImageClassifier) -> None:
    """With channels last in memory the logits are the same, and maps keep that format."""
    twin = calibrated_copy(model).double()  # deep networks add up the rounding of single precision
    images = example_images(twin).double()
    expected = twin(images)
    twin.to(memory_format=torch.channels_last)
    features = twin.forward_features(images.to(memory_format=torch.channels_last))
    assert_close(twin.forward_head(features), expected, 1e-9)
    if min(features.shape[1:]) > 1:  # else both formats are one
        kept = features.is_contiguous(memory_format=torch.channels_last)
        assert kept, f"the last map has strides {features.stride()}: channels are not last"
