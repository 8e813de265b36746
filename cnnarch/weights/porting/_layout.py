"""Building blocks of the rules: pairs of names, and layouts that consist of them."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn


class Pair(NamedTuple):
    """The names of a module, or of a tensor, in cnnarch and in another library.

    Args:
        ours: dotted name in the cnnarch network.
        theirs: dotted name in the other library's network.
        shape: shape of their weight, as passed to `torch.reshape`, if it differs from ours:
            `(-1, 512, 7, 7)` for a 7x7 convolution that is a linear layer in cnnarch. Biases are
            not reshaped.
    """

    ours: str
    theirs: str
    shape: tuple[int, ...] | None = None


def always(**options: Any) -> Callable[[Any], dict[str, Any]]:
    """Return a `required_options` function that does not depend on the network."""

    def required_options(_model: Any) -> dict[str, Any]:
        """Return the same options for every network."""
        return dict(options)

    return required_options


class Layout(NamedTuple):
    """The names that one library uses for a family's tensors.

    Args:
        library: "torchvision", "timm", "pytorchcv", "cadene" or "efficientnet_pytorch".
        pairs: returns the pairs for a network of the family, which may be on the meta device.
        required_options: returns the builder options that make our network equivalent to the
            library's and that cannot be inferred from its tensors, such as `{"norm_eps": 1e-3}`.
        architectures: shell-style wildcard pattern for the library's names for these networks. It
            distinguishes layouts with the same tensor names: "efficientnet_*" and
            "tf_efficientnet_*".
        before_port: converts their state dict to the form that `pairs` describes, for example if
            a new version of the library renamed tensors. It must return unrecognized state dicts
            unchanged and must not modify tensors in place.
        after_export: adds tensors that our network lacks to an exported state dict, for example
            zero biases before a norm.
        ignored: the library's modules that our network may lack, such as auxiliary heads. Export
            omits them.
    """

    library: str
    pairs: Callable[[Any], Iterator[Pair]]
    required_options: Callable[[Any], dict[str, Any]] = always()
    architectures: str = "*"
    before_port: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    after_export: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    ignored: tuple[str, ...] = ()


def conv_norm(ours: str, conv: str, norm: str) -> Iterator[Pair]:
    """Yield the two pairs of our `ConvNormAct`."""
    yield Pair(f"{ours}.conv", conv)
    yield Pair(f"{ours}.norm", norm)


def conv_bn(ours: str, theirs: str) -> Iterator[Pair]:
    """Yield the two pairs of our `ConvNormAct` for layers named `conv` and `bn` in the library."""
    return conv_norm(ours, f"{theirs}.conv", f"{theirs}.bn")


def blocks(model: Any) -> Iterator[tuple[str, Any, int, int]]:
    """Yield each block's name, module, stage index and index within the stage (both from 0).

    Other layers of a stage, such as pools, have names instead of numbers and are skipped.
    """
    for i, stage in enumerate(model.stages):
        for name, block in stage.named_children():
            if name.isdigit():
                yield f"stages.{i}.{name}", block, i, int(name)


def children(module: nn.Module, kind: type[nn.Module]) -> list[str]:
    """Return the names of a module's direct children of one kind, in order."""
    return [name for name, child in module.named_children() if isinstance(child, kind)]
