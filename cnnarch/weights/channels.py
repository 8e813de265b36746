"""Images of another number of channels: the first convolution is found and adapted."""

from typing import Literal

from torch import Tensor, nn

__all__ = ["Adapt", "adapt_input", "first_convolution"]

Adapt = Literal["mean", "repeat", "random"]


def first_convolution(model: nn.Module) -> str | None:
    """Name of the weight that meets the image: the first convolution in registration order."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            return f"{name}.weight" if name else "weight"
    return None


def adapt_input(weight: Tensor, channels: int, adapt: Adapt = "mean") -> Tensor:
    """The weight of a convolution for images of `channels` channels.

    Args:
        weight: of an ungrouped convolution, (out, m, h, w).
        channels: of the new images, n.
        adapt: "mean" gives each new channel the sum over the old ones divided by n, so that one
            channel x is seen as (x, x, x) was and a grey image as before; "repeat" takes the
            old channels in turn, times m / n.

    Shape:
        (out, m, h, w) -> (out, n, h, w)
    """
    old = weight.shape[1]
    if adapt == "mean":
        total = weight.sum(1, keepdim=True) / channels
        return total.repeat(1, channels, 1, 1)
    return weight[:, [i % old for i in range(channels)]] * (old / channels)
