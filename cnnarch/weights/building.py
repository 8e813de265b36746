"""Build a network for a checkpoint: on the meta device, then the tensors take their places."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from cnnarch.blocks.head import ClassifierHead
from cnnarch.facts.builders import option_parameters
from cnnarch.weights.channels import first_convolution
from cnnarch.weights.errors import WeightsError
from cnnarch.weights.loading import fit, put, recognise, remember, warn_of_rivals
from cnnarch.weights.names import Match
from cnnarch.weights.options import contradicted
from cnnarch.weights.source import Checkpoint, Source, read_checkpoint

__all__ = ["build_with_weights"]

P = ParamSpec("P")
Network = TypeVar("Network", bound=nn.Module)


def build_with_weights(
    name: str, weights: Source, network: Callable[P, Network], *args: P.args, **options: P.kwargs
) -> Network:
    """Construct `network(*args, **options)` for a checkpoint and load it.

    Options that were not given are the checkpoint's: its number of classes and of channels, and
    what its tensors depend on. Given ones win where they can: another `num_classes` gives fresh
    classifiers, another `in_channels` an adapted first convolution.

    Args:
        name: the builder, recorded with the options.
        weights: a tag, a path, a hub name, an address, a catalog entry or a state dict.
        network: the class; its keyword-only arguments are the options.
        *args: for the class.
        **options: for the class, as the caller gave them.

    Raises:
        WeightsError: the checkpoint cannot be read, does not fit, or needs another option than
            was given.
    """
    checkpoint = read_checkpoint(weights, name)
    known = option_parameters(network)

    def build(given: Mapping[str, Any]) -> tuple[Any, Match]:
        with torch.device("meta"):
            model: Any = network(*args, **given)
        model.builder = name
        model.options = {option: model.options[option] for option in known}
        return model, recognise(checkpoint, model, given)

    _refuse(checkpoint, checkpoint.needs, options)
    brought = {k: v for k, v in checkpoint.options.items() if k in known}
    model, found = build({**brought, **options})
    warn_of_rivals(checkpoint, found, model)
    needs = found.layout.needs(model) | checkpoint.needs
    _refuse(checkpoint, needs, options)
    wanted = {**contradicted(model, needs), **_sizes(found, model)}
    more = {k: v for k, v in wanted.items() if k in known and k not in options}
    if more:
        model, found = build({**brought, **more, **options})
    _refuse_present(checkpoint, model, needs)
    fresh = _load(checkpoint, found, model)
    first = first_convolution(model)
    if first in fresh:  # a network outside meta has it initialised by its family's rule
        put(model, first, network(*args, **{**brought, **more, **options}).state_dict()[first])
        warnings.warn(
            f"{first} starts fresh: small_images=True makes its kernel smaller than in "
            f"{checkpoint.label}",
            stacklevel=4,
        )
    return model


def _load(checkpoint: Checkpoint, found: Match, model: nn.Module) -> tuple[str, ...]:
    """Put the tensors in place, and make fresh classifiers outside meta; the names of the fresh."""
    fitted = fit(checkpoint, found, model)
    for name, tensor in fitted.tensors.items():
        put(model, name, tensor)
    for name, module in model.named_modules():
        if isinstance(module, ClassifierHead) and _any_in(fitted.fresh, name):
            module.reset_classifier(module.num_classes)
    for name, tensor in model.state_dict().items():
        counts = name.endswith("num_batches_tracked")  # old checkpoints do not have it
        if tensor.is_meta and counts:
            put(model, name, torch.zeros(tensor.shape, dtype=tensor.dtype))
    remember(model, checkpoint, fitted, {})
    return fitted.fresh


def _sizes(found: Match, model: nn.Module) -> dict[str, int]:
    """Number of classes and of channels that the checkpoint's tensors are for."""
    sizes: dict[str, int] = {}
    classifier = [t for k, t in found.tensors.items() if k.startswith("head.classifier.")]
    if classifier and classifier[0].dim():
        sizes["num_classes"] = classifier[0].shape[0]
    elif any(k.startswith("head.classifier.") for k in found.missing):
        sizes["num_classes"] = 0
    first = found.tensors.get(first_convolution(model) or "")
    if first is not None and first.dim() == 4:
        sizes["in_channels"] = first.shape[1]
    own = {"num_classes": getattr(model, "num_classes", None)}
    own["in_channels"] = getattr(model, "in_channels", None)
    return {name: size for name, size in sizes.items() if size != own[name]}


def _refuse(checkpoint: Checkpoint, needs: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    for name, value in needs.items():
        if name in given and given[name] != value:
            raise WeightsError(
                f"{checkpoint.label} needs {name}={value!r}, got {name}={given[name]!r}"
            )


def _refuse_present(checkpoint: Checkpoint, model: Any, needs: Mapping[str, Any]) -> None:
    for name, value in contradicted(model, needs).items():
        has = repr(model.options[name]) if name in model.options else "no such option"
        raise WeightsError(f"{checkpoint.label} needs {name}={value!r}, the network has {has}")


def _any_in(names: tuple[str, ...], module: str) -> bool:
    return any(name.startswith(f"{module}.") for name in names)
