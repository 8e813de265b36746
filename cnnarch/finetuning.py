"""Prepare a network for training."""

from collections.abc import Callable

from torch import nn

from cnnarch.blocks.initialization import constant_, he_normal_, xavier_uniform_

__all__ = ["init_weights"]

Layer = nn.Conv2d | nn.Linear


def _orthogonal_(layer: Layer) -> None:
    nn.init.orthogonal_(layer.weight)
    constant_(layer.bias, 0.0)


_RULES: dict[str, Callable[[Layer], None]] = {
    "xavier": xavier_uniform_,
    "kaiming": he_normal_,
    "orthogonal": _orthogonal_,
    "torch": lambda layer: layer.reset_parameters(),
}


def init_weights(model: nn.Module, rule: str) -> None:
    """Initialise every convolution and linear layer anew, by one rule; biases become 0.

    Networks come initialised as their papers say; this is for those who want another rule.
    Normalisation layers go back to scale 1 and shift 0.

    Args:
        model: any module; changed in place.
        rule: "xavier" (uniform, Glorot and Bengio, 2010), "kaiming" (normal, fan-out, He et
            al., 2015), "orthogonal" (Saxe et al., 2014) or "torch" (what PyTorch's layers do).

    Raises:
        ValueError: there is no such rule.

    >>> init_weights(nn.Linear(8, 2), "xavier")
    """
    if rule not in _RULES:
        raise ValueError(f"there is no rule {rule!r}; the rules are {', '.join(_RULES)}")
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            _RULES[rule](module)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.GroupNorm):
            module.reset_parameters()
