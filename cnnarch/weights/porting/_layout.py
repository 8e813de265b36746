"""What rules are written with: pairs of names, and the layout that they make."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["Layout", "Pair", "blocks", "conv_bn", "conv_norm"]


class Pair(NamedTuple):
    """A module, or a tensor, of ours and its name elsewhere.

    Args:
        ours: dotted name in the cnnarch network.
        theirs: dotted name in the other library's.
        shape: their weight's shape where it is our weight in another view, as `torch.reshape`
            takes it: `(-1, 512, 7, 7)` for a 7x7 convolution where we have a linear layer. A
            bias has one dimension in both and is left alone.
    """

    ours: str
    theirs: str
    shape: tuple[int, ...] | None = None


def _nothing(_model: Any) -> dict[str, Any]:
    return {}


class Layout(NamedTuple):
    """How one library names the tensors of a family.

    Args:
        library: "torchvision", "timm", "pytorchcv", "cadene", "efficientnet_pytorch".
        pairs: gives the pairs for a network of the family, which may be on the meta device.
        needs: gives the builder options that the library's network corresponds to and that its
            tensors do not show, `{"norm_eps": 1e-3, "padding": "same"}`.
        builders: shell wildcard on the library's names of these networks. Layouts that share
            their tensors' names have different ones: "efficientnet_*" and "tf_efficientnet_*".
        before: rewrites their state dict into the form that `pairs` names: tensors renamed
            between versions, biases folded into a norm. Export gives that newer form. It must
            leave a state dict that it does not know as it is, and change no tensor in place.
        after: adds to an exported state dict what theirs has and ours does without, such as
            biases of zero before a norm.
        ignored: beginnings of their names that we may have no tensor for, such as auxiliary
            heads. Export leaves them out.
    """

    library: str
    pairs: Callable[[Any], Iterator[Pair]]
    needs: Callable[[Any], dict[str, Any]] = _nothing
    builders: str = "*"
    before: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    after: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    ignored: tuple[str, ...] = ()


def conv_norm(ours: str, conv: str, norm: str) -> Iterator[Pair]:
    """The two pairs of a `ConvNormAct` called `ours`."""
    yield Pair(f"{ours}.conv", conv)
    yield Pair(f"{ours}.norm", norm)


def conv_bn(ours: str, theirs: str) -> Iterator[Pair]:
    """The two pairs of a `ConvNormAct` whose parts they call `conv` and `bn`."""
    return conv_norm(ours, f"{theirs}.conv", f"{theirs}.bn")


def blocks(model: Any) -> Iterator[tuple[str, Any, int, int]]:
    """Name and module of each block with its stage and its number in it, both from 0.

    What opens or closes a stage, such as a pool, has a name there in place of a number.
    """
    for i, stage in enumerate(model.stages):
        for name, block in stage.named_children():
            if name.isdigit():
                yield f"stages.{i}.{name}", block, i, int(name)
