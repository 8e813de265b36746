"""Freeze layers so that training does not change them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

from torch import nn

from cnnarch.blocks._checks import check_choice
from cnnarch.blocks.frozen_norm import FrozenBatchNorm
from cnnarch.blocks.head import ClassifierHead
from cnnarch.contract.trunk import Trunk, as_trunk

HEAD = "head"


def freeze(
    model: Trunk, upto: int | str = -1, batch_norm: Literal["eval", "train"] = "eval"
) -> None:
    """Freeze the stem and the stages up to and including `upto`.

    Their parameters no longer require gradients, and existing gradients are cleared. With
    `batch_norm="eval"` they also stay in eval mode when `train()` is called on the model or on
    any other module that contains them, so running statistics do not change and dropout is
    disabled. Later stages that are already frozen stay frozen.

    Args:
        model: a network or a backbone.
        upto: last stage to freeze: an index in `feature_info`, a name or a module path. The
            default freezes all of them. "head" also freezes the layers of the head before the
            classifier, so only the classifier layers are trained.
        batch_norm: "eval" keeps the BatchNorm statistics, and "train" updates them from the new
            data.

    Raises:
        TypeError: `model` is neither a network nor a backbone.
        ValueError: the stage or mode does not exist, or `upto` is "head" and no classifier layer
            has parameters.

    >>> import cnnarch
    >>> model = cnnarch.resnet18(num_classes=10)
    >>> freeze(model, upto="conv4_x")
    >>> model.stages[2].training, model.stages[3].training
    (False, True)
    """
    check_choice("batch_norm", batch_norm, ("eval", "train"))
    trunk = as_trunk(model)
    for module in _modules_upto(trunk, upto):
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
            parameter.grad = None  # an optimizer would still apply existing gradients
        if batch_norm == "eval":
            keep_in_eval_mode(module)
        else:
            release(module)
    trunk.train(trunk.training)


def unfreeze(model: Trunk, downto: int | str = 0) -> None:
    """Make `downto` and all later layers trainable again. Earlier stages stay unchanged.

    Args:
        model: a network or a backbone.
        downto: first stage to train: an index in `feature_info`, a name or a module path, or
            "head".

    Raises:
        TypeError: `model` is neither a network nor a backbone.
        ValueError: the stage does not exist.
    """
    trunk = as_trunk(model)
    first = len(trunk.stage_paths) if _is_head(trunk, downto) else trunk.stage_index(downto)
    earlier = set(_modules_upto(trunk, first - 1)) if first else set()
    for module in trunk.modules():
        if module not in earlier:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(True)
            release(module)
    trunk.train(trunk.training)


def check_stage(model: nn.Module, upto: int | str) -> None:
    """Check that `freeze` accepts these arguments.

    Raises:
        TypeError: `model` is neither a network nor a backbone.
        ValueError: the stage does not exist.
    """
    list(_modules_upto(as_trunk(model), upto))


@contextmanager
def temporarily_frozen(
    model: nn.Module, upto: int | str | None = -1, norms: bool = False
) -> Iterator[None]:
    """Freeze stages as `freeze` does, and restore the previous state on exit.

    Args:
        model: a network or a backbone, or any module if `upto` is None.
        upto: last stage to freeze; None freezes no stage.
        norms: whether to also freeze the statistics, scale and shift of every BatchNorm.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen_before = {module for module in model.modules() if stays_in_eval_mode(module)}
    if upto is not None:
        freeze(as_trunk(model), upto)
    if norms:
        _freeze_norms(model)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for module in model.modules():
            if module not in frozen_before:
                release(module)
        model.train(model.training)


def _freeze_norms(model: nn.Module) -> None:
    for module in model.modules():
        if FrozenBatchNorm.can_freeze(module):
            FrozenBatchNorm.freeze(module)
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)


def keep_in_eval_mode(module: nn.Module) -> None:
    """Keep one module in eval mode, whichever module's `train()` is called."""
    if FrozenBatchNorm.can_freeze(module):
        FrozenBatchNorm.freeze(module)
    elif not isinstance(module, FrozenBatchNorm):
        module.eval()
        vars(module)["train"] = partial(_stay_in_eval_mode, module)
        if hasattr(module, "reset_running_stats"):  # a norm with a `forward` of its own
            vars(module)["reset_running_stats"] = _keep_statistics


def release(module: nn.Module) -> None:
    """Undo `keep_in_eval_mode`."""
    if isinstance(module, FrozenBatchNorm):
        if module.can_thaw:
            module.thaw()
    else:
        vars(module).pop("train", None)
        vars(module).pop("reset_running_stats", None)


def stays_in_eval_mode(module: nn.Module) -> bool:
    """Return whether `keep_in_eval_mode` was called for a module."""
    return isinstance(module, FrozenBatchNorm) or "train" in vars(module)


def _stay_in_eval_mode(module: nn.Module, mode: bool = True) -> nn.Module:  # noqa: ARG001
    return nn.Module.train(module, False)


def _keep_statistics() -> None:
    pass


def _is_head(trunk: Trunk, stage: int | str) -> bool:
    return stage == HEAD and hasattr(trunk, HEAD)


def _modules_upto(trunk: Trunk, upto: int | str) -> Iterator[nn.Module]:
    """Yield all modules in the stem and the stages, or all that belong to no classifier."""
    if not _is_head(trunk, upto):
        for path in trunk.stage_paths[: trunk.stage_index(upto) + 1]:
            yield from trunk.get_submodule(path).modules()
        return
    heads = [module for module in trunk.modules() if isinstance(module, ClassifierHead)]
    layers = [h._modules[n] for h in heads for n in ("dropout", "classifier") if n in h._modules]
    kept = {module for layer in layers if layer is not None for module in layer.modules()}
    if not any(True for module in kept for _ in module.parameters(recurse=False)):
        raise ValueError(
            'with upto="head" nothing would be trained, because no classifier layer has parameters'
        )
    for module in trunk.modules():
        if kept.isdisjoint(module.modules()):
            yield module
