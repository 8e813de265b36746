"""Checks for training and hooks: gradients, checkpointing, bfloat16, frozen stages."""

import copy
import warnings
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.freezing import freeze
from cnnarch.testing._helpers import failing_as, hookable_modules, on_a_copy, train_step
from cnnarch.testing.examples import calibrate, example_images

__all__ = [
    "check_bfloat16_autocast",
    "check_checkpointing_changes_nothing",
    "check_checkpointing_recomputes",
    "check_every_module_is_called",
    "check_every_parameter_gets_a_gradient",
    "check_frozen_parts_stay_in_eval_mode",
    "check_gradients_of_samples",
    "check_hooks_keep_what_they_see",
    "check_modules_are_used_once",
    "check_replaced_forwards_keep_what_they_give",
]

Outputs = dict[str, tuple[Tensor, Tensor]]
"""Output of each module by path, with a copy made when the module returned it."""


@on_a_copy()
def check_every_parameter_gets_a_gradient(model: ImageClassifier) -> None:
    """The loss depends on every parameter, including frozen ones."""
    train_step(model, example_images(model, 2, 48))
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without, f"no gradient for {', '.join(without)}"


@on_a_copy()
def check_every_module_is_called(model: ImageClassifier) -> None:
    """A training step runs every module and supports a backward hook on each."""
    called: set[str] = set()
    modules = hookable_modules(model)
    for name, module in modules.items():
        module.register_full_backward_hook(lambda *_, name=name: called.add(name))
    claim = "backward hooks fail, as they do for layers that overwrite their input (inplace=True)"
    with failing_as(claim):
        train_step(model, example_images(model, 2, 48).requires_grad_())
    silent = sorted(modules.keys() - called)
    assert not silent, f"never called, or without a gradient: {', '.join(silent)}"


@on_a_copy(calibrated=True)
def check_checkpointing_changes_nothing(model: ImageClassifier) -> None:
    """`set_grad_checkpointing` does not change the loss, gradients or running statistics."""
    checkpointed = copy.deepcopy(model)
    checkpointed.set_grad_checkpointing(True)
    found, expected = _results_of_a_step(checkpointed), _results_of_a_step(model)
    torch.testing.assert_close(
        found, expected, rtol=0, atol=0, msg=lambda text: f"checkpointing changes training: {text}"
    )


def _results_of_a_step(model: ImageClassifier) -> dict[str, Tensor]:
    """Run a training step and return the loss, gradients and buffers by name."""
    torch.manual_seed(1)
    results = {"loss": train_step(model, example_images(model, 2, 48))}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            results[f"gradient of {name}"] = parameter.grad
    return results | dict(model.named_buffers())


