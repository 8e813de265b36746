"""How images become a network's input; torchvision is loaded with the first transform."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cnnarch.images import decode_image

if TYPE_CHECKING:
    from torchvision.transforms import v2

__all__ = ["Preprocessing", "preprocessing_from"]


@dataclass(frozen=True)
class Preprocessing:
    """How images become the input that a checkpoint was trained on.

    Args:
        crop_size: side in pixels of the square that the network sees.
        resize_size: the image's shorter side in pixels before the crop.
        interpolation: "bilinear" or "bicubic".
        mean: of each channel, in units where white is 1; it is subtracted.
        std: of each channel, in the same units; the difference is divided by it.
        antialias: whether shrinking filters first, as PIL does.
    """

    crop_size: int
    resize_size: int
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    antialias: bool = True

    def transform(self) -> "v2.Transform":
        """A torchvision v2 transform of PIL images and of image tensors, (C, H, W) or batches.

        PIL images are read as files are: turned upright as their EXIF data says, 16 bits become
        8, transparency is left out. Tensors are uint8, or floats in [0, 1]. Grey images are
        repeated for a network of colours, and colours made grey for one of grey.

        Raises:
            ValueError: `interpolation` is not one that torchvision has.

        The transform raises TypeError for tensors of other integers, whose white is not known.

        >>> import torch
        >>> preprocessing = Preprocessing(224, 256)
        >>> preprocessing.transform()(torch.zeros(3, 300, 400, dtype=torch.uint8)).shape
        torch.Size([3, 224, 224])
        """
        from torchvision.transforms import v2

        return v2.Compose(
            [
                *self._to_crop(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(self.mean, self.std),
                v2.ToPureTensor(),
            ]
        )

    def crop(self) -> "v2.Transform":
        """The first part of `transform`: the pixels that the network sees, in 8 bits."""
        from torchvision.transforms import v2

        return v2.Compose([*self._to_crop(), v2.ToPureTensor()])

    def scale(self, pixels: Tensor) -> Tensor:
        """The second part of `transform`, also for batches: what the network reads.

        It gives the values of torchvision's ToDtype and Normalize to the last bit, in one thread:
        PyTorch would start threads, which wait for one another for longer than the work takes
        while other threads decode images.

        Args:
            pixels: on the CPU, as `crop` gives them.

        Shape:
            (..., C, H, W), uint8 -> the same, float32

        Raises:
            TypeError: pixels are not uint8.
        """
        if pixels.dtype != torch.uint8:
            raise TypeError(f"pixels must be uint8, got {pixels.dtype}")
        numbers = torch.tensor([self.mean, self.std]).numpy()
        mean, std = numbers[..., None, None]
        values = pixels.numpy().astype("float32")
        values *= numbers.dtype.type(1 / 255)
        values -= mean
        values /= std
        return torch.from_numpy(values)

    def _to_crop(self) -> list[nn.Module]:
        from torchvision.transforms import InterpolationMode, v2

        interpolation = InterpolationMode(self.interpolation)
        return [
            _Pixels(len(self.mean)),
            v2.Resize(self.resize_size, interpolation, antialias=self.antialias),
            v2.CenterCrop(self.crop_size),
        ]


def preprocessing_from(facts: Mapping[str, Any] | None) -> Preprocessing | None:
    """A `Preprocessing` from its fields as JSON has them."""
    if facts is None:
        return None
    lists = {key: tuple(facts[key]) for key in ("mean", "std") if key in facts}
    return Preprocessing(**{**facts, **lists})


class _Pixels(nn.Module):
    """Tensors of the right number of channels in 8 bits, as files have them.

    PIL resizes by other numbers than torch, and floats keep what bicubic interpolation
    overshoots, so PIL images and floats become 8-bit tensors first.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, image: Any) -> Tensor:
        from PIL.Image import Image
        from torchvision.transforms.v2 import functional

        if isinstance(image, Image):
            return decode_image(image, self.channels)
        if not isinstance(image, Tensor):
            raise TypeError(f"expected a PIL image or a tensor, got {type(image).__name__}")
        if image.is_floating_point():
            image = functional.to_dtype(image.clamp(0, 1), torch.uint8, scale=True)
        if image.dtype != torch.uint8:
            raise TypeError(f"images must be floats or uint8, got {image.dtype}")
        if image.shape[-3] == self.channels:
            return image
        if image.shape[-3] == 1:
            return image.expand(*image.shape[:-3], self.channels, *image.shape[-2:])
        if self.channels == 1 and image.shape[-3] == 3:
            return functional.rgb_to_grayscale(image)
        raise ValueError(f"expected {self.channels} channels, got {tuple(image.shape)}")
