"""Checks that hooks, replaced `forward`s and `torch.func` see what each layer gives."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.testing._steps import calibrated_copy, evaluation_copy, failing_as, small_side
from cnnarch.testing.examples import example_images

__all__ = [
    "check_gradients_of_samples",
    "check_hooks_keep_what_they_see",
    "check_modules_are_used_once",
    "check_replaced_forwards_keep_what_they_give",
]

Kept = dict[str, tuple[Tensor, Tensor]]


def check_hooks_keep_what_they_see(model: ImageClassifier) -> None:
    """No later layer writes over a map that a forward hook keeps."""
    for gradients in (False, True):
        twin = evaluation_copy(model)
        kept: Kept = {}
        for name, module in twin.named_modules():
            if not isinstance(module, nn.ModuleList):
                module.register_forward_hook(_keeper(kept, name))
        with torch.set_grad_enabled(gradients):
            twin(example_images(twin, 1, small_side(twin, 32)))
        _check_is_as_it_was(kept)


def check_replaced_forwards_keep_what_they_give(model: ImageClassifier) -> None:
    """A `forward` put in a module's place runs, and no later layer writes over its map."""
    for gradients in (False, True):
        twin = calibrated_copy(model)
        kept: Kept = {}
        images = example_images(twin, 1, small_side(twin, 32))
        with torch.set_grad_enabled(gradients):
            expected = twin(images)
            for name, module in twin.named_modules():
                if name and not isinstance(module, nn.ModuleList):
                    module.forward = _keeping(kept, name, module.forward)
            found = twin(images)
        assert torch.equal(found, expected), "replaced forwards change the logits"
        _check_is_as_it_was(kept)


def check_gradients_of_samples(model: ImageClassifier) -> None:
    """`torch.func.vmap` gives each image the gradients that it has alone."""
    twin = calibrated_copy(model).double()  # deep networks add up the rounding of single precision
    images = example_images(twin, 2, small_side(twin, 32)).double()
    weights = {name: p.detach() for name, p in twin.named_parameters()}

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        logits: Tensor = functional_call(twin, weights, (image[None],))
        return logits.square().mean()

    claim = "torch.func cannot take gradients of the network"
    with (
        failing_as(claim),
        warnings.catch_warnings(),
    ):
        # Averages of a map that has channels last in memory are slow, and correct all the same.
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        together = vmap(grad(loss), in_dims=(None, 0))(weights, images)
    for i, image in enumerate(images):
        twin.zero_grad()
        twin(image[None]).square().mean().backward()  # type: ignore[no-untyped-call]
        alone = {
            name: torch.zeros_like(p) if p.grad is None else p.grad  # no part of the logits
            for name, p in twin.named_parameters()
        }
        rounding = 1e-12 * max(g.abs().max() for g in alone.values())  # where it should be 0
        for name, expected in alone.items():
            off = (together[name][i] - expected).abs().max()
            near = off <= 1e-5 * expected.abs().max() + rounding
            assert near, f"the gradient of {name} for one image is off by {off:.1e}"


def check_modules_are_used_once(model: ImageClassifier) -> None:
    """No layer runs twice in a pass: a hook on it sees one map."""
    twin = evaluation_copy(model)
    count: dict[str, int] = {}
    for name, module in twin.named_modules():
        if not any(module.children()):
            module.register_forward_hook(
                lambda *_, name=name: count.update({name: count.get(name, 0) + 1})
            )
    twin(example_images(twin, 1))
    twice = [f"{name} ({times} times)" for name, times in count.items() if times > 1]
    assert not twice, f"used more than once: {', '.join(twice)}"


def _keeper(kept: Kept, name: str) -> Callable[[nn.Module, object, Tensor], None]:
    """A forward hook."""

    def hook(module: nn.Module, inputs: object, y: Tensor) -> None:  # noqa: ARG001 - torch's
        kept[name] = y.detach(), y.detach().clone()

    return hook


def _keeping(kept: Kept, name: str, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def replaced(*inputs: Tensor) -> Tensor:
        y = forward(*inputs)
        kept[name] = y.detach(), y.detach().clone()
        return y

    return replaced


def _check_is_as_it_was(kept: Kept) -> None:
    assert kept, "no module was called"
    written = [name for name, (seen, copied) in kept.items() if not torch.equal(seen, copied)]
    assert not written, f"a later layer writes over what these gave: {', '.join(written)}"
