"""Turn standardized convolutions into ordinary ones that store the standardized weights."""

import torch
from torch import nn

from cnnarch.blocks.weight_standardization import StandardizedConv2d


def store_standardized_weights(model: nn.Module) -> None:
    """Turn every `StandardizedConv2d` into an `nn.Conv2d`, in place.

    Weights are standardized in float64. Subclasses, which include parametrized convolutions, stay
    unchanged.
    """
    for conv in model.modules():
        if type(conv) is StandardizedConv2d:
            weight = conv.weight.detach()
            device = "cpu" if weight.device.type == "mps" else weight.device  # it lacks float64
            double = weight.to(device, torch.float64)
            double = nn.functional.layer_norm(double, double.shape[1:], eps=conv.eps)
            stored = torch.empty_like(weight).copy_(double)
            conv.weight = nn.Parameter(stored, requires_grad=False)
            del conv.eps
            conv.__class__ = nn.Conv2d  # type: ignore[assignment]
