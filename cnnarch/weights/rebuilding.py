"""Check that a builder can recreate a network from its options."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, get_args, get_type_hints

import torch
from torch import nn

from cnnarch.blocks._settings import settings_of
from cnnarch.blocks._wrappers import uncompiled
from cnnarch.blocks.frozen_norm import FrozenBatchNorm
from cnnarch.facts.builders import BUILDERS, option_parameters
from cnnarch.weights.errors import WeightsError

_MAX_LISTED = 3
_CONVERSIONS = {"dilate": "cnnarch.dilation", "convert_norm": "cnnarch.finetuning"}
_TRAINING_CONSTANTS = ("momentum", "inplace", "p", "track_running_stats")
_IDENTITIES = (nn.Identity, nn.modules.dropout._DropoutNd)  # in eval mode
# Settings in a module's extra_repr that do not change its output in eval mode.
_TRAINING_SETTINGS = re.compile(r"(, )?\b(momentum|inplace|p|rate)=[^,]*")


def chosen_options(builder: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options whose values differ from the builder's defaults."""
    defaults = build_on_meta(builder, {}).options
    return {k: v for k, v in options.items() if k not in defaults or defaults[k] != v}


def check_rebuilds(model: Any) -> None:
    """Check that the network's builder recreates its layers from its options.

    Dropout rates, momentum and in-place activations may differ, because they have no effect in
    eval mode.

    Raises:
        WeightsError: no builder created the network, or its layers were changed afterwards. The
            message names the first changed layers.
    """
    builder = getattr(model, "builder", None)
    if builder not in BUILDERS:
        origin = "no builder" if builder is None else f"{builder}, which cnnarch does not define,"
        raise WeightsError(
            "only a network created by a builder such as cnnarch.resnet18 can be saved, because "
            f"the builder rebuilds it; {origin} created this {type(model).__name__}"
        )
    if changes := _describe_changes(model, model.conversions):
        raise WeightsError(
            f"this network cannot be saved: its layers were changed after {builder}() created it, "
            f"so its options cannot rebuild it: {changes}"
        )


def edited_layers(model: Any) -> list[str]:
    """Describe the layers with other settings than the builder gave them, which no tensor shows.

    Training settings such as momentum do not count.
    """
    if getattr(model, "builder", None) not in BUILDERS:
        return []
    try:
        built = _built_layers(model)
    except (TypeError, ValueError):  # its options were set by hand
        return []
    edits = []
    for path, module in model.named_modules():
        path = uncompiled(path)
        if path not in built or built[path].attributes == settings_of(module):
            continue
        now, before = _Layer.of(module), built[path].layer
        if "_orig_mod" in module._modules or (not path and now.kind is not before.kind):
            continue  # compiled, or a backbone
        # Other tensor names show the change by themselves.
        if now.tensors == before.tensors and (change := now.change_from(before)):
            edits.append(f"{path or 'the network'} {change}")
    return edits


def check_exports(model: Any, library: str) -> None:
    """Check that another library's network with the same tensors computes the same outputs.

    Raises:
        WeightsError: the network is dilated, or layers were converted to GroupNorm or changed.
    """
    conversions = getattr(model, "conversions", ())
    if any(name == "dilate" for name, _ in conversions):
        raise WeightsError(
            f"this network is dilated, but {library}'s is not unless it is built that way (for "
            "example with torchvision's replace_stride_with_dilation or timm's output_stride), and "
            "tensors do not show dilation: load `dict(model.state_dict())` into a network without "
            "dilation and export that one"
        )
    hidden = hidden_options(model.builder) if getattr(model, "builder", None) in BUILDERS else ()
    if "small_images" in hidden and model.options["small_images"]:
        raise WeightsError(
            f"this network was built with small_images=True, which {library}'s networks and their "
            "tensors do not have"
        )
    same = [conversion for conversion in conversions if conversion == ("convert_norm", "frozen")]
    is_rebuilt = getattr(model, "builder", None) in BUILDERS and hasattr(model, "head")
    if is_rebuilt and (changes := _describe_changes(model, same)):
        raise WeightsError(
            f"this network cannot be exported to {library}: its layers were changed after "
            f"{model.builder}() created it, so {library}'s network computes something else: "
            f"{changes}"
        )


def _describe_changes(model: Any, conversions: Iterable[tuple[str, Any]]) -> str:
    """Describe how the layers differ from those that the builder and the conversions create."""
    rebuilt = build_on_meta(model.builder, model.options)
    convert(rebuilt, conversions)
    return listed(list(_changed_modules(model, rebuilt)) or list(_changed_tensors(model, rebuilt)))


def listed(changes: Sequence[str]) -> str:
    """Join descriptions of changes; only the first three are listed."""
    more = len(changes) - _MAX_LISTED
    return "; ".join(changes[:_MAX_LISTED]) + (f"; and {more} more" if more > 0 else "")


def convert(model: Any, conversions: Iterable[tuple[str, Any]]) -> None:
    """Convert a network as `conversions` records.

    Raises:
        WeightsError: a conversion does not exist or is not possible.
    """
    for name, argument in conversions:
        try:
            function = getattr(import_module(_CONVERSIONS[name]), name)
            function(model, argument)
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"the network does not support {name}({argument!r})") from error


