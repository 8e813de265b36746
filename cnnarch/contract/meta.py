"""A network without its values, to see shapes flow through it."""

import copy
from typing import TypeVar

from torch import nn

__all__ = ["without_memory"]

Module = TypeVar("Module", bound=nn.Module)


def without_memory(model: Module) -> Module:
    """A copy on the meta device, in eval mode: shapes flow through it, values do not."""
    # Tensors are swapped while copying, so that no second copy of the weights is made.
    tensors = {id(t): t.detach().to("meta") for t in (*model.parameters(), *model.buffers())}
    for parameter in model.parameters():
        twin = tensors[id(parameter)]
        tensors[id(parameter)] = nn.Parameter(twin, parameter.requires_grad)
    return copy.deepcopy(model, tensors).eval().float()  # as the images that pass through it
