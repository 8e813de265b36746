"""What other libraries call the tensors of our networks: one short rule file a family.

How to add a family: write `porting/<family>.py`, named as the model file, with a generator for
each library that has the network and a tuple `LAYOUTS`::

    def torchvision(model: Any) -> Iterator[Pair]:
        yield from conv_norm("stem", "conv1", "bn1")
        for i, stage in enumerate(model.stages):
            for j, block in enumerate(stage):
                yield from conv_norm(f"stages.{i}.{j}", f"layer{i + 1}.{j}.conv", ...)
        yield Pair("head.classifier", "fc")

    LAYOUTS = (Layout("torchvision", torchvision),)

A generator says which module of ours is which of theirs, by walking the network it is given, so
indices are plain arithmetic and one rule serves every depth. Because it gives pairs and not
rewriting steps, it reads both ways: `port` renames theirs to ours, `export` ours to theirs.

- A pair names a module (all its tensors keep their own names: weight, running_mean, ...) or a
  single tensor. The longest match wins. Pairs for modules that a network does not have are
  ignored, so a rule may name a shortcut that only some blocks have.
- A layout fits a network if its pairs cover every tensor; else it is passed over. So a file may
  hold rules for several classes, and a forgotten tensor shows in `tests/oracles`.
- Which layout a checkpoint has is found by comparing names (and then what the caller asked for),
  so two layouts may share their names and differ in `needs`, as timm's `efficientnet_b0` and
  `tf_efficientnet_b0` do. Put the commoner one first.
- `needs` holds what tensors do not show: eps, the place of a stride, the padding. They are
  builder options; loading applies them or refuses. State them all, defaults too, wherever two
  forms of the network exist.

`resnet.py` is the worked example.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["Layout", "Pair", "blocks", "conv_bn", "conv_norm", "layouts_of"]


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


def layouts_of(model: object) -> tuple[Layout, ...]:
    """The other libraries' layouts of a network: those of the model file its class comes from.

    Subclasses that users write have the layouts of what they derive from; a network that is not
    of this package has none.
    """
    for cls in type(model).__mro__:
        package, _, family = cls.__module__.rpartition(".")
        rules = f"{__name__}.{family}"
        if package == "cnnarch.models" and importlib.util.find_spec(rules):
            layouts: tuple[Layout, ...] = importlib.import_module(rules).LAYOUTS
            return layouts
    return ()
