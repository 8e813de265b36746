"""Turn standardized convolutions into ordinary ones that store the standardized weights."""

import torch
from torch import nn

from cnnarch.blocks.weight_standardization import StandardizedConv2d


@torch.no_grad()
def store_standardized_weights(model: nn.Module) -> None:
    """Turn every `StandardizedConv2d` into an `nn.Conv2d` with the same output, in place.

    Subclasses, which include parametrized convolutions, stay unchanged.
    """
    for conv in model.modules():
        if type(conv) is StandardizedConv2d:
            weight = torch.empty_like(conv.weight).copy_(conv.standardized_weight())
            conv.weight = nn.Parameter(weight, requires_grad=False)
            del conv.eps
            conv.__class__ = nn.Conv2d  # type: ignore[assignment]
