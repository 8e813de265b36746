"""What a network with auxiliary heads returns in training."""

from typing import NamedTuple

from torch import Tensor
from torch.utils._pytree import _register_namedtuple

__all__ = ["AuxLogits"]


class AuxLogits(NamedTuple):
    """Logits of the network and of its auxiliary heads, lowest head first.

    A network built with `aux_logits=True` returns it in training mode; train it on the sum of
    the losses, the auxiliary ones weighed down (0.3 in the GoogLeNet paper).
    """

    logits: Tensor
    aux1: Tensor
    aux2: Tensor | None = None


# Without a registered name, torch.export could run such a network but not save it.
_register_namedtuple(AuxLogits, serialized_type_name="cnnarch.AuxLogits")
