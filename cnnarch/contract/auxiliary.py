"""The training-mode output of a network with auxiliary heads."""

from typing import NamedTuple

from torch import Tensor
from torch.utils._pytree import _register_namedtuple


class AuxLogits(NamedTuple):
    """Logits of the network and its auxiliary heads, starting with the head closest to the input.

    A network built with `aux_logits=True` returns this tuple in training mode. Train the network
    on a weighted sum of the losses. The GoogLeNet paper weights the auxiliary losses by 0.3.

    Args:
        logits: logits of the network.
        aux1: logits of the head closest to the input, or of the only one.
        aux2: logits of the second head; None if there is only one.
    """

    logits: Tensor
    aux1: Tensor
    aux2: Tensor | None = None


# torch.export can save a program only if its output types are registered under a name.
_register_namedtuple(AuxLogits, serialized_type_name="cnnarch.AuxLogits")
