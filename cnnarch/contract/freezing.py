"""Freeze stages so that training does not change them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import nn

from cnnarch.blocks._checks import check_choice
from cnnarch.contract.trunk import Trunk, as_trunk


def freeze(
    model: Trunk, upto: int | str = -1, batch_norm: Literal["eval", "train"] = "eval"
) -> None:
    """Freeze the stem and the stages up to and including `upto`.

    Their parameters no longer require gradients, and existing gradients are cleared. With
    `batch_norm="eval"`, frozen stages also stay in eval mode when `model.train()` is called, so
    running statistics do not change and dropout is disabled. Later stages that are already frozen
    stay frozen.

    Args:
        model: a network or a backbone.
        upto: last stage to freeze: an index in `feature_info`, a name or a module path. The
            default freezes all stages.
        batch_norm: "eval" keeps the BatchNorm statistics, and "train" updates them from the new
            data.

    Raises:
        TypeError: `model` is neither a network nor a backbone.
        ValueError: the stage or mode does not exist, or the stage is the head, which cannot be
            frozen.

    >>> import cnnarch
    >>> model = cnnarch.resnet18(num_classes=10)
    >>> freeze(model, upto="conv4_x")
    >>> model.stages[2].training, model.stages[3].training
    (False, True)
    """
    check_choice("batch_norm", batch_norm, ("eval", "train"))
    model = as_trunk(model)
    for path in model.stage_paths[: model.stage_index(upto) + 1]:
        part = model.get_submodule(path).requires_grad_(False)
        part.zero_grad()  # an optimizer would still apply existing gradients
        keep = model.frozen.add if batch_norm == "eval" else model.frozen.discard
        keep(path)
    model.train(model.training)


def unfreeze(model: Trunk, downto: int | str = 0) -> None:
    """Make `downto` and all later stages trainable again. Earlier stages stay unchanged.

    Args:
        model: a network or a backbone.
        downto: first stage to train: an index in `feature_info`, a name or a module path.

    Raises:
        TypeError: `model` is neither a network nor a backbone.
        ValueError: the stage does not exist.
    """
    model = as_trunk(model)
    for path in model.stage_paths[model.stage_index(downto) :]:
        model.get_submodule(path).requires_grad_(True)
        model.frozen.discard(path)
    model.train(model.training)


@contextmanager
def temporarily_frozen(model: nn.Module, upto: int | str = -1) -> Iterator[None]:
    """Freeze stages as `freeze` does, and restore the previous state on exit."""
    trunk = as_trunk(model)
    trained = [p for p in trunk.parameters() if p.requires_grad]
    frozen_before = set(trunk.frozen)
    freeze(trunk, upto)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        trunk.frozen = frozen_before
        trunk.train(trunk.training)
