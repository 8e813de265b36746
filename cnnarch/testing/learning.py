"""Checks of training: gradients, checkpointing, mixed precision, frozen stages."""

import torch
from torch import nn

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.testing._steps import calibrated_copy, evaluation_copy, small_side, train_step
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
    """No parameter that is to be trained is left out of the loss."""
    twin = evaluation_copy(model)
    train_step(twin, example_images(twin, 2, small_side(twin)))
    without = [name for name, p in twin.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, f"no gradient for {', '.join(without)}"


def check_every_module_is_called(model: ImageClassifier) -> None:
    """Every module runs in training and takes a backward hook."""
    twin = evaluation_copy(model)
    called: set[str] = set()
    names = {name for name, m in twin.named_modules() if not isinstance(m, CONTAINERS)}
    for name in names:
        twin.get_submodule(name).register_full_backward_hook(lambda *_, name=name: called.add(name))
    train_step(twin, example_images(twin, 2, small_side(twin)).requires_grad_())
    silent = sorted(names - called)
    assert not silent, f"never called, or without a gradient: {', '.join(silent)}"


def check_checkpointing_changes_nothing(model: ImageClassifier) -> None:
    """With `set_grad_checkpointing`, loss, gradients and running statistics are the same."""
    plain = calibrated_copy(model)
    saving = evaluation_copy(plain)
    saving.set_grad_checkpointing(True)
    images = example_images(plain, 2, small_side(plain))
    losses = []
    for twin in (plain, saving):
        torch.manual_seed(1)
        losses.append(train_step(twin, images))
    assert torch.equal(*losses), f"checkpointing turns a loss of {losses[0]} into {losses[1]}"
    pairs = zip(plain.named_parameters(), saving.parameters(), strict=True)
    for (name, parameter), other in pairs:
        if parameter.requires_grad:
            assert parameter.grad is not None, f"no gradient for {name}"
            assert other.grad is not None, f"no gradient for {name} with checkpointing"
            same = torch.equal(parameter.grad, other.grad)
            assert same, f"checkpointing changes the gradient of {name}"
    for (name, buffer), moved in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(buffer, moved), f"checkpointing changes {name}"


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
    assert len(calls) == 2, f"the last stage's first layer runs {len(calls)} times, expected 2"


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
