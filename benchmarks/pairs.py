"""One network per family that another library also provides, and functions to build pairs."""

from typing import NamedTuple

import torch
from torch import nn

import cnnarch
from cnnarch.facts.builders import families
from cnnarch.facts.cards import Twin
from cnnarch.facts.sheets import read_sheet, twins

INPUT_SIZE = (3, 224, 224)
LIBRARIES = ("torchvision", "timm", "pytorchcv")


class Pair(NamedTuple):
    """A cnnarch network and the same network from another library.

    Both networks are built without auxiliary classifiers.

    Args:
        twin: the row of the fact sheet that names both networks.
    """

    twin: Twin

    @property
    def network(self) -> str:
        """The name of our builder."""
        return self.twin.builder

    @property
    def library(self) -> str:
        """The other library, one of `LIBRARIES`."""
        return self.twin.library

    @property
    def without(self) -> dict[str, bool]:
        """Options that disable auxiliary classifiers, if there are any."""
        return {"aux_logits": False} if "aux_logits" in self.twin.options else {}

    def ours(self) -> nn.Module:
        """Return our network with the twin's options and random weights."""
        torch.manual_seed(0)
        return cnnarch.get_model(self.network, **{**self.twin.options, **self.without})

    def theirs(self) -> nn.Module:
        """Return the other library's network with the same weights."""
        arguments = {**self.twin.arguments, **self.without}
        if self.library == "timm":
            import timm

            model: nn.Module = timm.create_model(self.twin.name, **arguments)
        elif self.library == "pytorchcv":
            from pytorchcv.model_provider import get_model as get_pytorchcv_model

            model = get_pytorchcv_model(self.twin.name, **arguments)
        else:
            from torchvision.models import get_model

            model = get_model(self.twin.name, weights=None, **arguments)
        model.load_state_dict(cnnarch.weights.export(self.ours(), layout=self.library))
        return model


def pairs() -> tuple[Pair, ...]:
    """Return a pair for each network that the fact sheets select for benchmarks, oldest first."""
    names = [name for family in families() for name in read_sheet(family).benchmarked]
    names.sort(key=lambda name: cnnarch.get_card(name).year or 0)
    rows = (next(t for t in twins(name) if t.library in LIBRARIES) for name in names)
    return tuple(map(Pair, rows))


PAIRS = pairs()


def images(count: int) -> torch.Tensor:
    """Return random images of the size that all pairs accept."""
    return torch.randn(count, *INPUT_SIZE, generator=torch.Generator().manual_seed(0))
