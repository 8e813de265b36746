"""Checks of the images that a network is given."""

import torch
from torch import Tensor

__all__ = ["check_images"]


def check_images(x: Tensor, in_channels: int, min_size: int, fixed_size: bool) -> Tensor:
    """Return `x` if it is a batch of images that a network accepts, else raise ValueError.

    Symbolic tracing keeps the call only if its result is used, so networks go on with it.
    """
    if torch.compiler.is_compiling():  # compiled and exported programs guard their own sizes
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
