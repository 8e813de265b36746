"""Weight initialization rules.

Each rule changes a layer in place and returns it. `init_weights` applies a rule to a whole model.
Layers on the meta device hold no values and are skipped, so building a model there stays fast.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnarch.blocks._checks import check_choice

__all__ = [
    "constant_",
    "he_normal_",
    "init_weights",
    "lecun_normal_",
    "normal_",
    "uniform_",
    "xavier_uniform_",
]

Layer = nn.Conv1d | nn.Conv2d | nn.Linear
LayerType = TypeVar("LayerType", bound=Layer)


def he_normal_(layer: LayerType) -> LayerType:
    r"""Draw weights from $N(0, 2 / \mathrm{fan_{out}})$ and set the bias to 0.

    $\mathrm{fan_{out}}$ is the kernel area times the output channels of one group.
    Source: He et al., 2015 (arXiv 1502.01852), eq. 14.
    """
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    receptive = layer.weight[0, 0].numel()
    fan_out = receptive * layer.weight.shape[0] // groups
    return normal_(layer, math.sqrt(2 / fan_out))


def he_fan_in_(layer: LayerType) -> LayerType:
    r"""Draw weights from $N(0, 2 / \mathrm{fan_{in}})$ and set the bias to 0.

    Source: He et al., 2015 (arXiv 1502.01852), eq. 10.
    """
    return normal_(layer, math.sqrt(2 / layer.weight[0].numel()))


def lecun_normal_(layer: LayerType) -> LayerType:
    r"""Draw weights from a truncated normal distribution with variance $1 / \mathrm{fan_{in}}$.

    The distribution is truncated at two standard deviations and has this variance after
    truncation. The bias is set to 0.
    Sources: LeCun et al., "Efficient BackProp", 1998, sec. 4.6; JAX for the truncation.
    """
    if not layer.weight.is_meta:
        std = math.sqrt(1 / layer.weight[0].numel()) / 0.8796256610342398
        within = math.erf(math.sqrt(2))  # probability of being within two standard deviations
        with torch.no_grad():  # inverse transform sampling is 20 times faster than trunc_normal_
            layer.weight.uniform_(-within, within).erfinv_().mul_(math.sqrt(2) * std)
        constant_(layer.bias, 0.0)
    return layer


def normal_(layer: LayerType, std: float, bias: float = 0.0) -> LayerType:
    """Draw weights from a normal distribution and set the bias to a constant."""
    if not layer.weight.is_meta:
        nn.init.normal_(layer.weight, std=std)
        constant_(layer.bias, bias)
    return layer


def uniform_(layer: LayerType, bound: float, bias: float = 0.0) -> LayerType:
    """Draw weights uniformly from [-bound, bound] and set the bias to a constant."""
    if not layer.weight.is_meta:
        nn.init.uniform_(layer.weight, -bound, bound)
        constant_(layer.bias, bias)
    return layer


def xavier_uniform_(layer: LayerType, bias: float = 0.0) -> LayerType:
    """Draw weights uniformly with variance 2 / (fan_in + fan_out); set the bias to a constant.

    Source: Glorot and Bengio, 2010, eq. 16.
    """
    if not layer.weight.is_meta:
        nn.init.xavier_uniform_(layer.weight)
        constant_(layer.bias, bias)
    return layer


def constant_(parameter: torch.Tensor | None, value: float) -> None:
    """Fill a parameter with a constant; None and meta tensors are ignored."""
    if parameter is not None and not parameter.is_meta:
        nn.init.constant_(parameter, value)


def init_weights(model: nn.Module, rule: str) -> None:
    """Reinitialize all convolutions and linear layers with one rule and set their biases to 0.

    Networks are already initialized as their papers specify. Use this function to try a different
    rule. Normalization layers are reset to scale 1 and shift 0.

    Args:
        model: any module; modified in place.
        rule: "xavier" (uniform, Glorot and Bengio, 2010), "kaiming" (normal, with fan-out for
            convolutions and fan-in for linear layers, He et al., 2015), "orthogonal" (Saxe et
            al., 2014) or "torch" (PyTorch's defaults).

    Raises:
        ValueError: `rule` is unknown.

    >>> init_weights(nn.Linear(8, 2), "xavier")
    """
    check_choice("rule", rule, RULES)
    for module in model.modules():
        if isinstance(module, Layer):
            _RULES[rule](module)
        elif isinstance(module, _BatchNorm | nn.LayerNorm | nn.GroupNorm):
            module.reset_parameters()


def _orthogonal_(layer: Layer) -> None:
    nn.init.orthogonal_(layer.weight)
    constant_(layer.bias, 0.0)


def _kaiming_(layer: Layer) -> None:
    """Use fan-in for linear layers; with fan-out, fewer classes would mean larger logits."""
    if isinstance(layer, nn.Linear):
        he_fan_in_(layer)
    else:
        he_normal_(layer)


_RULES: dict[str, Callable[[Layer], object]] = {
    "xavier": xavier_uniform_,
    "kaiming": _kaiming_,
    "orthogonal": _orthogonal_,
    "torch": lambda layer: layer.reset_parameters(),
}
RULES = tuple(_RULES)
"""The rule names that `init_weights` accepts."""