@cache
def hidden_options(builder: str) -> tuple[str, ...]:
    """Return the options that change what a network computes but neither names nor shapes."""
    network, default = BUILDERS[builder].__annotations__["return"], build_on_meta(builder, {})
    hints = get_type_hints(network.__init__)

    def is_hidden(name: str) -> bool:
        for value in _alternatives(hints.get(name), default.options[name]):
            try:
                other = build_on_meta(builder, {name: value})
            except ValueError:  # this network does not support the value
                continue
            same_tensors = not any(_changed_tensors(other, default))
            if same_tensors and any(_changed_modules(other, default)):
                return True
        return False

    return tuple(filter(is_hidden, option_parameters(network)))


def _alternatives(hint: Any, default: Any) -> Iterable[Any]:
    """Return other values of an option: all of a choice, or the double of a number."""
    if isinstance(default, bool) or hint == bool | None:
        values: Iterable[Any] = (True, False)
    elif isinstance(default, int | float):
        values = (2 * default,)
    else:
        values = get_args(hint)
    return [value for value in values if value != default and not isinstance(value, type)]


def build_on_meta(builder: str, options: Mapping[str, Any]) -> Any:
    """Build a network without values."""
    with torch.device("meta"):
        return BUILDERS[builder](**options)


def _changed_modules(model: nn.Module, rebuilt: nn.Module) -> Iterator[str]:
    """Describe each module that is missing, added or different."""
    current, original = dict(model.named_modules()), dict(rebuilt.named_modules())
    changed: list[str] = []
    for path in {**original, **current}:
        if path.startswith(tuple(f"{parent}." for parent in changed)):
            continue
        if path not in current:
            change = "is missing"
        elif path not in original:
            change = "" if isinstance(current[path], _IDENTITIES) else "was added"
        else:
            change = _Layer.of(current[path]).change_from(_Layer.of(original[path]))
        if change:
            changed.append(path)
            yield f"{path or 'the network'} {change}"


def _changed_tensors(model: nn.Module, rebuilt: nn.Module) -> Iterator[str]:
    """Describe each tensor that is missing, added or has a different shape."""
    current, original = (
        {name: tuple(t.shape) for name, t in m.state_dict().items()} for m in (model, rebuilt)
    )
    for name in {**current, **original}:
        if name not in original:
            yield f"{name} was added"
        elif name not in current:
            yield f"{name} is missing"
        elif current[name] != original[name]:
            yield f"{name} has shape {current[name]}, not {original[name]}"


class _Layer(NamedTuple):
    """What a module computes in eval mode, apart from the values of its tensors."""

    kind: type[nn.Module]
    name: str
    settings: str
    constants: Mapping[str, Any]
    tensors: frozenset[str]
    has_own_forward: bool

    @classmethod
    def of(cls, module: nn.Module) -> "_Layer":
        settings = _TRAINING_SETTINGS.sub("", module.extra_repr()).removeprefix(", ")
        tensors = frozenset(module._parameters) | frozenset(module._buffers)
        constants = {
            name: getattr(module, name)
            for name in getattr(module, "__constants__", ())
            if name not in _TRAINING_CONSTANTS and hasattr(module, name)
        }
        own_forward = "forward" in vars(module)
        return cls(_kind(module), type(module).__name__, settings, constants, tensors, own_forward)

    def change_from(self, before: "_Layer") -> str:
        """Describe how the module changed; empty if unchanged."""
        if (self.kind, self.settings) != (before.kind, before.settings):
            now, then = (f"{layer.name}({layer.settings})" for layer in (self, before))
            return f"is {now}, not {then}"
        differ = [k for k in self.constants if self.constants[k] != before.constants.get(k)]
        if differ:  # settings that the module does not print
            now = ", ".join(f"{name}={self.constants[name]}" for name in differ)
            return f"is {self.name}({self.settings}) with {now}"
        return "has a forward method that its class does not define" if self.has_own_forward else ""


class _Built(NamedTuple):
    """A layer and its attributes, which are quicker to compare."""

    layer: _Layer
    attributes: dict[str, Any]


_built: dict[str, dict[str, _Built]] = {}


def _built_layers(model: Any) -> dict[str, _Built]:
    """Return the layers that the network's builder makes with its options and conversions."""
    key = repr((model.builder, model.options, model.conversions))
    if key not in _built:
        rebuilt = build_on_meta(model.builder, model.options)
        convert(rebuilt, model.conversions)
        modules = rebuilt.named_modules()
        _built[key] = {path: _Built(_Layer.of(m), settings_of(m)) for path, m in modules}
    return _built[key]


def _kind(module: nn.Module) -> type[nn.Module]:
    """Return a module's class; all BatchNorm classes count as one, including frozen ones."""
    batch_norm: type[nn.Module] = nn.modules.batchnorm._BatchNorm
    if isinstance(module, batch_norm | FrozenBatchNorm):
        return batch_norm
    kind = type(module)
    return kind.__bases__[1] if hasattr(kind, "reshard") else kind  # FSDP2 derives classes
