"""Adapt the first convolution to another number of image channels."""

from typing import Literal

from torch import Tensor, nn

__all__ = ["Adapt", "adapt_input", "first_convolution"]

Adapt = Literal["mean", "repeat", "random"]


def first_convolution(model: nn.Module) -> str | None:
    """Return the name of the first convolution's weight, in registration order."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            return f"{name}.weight" if name else "weight"
    return None


def adapt_input(weight: Tensor, channels: int, adapt: Adapt = "mean") -> Tensor:
    """Convert the weight of a convolution for images with `channels` channels.

    Args:
        weight: of an ungrouped convolution, (out, m, h, w).
        channels: number of new channels, n.
        adapt: "mean" sets each new channel to the sum of the old ones divided by n, so that a
            one-channel image x yields the output of (x, x, x). "repeat" cycles through the old
            channels and scales them by m / n.

    Shape:
        (out, m, h, w) -> (out, n, h, w)
    """
    old = weight.shape[1]
    if adapt == "mean":
        total = weight.sum(1, keepdim=True) / channels
        return total.repeat(1, channels, 1, 1)
    return weight[:, [i % old for i in range(channels)]] * (old / channels)
