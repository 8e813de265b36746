"""The output in training mode of a network with auxiliary heads."""

from typing import NamedTuple

from torch import Tensor
from torch.utils._pytree import _register_namedtuple

__all__ = ["AuxLogits"]


class AuxLogits(NamedTuple):
    """Logits of the network and of its auxiliary heads, lowest head first.

    A network built with `aux_logits=True` returns them in training mode. Train it on a weighted
    sum of the losses. The GoogLeNet paper weights the auxiliary losses by 0.3.
    """

    logits: Tensor
    aux1: Tensor
    aux2: Tensor | None = None


# torch.export can save a program only if its output types have registered names.
_register_namedtuple(AuxLogits, serialized_type_name="cnnarch.AuxLogits")
