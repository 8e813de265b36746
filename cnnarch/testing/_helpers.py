"""What the checks share: copies of the network, a step of training, exceptions as failures."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.testing.examples import calibrate, example_images

__all__ = [
    "calibrated_copy",
    "evaluation_copy",
    "failing_as",
    "refusal",
    "small_side",
    "train_step",
]


def evaluation_copy(model: ImageClassifier, devices: tuple[str, ...] = ("cpu",)) -> ImageClassifier:
    """A copy in eval mode that is trained in all its parts and has no gradients yet.

    Args:
        model: the network to copy.
        devices: types of device that its tensors may be on.

    Raises:
        AssertionError: it is not a network of cnnarch, has no classifier, or is not in float32
            or not on one of the devices.
    """
    if not isinstance(model, ImageClassifier):
        kind = type(model).__name__
        raise AssertionError(f"the checks are of cnnarch.ImageClassifier, got {kind}")
    assert model.num_classes > 0, "check a network that has a classifier"
    for dtype in {parameter.dtype for parameter in model.parameters()}:
        assert dtype == torch.float32, f"check a network in float32, got {dtype}"
    for device in {tensor.device for tensor in chain(model.parameters(), model.buffers())}:
        assert device.type in devices, f"check a network on the CPU, got one on {device}"
    parts = (vars(module).values() for module in model.modules())
    empty: dict[int, Any] = {
        id(part): OrderedDict()
        for part in chain(*parts)
        if isinstance(part, OrderedDict) and not part
    }
    # Half of what a module is made of are empty tables of hooks, slow to copy.
    twin = copy.deepcopy(model, empty).eval().requires_grad_()
    twin.zero_grad()
    return twin


def calibrated_copy(model: ImageClassifier) -> ImageClassifier:
    """A copy in eval mode whose logits depend on the images, so that comparing them says much.

    Statistics of a network that has seen images stay as they are.
    """
    twin = evaluation_copy(model)
    counts = [getattr(module, "num_batches_tracked", None) for module in twin.modules()]
    if any(count is not None and count == 0 for count in counts):
        calibrate(twin, example_images(twin, 8))
    return twin


def small_side(model: ImageClassifier, side: int = 48) -> int:
    """`side`, or the nearest that the network accepts: quick, and enough pixels for BatchNorm."""
    return model.min_input_size if model.fixed_input_size else max(model.min_input_size, side)


def train_step(model: ImageClassifier, images: Tensor) -> Tensor:
    """One backward pass in training mode, auxiliary heads included; returns the loss."""
    model.train()
    output: Tensor | tuple[Tensor | None, ...] = model(images)
    outputs = [output] if isinstance(output, Tensor) else [o for o in output if o is not None]
    loss = torch.stack([o.square().mean() for o in outputs]).sum()  # not constant for one class
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


@contextmanager
def failing_as(claim: str) -> Iterator[None]:
    """Raise whatever the body raises as an AssertionError that says which claim does not hold."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{claim}: {type(error).__name__}: {error}") from error


def refusal(what: str, kind: type[Exception], call: Callable[..., Any], *args: Any) -> str:
    """The message of the exception of this kind with which a call refuses what it is given."""
    with failing_as(f"{what} is refused without {kind.__name__}"):
        try:
            call(*args)
        except kind as error:
            return str(error)
    raise AssertionError(f"{what} is not refused")
