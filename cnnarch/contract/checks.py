"""The check of the images passed to a network."""

import torch
from torch import Tensor

__all__ = ["check_images"]


def check_images(x: Tensor, in_channels: int, min_size: int, fixed_size: bool) -> Tensor:
    """Return `x` if it is a batch of images that a network accepts, else raise ValueError.

    Networks use the returned tensor because symbolic tracing drops calls with unused results.
    """
    if torch.compiler.is_compiling():  # compiled and exported programs check sizes themselves
        return x
    if x.dim() != 4 or x.shape[1] != in_channels:
        raise ValueError(f"expected images of shape (N, {in_channels}, H, W), got {tuple(x.shape)}")
    height, width = x.shape[-2:]
    if fixed_size and (height, width) != (min_size, min_size):
        raise ValueError(f"expected images of {min_size}x{min_size} pixels, got {height}x{width}")
    if min(height, width) < min_size:
        raise ValueError(
            f"expected images of at least {min_size}x{min_size} pixels, got {height}x{width}"
        )
    return x
