"""Helpers shared by the checks: copies of the network, a training step, expected errors."""

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.testing.examples import NORMS, calibrate, example_images

Check = TypeVar("Check", bound=Callable[[ImageClassifier], None])


def on_a_copy(
    *, calibrated: bool = False, devices: tuple[str, ...] = ("cpu",)
) -> Callable[[Check], Check]:
    """Return a decorator that runs a check on a copy of the network.

    The copy is in eval mode, all its parameters are trainable, and none has a gradient.

    Args:
        calibrated: whether to calibrate BatchNorm layers that have seen no batch, so that the
            logits depend on the images.
        devices: device types that the network's tensors may be on.

    Raises:
        AssertionError: raised by the check unless the network is an `ImageClassifier` with a
            classifier, in float32 and on one of the devices.
    """

    def decorate(check: Check) -> Check:
        @functools.wraps(check)
        def checked(model: ImageClassifier) -> None:
            _check_supported(model, devices)
            copied = _copy(model)
            norms = [m for m in copied.modules() if isinstance(m, NORMS)]
            if calibrated and any(norm.num_batches_tracked == 0 for norm in norms):
                calibrate(copied, example_images(copied, 8))
            check(copied)

        return checked  # type: ignore[return-value] # functools.wraps keeps the signature

    return decorate


def _check_supported(model: ImageClassifier, devices: tuple[str, ...]) -> None:
    if not isinstance(model, ImageClassifier):
        kind = type(model).__name__
        raise AssertionError(f"checks need a cnnarch.ImageClassifier, got {kind}")
    assert model.num_classes > 0, "checks need a network with a classifier, got num_classes 0"
    for dtype in {parameter.dtype for parameter in model.parameters()}:
        assert dtype == torch.float32, f"checks need a network in float32, got {dtype}"
    for device in {tensor.device for tensor in chain(model.parameters(), model.buffers())}:
        assert device.type in devices, f"checks need a network on the CPU, got one on {device}"


def _copy(model: ImageClassifier) -> ImageClassifier:
    # Copying empty hook tables takes up to half the time, so create new ones instead.
    tables: dict[int, Any] = {
        id(value): OrderedDict()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, OrderedDict) and not value
    }
    copied = copy.deepcopy(model, tables).eval().requires_grad_()
    copied.zero_grad()
    return copied


def hookable_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that a forward pass can call, by path."""
    containers = (nn.ModuleList, nn.ModuleDict)
    return {name: m for name, m in model.named_modules() if not isinstance(m, containers)}


def train_step(model: ImageClassifier, images: Tensor) -> Tensor:
    """Run a backward pass in training mode, including auxiliary heads, and return the loss."""
    model.train()
    output: Tensor | tuple[Tensor | None, ...] = model(images)
    outputs = [output] if isinstance(output, Tensor) else [o for o in output if o is not None]
    # Cross-entropy would be constant for a network with one class.
    loss = torch.stack([o.square().mean() for o in outputs]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


@contextmanager
def failing_as(claim: str) -> Iterator[None]:
    """Turn an exception raised in the body into an AssertionError that starts with `claim`."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{claim}: {type(error).__name__}: {error}") from error


def expect_error(
    subject: str, kind: type[Exception], message: str, call: Callable[..., Any], *args: Any
) -> None:
    """Check that `call(*args)` raises a `kind` exception whose text contains `message`."""
    raised = None
    with failing_as(f"{subject} does not raise {kind.__name__}"):
        try:
            call(*args)
        except kind as error:
            raised = str(error)
    assert raised is not None, f"{subject} is accepted, expected {kind.__name__}"
    assert message in raised, f"{subject} raises {raised!r}, expected {message!r}"
