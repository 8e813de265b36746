"""Adapt the convolutions that read the image to a different number of channels."""

from dataclasses import replace
from typing import Literal

from torch import Tensor, nn

from cnnarch.blocks.reparameterization import RepConv
from cnnarch.preprocessing import Preprocessing

Adapt = Literal["mean", "repeat", "random"]


def first_convolutions(model: nn.Module) -> list[str]:
    """Return the weight names of the convolutions that read the image.

    This is the first convolution in registration order, or those in all branches of a first
    `RepConv`. The list is empty if the model has no convolutions.
    """
    for name, module in model.named_modules(prefix="model"):
        if isinstance(module, nn.Conv2d | RepConv):
            layers = module.named_modules(prefix=name)
            weights = (f"{path}.weight" for path, layer in layers if isinstance(layer, nn.Conv2d))
            return [weight.removeprefix("model.") for weight in weights]
    return []


def adapt_preprocessing(
    preprocessing: Preprocessing | None, channels: int, adapt: Adapt = "mean"
) -> Preprocessing | None:
    """Convert the mean and standard deviation as `adapt_input` converts the weight.

    With "repeat", they are repeated in the order of the channels; otherwise each new channel has
    the average of the old ones.
    """
    if preprocessing is None or len(preprocessing.mean) == channels:
        return preprocessing
    old = len(preprocessing.mean)
    mean, std = (
        tuple(values[i % old] for i in range(channels))
        if adapt == "repeat"
        else (sum(values) / old,) * channels
        for values in (preprocessing.mean, preprocessing.std)
    )
    return replace(preprocessing, mean=mean, std=std)


def adapt_input(weight: Tensor, channels: int, adapt: Adapt = "mean") -> Tensor:
    """Adapt a convolution's weight to images with `channels` channels.

    A `StandardizedConv2d` standardizes the adapted weight again, which multiplies each output
    channel by a factor.

    Args:
        weight: weight of an ungrouped convolution, of shape (out, m, h, w).
        channels: new number of channels, n.
        adapt: "mean" sets each new channel to the sum of the old ones divided by n, so a
            one-channel image x yields the same output as (x, x, x). "repeat" cycles through the old
            channels and scales them by m / n.

    Shape:
        (out, m, h, w) -> (out, n, h, w)
    """
    old = weight.shape[1]
    if adapt == "mean":
        total = weight.sum(1, keepdim=True) / channels
        return total.repeat(1, channels, 1, 1)
    return weight[:, [i % old for i in range(channels)]] * (old / channels)
