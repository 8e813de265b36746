"""One network of each family that torchvision or timm has too, and how to build both."""

from typing import NamedTuple

import torch
from torch import nn

import cnnarch
from cnnarch.facts.builders import families
from cnnarch.facts.sheets import read_sheet, twins

INPUT_SIZE = (3, 224, 224)


class Pair(NamedTuple):
    """A network and the same one of another library.

    Args:
        network: our builder.
        library: "torchvision" or "timm".
        twin: what that library calls it.
    """

    network: str
    library: str
    twin: str

    def ours(self) -> nn.Module:
        """Our network in the twin's form, with random weights; auxiliary classifiers rest."""
        (twin,) = [t for t in twins(self.network, self.library) if t.name == self.twin]
        torch.manual_seed(0)
        model = cnnarch.get_model(self.network, **twin.options)
        if hasattr(model, "aux_logits"):
            model.aux_logits = False
        return model

    def theirs(self) -> nn.Module:
        """Their network with the same weights, without auxiliary classifiers."""
        if self.library == "timm":
            import timm

            model: nn.Module = timm.create_model(self.twin)
        else:
            from torchvision.models import get_model

            few = {"aux_logits": False, "init_weights": False} if self.twin == "googlenet" else {}
            model = get_model(self.twin, weights=None, **few)
        weights = cnnarch.weights.export(self.ours(), layout=self.library)
        own = model.state_dict()  # without the auxiliary classifiers, which ours may have
        model.load_state_dict({name: weights[name] for name in own})
        return model


def pairs() -> tuple[Pair, ...]:
    """The networks that the sheets name for benchmarks, oldest first, with a twin."""
    names = [name for family in families() for name in read_sheet(family).benchmarked]
    names.sort(key=lambda name: cnnarch.get_card(name).year or 0)
    rows = [next(t for t in twins(name) if t.library in ("torchvision", "timm")) for name in names]
    return tuple(Pair(t.builder, t.library, t.name) for t in rows)


PAIRS = pairs()


def images(count: int) -> torch.Tensor:
    """Random images of the size that all pairs take."""
    return torch.randn(count, *INPUT_SIZE, generator=torch.Generator().manual_seed(0))
