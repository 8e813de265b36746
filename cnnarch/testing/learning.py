"""Checks of training: gradients, checkpointing, mixed precision, frozen stages."""

import torch
from torch import Tensor, nn

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.testing._steps import (
    calibrated_copy,
    evaluation_copy,
    failing_as,
    small_side,
    train_step,
)
from cnnarch.testing.examples import calibrate, example_images

__all__ = [
    "check_bfloat16_autocast",
    "check_checkpointing_changes_nothing",
    "check_checkpointing_recomputes",
    "check_every_module_is_called",
    "check_every_parameter_gets_a_gradient",
    "check_frozen_parts_stay_in_eval_mode",
]

CONTAINERS = (nn.ModuleList, nn.ModuleDict)


def check_every_parameter_gets_a_gradient(model: ImageClassifier) -> None:
    """No parameter is left out of the loss, those that are frozen now included."""
    twin = evaluation_copy(model)
    train_step(twin, example_images(twin, 2, small_side(twin)))
    without = [name for name, p in twin.named_parameters() if p.grad is None]
    assert not without, f"no gradient for {', '.join(without)}"


def check_every_module_is_called(model: ImageClassifier) -> None:
    """Every module runs in training and takes a backward hook."""
    twin = evaluation_copy(model)
    called: set[str] = set()
    names = {name for name, m in twin.named_modules() if not isinstance(m, CONTAINERS)}
    for name in names:
        twin.get_submodule(name).register_full_backward_hook(lambda *_, name=name: called.add(name))
    with failing_as("no backward hook if one overwrites its input, as ReLU(inplace=True) does"):
        train_step(twin, example_images(twin, 2, small_side(twin)).requires_grad_())
    silent = sorted(names - called)
    assert not silent, f"never called, or without a gradient: {', '.join(silent)}"


def check_checkpointing_changes_nothing(model: ImageClassifier) -> None:
    """With `set_grad_checkpointing`, loss, gradients and running statistics are the same."""
    plain = calibrated_copy(model)
    saving = evaluation_copy(plain)
    saving.set_grad_checkpointing(True)
    expected, found = _results_of_a_step(plain), _results_of_a_step(saving)
    differ = sorted(expected.keys() ^ found.keys())
    assert not differ, f"with or without checkpointing, there is no {', '.join(differ)}"
    for what, value in expected.items():
        off = (found[what].double() - value.double()).abs().max()
        assert off == 0, f"checkpointing changes {what} by {off:.1e}"


def _results_of_a_step(model: ImageClassifier) -> dict[str, Tensor]:
    """Loss, gradients and buffers by what a message calls them."""
    torch.manual_seed(1)
    results = {"the loss": train_step(model, example_images(model, 2, small_side(model)))}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            results[f"gradient of {name}"] = parameter.grad
    return results | dict(model.named_buffers())


def check_checkpointing_recomputes(model: ImageClassifier) -> None:
    """With `set_grad_checkpointing`, the last stage runs a second time in the backward pass."""
    twin = evaluation_copy(model)
    twin.set_grad_checkpointing(True)
    calls: list[int] = []
    layer = twin.get_submodule(twin.cam_layer)
    convolutions = [m for m in layer.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert convolutions, f"{twin.cam_layer} has no convolution and no linear layer"
    convolutions[0].register_forward_hook(lambda *_: calls.append(1))
    train_step(twin, example_images(twin, 2, small_side(twin)))
    assert len(calls) == 2, (
        f"the first layer of {twin.cam_layer} runs {len(calls)} times, expected 2: forward, and "
        "again in the backward pass, as the layers of a Stage do"
    )


def check_bfloat16_autocast(model: ImageClassifier) -> None:
    """In bfloat16, logits are near those of single precision and a training step is finite."""
    twin = evaluation_copy(model)
    # BatchNorm over a handful of pixels magnifies rounding: let the last map have 4x4.
    side = small_side(twin, max(32, 4 * twin.feature_info[-1].stride))
    images = example_images(twin, 4, side)
    calibrate(twin, images)
    with torch.no_grad():
        exact = twin(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = twin(images).float()
    off = ((rough - exact).norm() / exact.norm()).item()
    # bfloat16 keeps 8 bits, and deep networks add up their rounding: resnet50 is off by 0.22.
    assert off < 0.35, f"bfloat16 is off by {off:.2f} of the logits' norm, allowed 0.35"
    with torch.autocast("cpu", torch.bfloat16):
        loss = train_step(twin, example_images(twin, 2, small_side(twin)))
    assert loss.isfinite(), f"the loss in bfloat16 is {loss}"
    gradients = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    wrong = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    assert not wrong, f"gradients in bfloat16 are not finite for {', '.join(wrong)}"


def check_frozen_parts_stay_in_eval_mode(model: ImageClassifier) -> None:
    """`train()` leaves what `cnnarch.freeze` recorded in eval mode, and nothing else."""
    twin = evaluation_copy(model)
    twin.frozen = {"stem"}
    twin.train()
    assert twin.training, "train() leaves the network in eval mode"
    assert not any(m.training for m in twin.stem.modules()), "train() trains a frozen stem"
    assert twin.head.training, "a frozen stem keeps the head in eval mode"
