"""Stages that training leaves as they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import nn

from cnnarch.blocks._checks import check_choice
from cnnarch.contract.trunk import Trunk, check_trunk

__all__ = ["freeze", "frozen", "paths_of", "trunk_of", "unfreeze"]


def freeze(
    model: Trunk, upto: int | str = -1, batch_norm: Literal["eval", "train"] = "eval"
) -> None:
    """Keep the stem and the stages up to `upto` as they are while the rest is trained.

    Their parameters get no gradient, and lose the one they have. With `batch_norm="eval"` they
    also stay in eval mode whatever `model.train()` says, so that running statistics do not move
    and nothing is dropped. Stages behind `upto` that were frozen before stay so.

    Args:
        model: a network or a backbone.
        upto: the last stage to freeze, by index in `feature_info` or by name; all by default.
        batch_norm: "eval" holds BatchNorm's statistics, "train" lets them follow the new data.

    Raises:
        TypeError: it is neither a network nor a backbone.
        ValueError: there is no such stage (the head cannot be frozen), or no such mode.

    >>> import cnnarch
    >>> model = cnnarch.resnet18(num_classes=10)
    >>> freeze(model, upto="conv4_x")
    >>> model.stages[2].training, model.stages[3].training
    (False, True)
    """
    check_choice("batch_norm", batch_norm, ("eval", "train"))
    model = trunk_of(model)
    for path in paths_of(model)[: model.stage_index(upto) + 1]:
        part = model.get_submodule(path).requires_grad_(False)
        part.zero_grad()  # an optimizer would still follow what is left of the last step
        keep = model.frozen.add if batch_norm == "eval" else model.frozen.discard
        keep(path)
    model.train(model.training)


def unfreeze(model: Trunk, downto: int | str = 0) -> None:
    """Train the stages from `downto` on again; what is below stays as it is.

    Args:
        model: a network or a backbone.
        downto: the lowest stage to train, by index in `feature_info` or by name.

    Raises:
        TypeError: it is neither a network nor a backbone.
        ValueError: there is no such stage.
    """
    model = trunk_of(model)
    for path in paths_of(model)[model.stage_index(downto) :]:
        model.get_submodule(path).requires_grad_(True)
        model.frozen.discard(path)
    model.train(model.training)


@contextmanager
def frozen(model: nn.Module, upto: int | str = -1) -> Iterator[None]:
    """Freeze stages for a while, and train after it what was trained before.

    Args:
        model: a network or a backbone.
        upto: as `freeze` takes it.
    """
    trunk = trunk_of(model)
    trained = [p for p in trunk.parameters() if p.requires_grad]
    before = set(trunk.frozen)
    freeze(trunk, upto)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        trunk.frozen = before
        trunk.train(trunk.training)


def trunk_of(model: nn.Module) -> Trunk:
    """The network or backbone itself, out of what torch.compile wraps around it."""
    return check_trunk(getattr(model, "_orig_mod", model))


def paths_of(model: Trunk) -> list[str]:
    """Module paths of the stem and the stages of a network."""
    return ["stem", *(f"stages.{i}" for i in range(len(model.stages)))]
