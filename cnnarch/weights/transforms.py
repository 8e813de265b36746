"""The torchvision v2 transform of a `Preprocessing`; the one file here that needs torchvision."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

if TYPE_CHECKING:
    from cnnarch.weights.entry import Preprocessing

__all__ = ["make_crop", "make_transform", "scale_pixels"]


def make_transform(preprocessing: "Preprocessing") -> v2.Transform:
    """Resize, crop, scale to [0, 1], normalise."""
    return v2.Compose(
        [
            *_to_crop(preprocessing),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocessing.mean, preprocessing.std),
            v2.ToPureTensor(),
        ]
    )


def make_crop(preprocessing: "Preprocessing") -> v2.Transform:
    """Resize, crop."""
    return v2.Compose([*_to_crop(preprocessing), v2.ToPureTensor()])


def _to_crop(preprocessing: "Preprocessing") -> list[nn.Module]:
    interpolation = InterpolationMode(preprocessing.interpolation)
    return [
        _Pixels(len(preprocessing.mean)),
        v2.Resize(preprocessing.resize_size, interpolation, antialias=preprocessing.antialias),
        v2.CenterCrop(preprocessing.crop_size),
    ]


def scale_pixels(preprocessing: "Preprocessing", pixels: Tensor) -> Tensor:
    """Scale to [0, 1], normalise: ToDtype and Normalize to the last bit, in one thread.

    PyTorch would share the work out to threads, which wait for one another for longer than the
    work takes where other threads decode images.
    """
    numbers = torch.tensor([preprocessing.mean, preprocessing.std]).numpy()
    mean, std = numbers[..., None, None]
    values = pixels.numpy().astype("float32")
    values *= numbers.dtype.type(1 / 255)
    values -= mean
    values /= std
    return torch.from_numpy(values)


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
