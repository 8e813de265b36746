"""The torchvision v2 transform of a `Preprocessing`; the one file here that needs torchvision."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

if TYPE_CHECKING:
    from cnnarch.weights.entry import Preprocessing

__all__ = ["make_transform"]


def make_transform(preprocessing: "Preprocessing") -> v2.Transform:
    """Resize, crop, scale to [0, 1], normalise."""
    interpolation = InterpolationMode(preprocessing.interpolation)
    return v2.Compose(
        [
            _Pixels(len(preprocessing.mean)),
            v2.Resize(preprocessing.resize_size, interpolation, antialias=preprocessing.antialias),
            v2.CenterCrop(preprocessing.crop_size),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocessing.mean, preprocessing.std),
            v2.ToPureTensor(),
        ]
    )


class _Pixels(nn.Module):
    """Tensors of the right number of channels in 8 bits, as files have them.

    PIL images may have a palette, whose numbers are no colours, or transparency; PIL resizes by
    other numbers, and floats keep what bicubic interpolation overshoots. So all go one way.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.to_bytes = v2.ToDtype(torch.uint8, scale=True)

    def forward(self, image: Any) -> Any:
        if not isinstance(image, Tensor):
            return v2.functional.pil_to_tensor(image.convert("L" if self.channels == 1 else "RGB"))
        if image.is_floating_point():
            image = self.to_bytes(image.clamp(0, 1))
        if image.shape[-3] == self.channels:
            return image
        if image.shape[-3] == 1:
            return image.expand(*image.shape[:-3], self.channels, *image.shape[-2:])
        if self.channels == 1 and image.shape[-3] == 3:
            return v2.functional.rgb_to_grayscale(image)
        raise ValueError(f"expected {self.channels} channels, got {tuple(image.shape)}")