@on_a_copy()
def check_checkpointing_recomputes(model: ImageClassifier) -> None:
    """With `set_grad_checkpointing`, the backward pass runs the last stage a second time."""
    model.set_grad_checkpointing(True)
    calls: list[int] = []
    stage = model.get_submodule(model.cam_layer)
    layers = [m for m in stage.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert layers, f"{model.cam_layer} contains neither a convolution nor a linear layer"
    # A hook before the call, because recomputation stops inside the last layer that saves a tensor.
    layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    train_step(model, example_images(model, 2, 48))
    assert len(calls) == 2, (
        f"the first layer of {model.cam_layer} runs {len(calls)} times, expected 2: once in the "
        "forward and once in the backward pass, as in a Stage"
    )


@on_a_copy()
def check_bfloat16_autocast(model: ImageClassifier) -> None:
    """bfloat16 logits are close to float32 logits, and a training step yields finite results."""
    # BatchNorm over few values amplifies rounding errors: keep the last map at least 4x4, and
    # calibrate with 16 images for norms of pooled maps, as in ResNeSt.
    images = example_images(model, 16, max(32, 4 * model.feature_info[-1].stride))
    calibrate(model, images)
    images = images[:4]
    with torch.no_grad():
        exact = model(images)
        from_rounded_images = model(images.bfloat16().float())
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(images).float()
    error, amplified = (
        ((logits - exact).norm() / exact.norm()).item() for logits in (rough, from_rounded_images)
    )
    # bfloat16 has 8 significant bits, and errors accumulate with depth: resnet50 reaches 0.22.
    # Untrained networks may amplify errors: convmixer_768_32 multiplies them by 1.3 in each layer.
    allowed = max(0.35, 5 * amplified)
    assert error < allowed, (
        f"bfloat16 is off by {error:.2f} of the logits' norm, allowed {allowed:.2f}"
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = train_step(model, example_images(model, 2, 48))
    assert loss.isfinite(), f"the loss in bfloat16 is {loss}"
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    wrong = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    assert not wrong, f"gradients in bfloat16 are not finite for {', '.join(wrong)}"


@on_a_copy()
def check_frozen_parts_stay_in_eval_mode(model: ImageClassifier) -> None:
    """`train()` keeps only the parts frozen by `cnnarch.freeze` in eval mode."""
    freeze(model, upto=0)
    model.train()
    assert model.training, "train() leaves the network in eval mode"
    training = any(m.training for m in model.stem.modules())
    assert not training, "train() puts a frozen stem in training mode"
    assert model.head.training, "train() leaves the head in eval mode when the stem is frozen"


@on_a_copy()
def check_hooks_keep_what_they_see(model: ImageClassifier) -> None:
    """No later layer overwrites an output that a forward hook has stored."""
    outputs = Outputs()
    for name, module in hookable_modules(model).items():
        module.register_forward_hook(lambda _m, _x, y, name=name: _record(outputs, name, y))
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            model(example_images(model, 1, 32))
        _check_unchanged(outputs)


@on_a_copy(calibrated=True)
def check_replaced_forwards_keep_what_they_give(model: ImageClassifier) -> None:
    """A replaced `forward` method is called, and no later layer overwrites its output."""
    images = example_images(model, 1, 32)
    for gradients in (False, True):
        copied, outputs = copy.deepcopy(model), Outputs()
        with torch.set_grad_enabled(gradients):
            expected = copied(images)
            for name, module in hookable_modules(copied).items():
                if name:
                    module.forward = _recording(outputs, name, module.forward)
            assert torch.equal(copied(images), expected), "replaced forwards change the logits"
        _check_unchanged(outputs)


@on_a_copy(calibrated=True)
def check_gradients_of_samples(model: ImageClassifier) -> None:
    """`torch.func.vmap` computes the same per-image gradients as a backward pass."""
    model.double()  # float32 rounding errors accumulate in deep networks
    images = example_images(model, 2, 32).double()
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        logits: Tensor = functional_call(model, weights, (image[None],))
        return logits.square().mean()

    with warnings.catch_warnings(), failing_as("torch.func cannot take gradients of the network"):
        # vmap of average pooling is slow but correct for channels-last maps.
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        batched = vmap(grad(loss), in_dims=(None, 0))(weights, images)
    for i, image in enumerate(images):
        model.zero_grad()
        model(image[None]).square().mean().backward()  # type: ignore[no-untyped-call]
        expected = {
            name: torch.zeros_like(p) if p.grad is None else p.grad  # unused by the logits
            for name, p in model.named_parameters()
        }
        found = {name: gradients[i] for name, gradients in batched.items()}
        rounding = 1e-12 * max(gradient.abs().max().item() for gradient in expected.values())
        torch.testing.assert_close(
            *(found, expected), rtol=1e-5, atol=rounding, msg=lambda text: f"vmap differs: {text}"
        )


@on_a_copy()
def check_modules_are_used_once(model: ImageClassifier) -> None:
    """No layer runs twice in a forward pass, so a hook receives one output per layer."""
    calls: Counter[str] = Counter()
    for name, module in model.named_modules():
        if not any(module.children()):
            module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    model(example_images(model, 1))
    repeated = [f"{name} ({times} times)" for name, times in calls.items() if times > 1]
    assert not repeated, f"used more than once: {', '.join(repeated)}"


def _recording(
    outputs: Outputs, name: str, forward: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    def recorded(*inputs: Tensor) -> Tensor:
        output = forward(*inputs)
        _record(outputs, name, output)
        return output

    return recorded


def _record(outputs: Outputs, name: str, output: Tensor) -> None:
    outputs[name] = output.detach(), output.detach().clone()


def _check_unchanged(outputs: Outputs) -> None:
    assert outputs, "no module was called"
    changed = [name for name, pair in outputs.items() if not torch.equal(*pair)]
    assert not changed, f"a later layer overwrites the output of {', '.join(changed)}"
