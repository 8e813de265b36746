"""Weight initialisation rules, each applied in place to one layer, or by name to all of a model.

A layer on the meta device has no values, so it is left alone: building there stays quick.
"""

import math
from collections.abc import Callable

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

Layer = nn.Conv2d | nn.Linear


def he_normal_(layer: Layer) -> None:
    r"""Draw weights from $N(0, 2 / \mathrm{fan_{out}})$ and set the bias to 0.

    $\mathrm{fan_{out}}$ counts what one input unit reaches: kernel area times output channels
    of a group. Source: He et al., 2015 (arXiv 1502.01852), eq. 14.
    """
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    receptive = layer.weight[0, 0].numel()
    fan_out = receptive * layer.weight.shape[0] // groups
    normal_(layer, math.sqrt(2 / fan_out))


def lecun_normal_(layer: Layer) -> None:
    r"""Draw weights from $N(0, 1 / \mathrm{fan_{in}})$ cut off at two deviations; the bias to 0.

    The normal is a little wider before the cut, so that the variance is $1 / fan_{in}$ after it.
    Sources: LeCun et al., "Efficient BackProp", 1998, sec. 4.6; the cut is JAX's.
    """
    if not layer.weight.is_meta:
        std = math.sqrt(1 / layer.weight[0].numel()) / 0.8796256610342398
        share = math.erf(math.sqrt(2))  # of a normal distribution within two deviations
        with (
            torch.no_grad()
        ):  # the inverse of the distribution: trunc_normal_ takes 20 times longer
            layer.weight.uniform_(-share, share).erfinv_().mul_(math.sqrt(2) * std)
        constant_(layer.bias, 0.0)


def normal_(layer: Layer, std: float, bias: float = 0.0) -> None:
    """Draw weights from a normal distribution and set the bias to a constant."""
    if not layer.weight.is_meta:
        nn.init.normal_(layer.weight, std=std)
        constant_(layer.bias, bias)


def uniform_(layer: Layer, bound: float, bias: float = 0.0) -> None:
    """Draw weights uniformly from [-bound, bound] and set the bias to a constant."""
    if not layer.weight.is_meta:
        nn.init.uniform_(layer.weight, -bound, bound)
        constant_(layer.bias, bias)


def xavier_uniform_(layer: Layer, bias: float = 0.0) -> None:
    """Draw weights uniformly with variance 2 / (fan_in + fan_out); the bias to a constant.

    Source: Glorot and Bengio, 2010, eq. 16.
    """
    if not layer.weight.is_meta:
        nn.init.xavier_uniform_(layer.weight)
        constant_(layer.bias, bias)


def constant_(parameter: torch.Tensor | None, value: float) -> None:
    """Fill a parameter, if the layer has it, with a constant."""
    if parameter is not None and not parameter.is_meta:
        nn.init.constant_(parameter, value)


def init_weights(model: nn.Module, rule: str) -> None:
    """Initialise every convolution and linear layer anew, by one rule; biases become 0.

    Networks come initialised as their papers say; this is for those who want another rule.
    Normalisation layers go back to scale 1 and shift 0.

    Args:
        model: any module; changed in place.
        rule: "xavier" (uniform, Glorot and Bengio, 2010), "kaiming" (normal, fan-out of
            convolutions and fan-in of linear layers, He et al., 2015), "orthogonal" (Saxe et
            al., 2014) or "torch" (what PyTorch's layers do).

    Raises:
        ValueError: there is no such rule.

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
    """By fan-out, a classifier's logits would begin the wider the fewer its classes."""
    if isinstance(layer, nn.Linear):
        normal_(layer, math.sqrt(2 / layer.in_features))
    else:
        he_normal_(layer)


def _torch_(layer: Layer) -> None:
    layer.reset_parameters()


_RULES: dict[str, Callable[[Layer], None]] = {
    "xavier": xavier_uniform_,
    "kaiming": _kaiming_,
    "orthogonal": _orthogonal_,
    "torch": _torch_,
}
RULES = tuple(_RULES)
"""Names that `init_weights` takes."""
