"""Convert images to network inputs. torchvision is imported on first use."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cnnarch.images import decode_image

if TYPE_CHECKING:
    from torchvision.transforms import v2


ROUNDING = 1e-3  # by which float pixels may lie outside [0, 1]


@dataclass(frozen=True)
class Preprocessing:
    """The conversion of images to network inputs that a checkpoint was trained with.

    Args:
        crop_size: side of the square center crop, in pixels.
        resize_size: length, in pixels, to which the shorter side is resized before cropping.
        interpolation: "bilinear" or "bicubic".
        mean: mean of each channel, for pixels in [0, 1].
        std: standard deviation of each channel, for pixels in [0, 1].
        antialias: whether to filter before downsampling, as PIL does.
        squash: whether to resize both sides to `resize_size`, so that the crop shows more of a
            wide or tall image but changes its aspect ratio.
    """

    crop_size: int
    resize_size: int
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    antialias: bool = True
    squash: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.interpolation, str):
            raise TypeError(f"interpolation must be a string, got {self.interpolation!r}")

    def transform(self) -> "v2.Transform":
        """Return a torchvision v2 transform for PIL images and image tensors, (C, H, W) or batches.

        PIL images are handled like files: EXIF rotation is applied, 16-bit channels are reduced to
        8 bits, and transparency is dropped. Tensors are uint8, or floats in [0, 1]. Gray images are
        converted to color, and color images to gray, as the network requires.

        Raises:
            ValueError: torchvision does not support `interpolation`.

        The transform raises ValueError for floats outside [0, 1] and TypeError for integer tensors
        other than uint8.

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
        """Return the first part of `transform`, which resizes and crops to uint8 pixels."""
        from torchvision.transforms import v2

        return v2.Compose([*self._to_crop(), v2.ToPureTensor()])

    def scale(self, pixels: Tensor) -> Tensor:
        """Apply the second part of `transform` to an image or a batch, on its device.

        The values match those from torchvision's ToDtype and Normalize bit for bit. On the CPU,
        NumPy computes them in a single thread, because PyTorch's multithreading is slower while
        other threads decode images.

        Args:
            pixels: pixels as returned by the `crop` transform.

        Shape:
            (..., C, H, W), uint8 -> the same, float32

        Raises:
            TypeError: the pixels are not uint8.
        """
        if pixels.dtype != torch.uint8:
            raise TypeError(f"pixels must be uint8, got {pixels.dtype}")
        numbers = torch.tensor([self.mean, self.std], dtype=torch.float32, device=pixels.device)
        if pixels.device.type != "cpu":
            mean, std = numbers[..., None, None]
            return pixels.float().mul_(1 / 255).sub_(mean).div_(std)
        mean, std = numbers.numpy()[..., None, None]
        values = pixels.numpy().astype("float32")
        values *= mean.dtype.type(1 / 255)
        values -= mean
        values /= std
        return torch.from_numpy(values)

    def _to_crop(self) -> list[nn.Module]:
        from torchvision.transforms import InterpolationMode, v2

        interpolation = InterpolationMode(self.interpolation)
        size = [self.resize_size] * (2 if self.squash else 1)
        return [
            _ToUint8(len(self.mean)),
            v2.Resize(size, interpolation, antialias=self.antialias),
            v2.CenterCrop(self.crop_size),
        ]


def preprocessing_from(facts: Mapping[str, Any] | None) -> Preprocessing | None:
    """Return a `Preprocessing` built from its JSON fields."""
    if facts is None:
        return None
    lists = {key: tuple(facts[key]) for key in ("mean", "std") if key in facts}
    return Preprocessing(**{**facts, **lists})


def preprocessing_of(model: object, given: Any = None) -> Any:
    """Return `given`, or the network's own preprocessing if it is None.

    Raises:
        ValueError: the preprocessing has a different number of channels than the network, whose
            first convolution may have been replaced.
    """
    found = getattr(model, "preprocessing", None) if given is None else given
    channels = getattr(model, "in_channels", None)
    if isinstance(found, Preprocessing) and channels not in (None, len(found.mean)):
        owner = "network's" if given is None else "given"
        raise ValueError(
            f"the {owner} preprocessing is for {len(found.mean)} channels, but the network's first "
            f"convolution has {channels}: use a Preprocessing whose mean and std have {channels} "
            "values, for example set the network's `preprocessing`"
        )
    return found


class _ToUint8(nn.Module):
    """Converts images to uint8 tensors with the given number of channels.

    PIL and PyTorch resize differently, and float tensors keep the overshoot of bicubic
    interpolation. Every image is therefore converted before it is resized.
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
        if image.dim() < 3 or not image.numel():
            raise ValueError(f"expected images of shape (..., C, H, W), got {tuple(image.shape)}")
        if image.is_floating_point():
            low, high = (float(value) for value in image.aminmax())
            if not (low > -ROUNDING and high < 1 + ROUNDING):
                raise ValueError(f"float pixels must be in [0, 1], got {low:.4g} to {high:.4g}")
            image = functional.to_dtype(image.float().clamp(0, 1), torch.uint8, scale=True)
        if image.dtype != torch.uint8:
            raise TypeError(f"images must be floats or uint8, got {image.dtype}")
        return convert_channels(image, self.channels)


def convert_channels(pixels: Tensor, channels: int) -> Tensor:
    """Convert gray to color or color to gray: (..., C, H, W) -> (..., channels, H, W).

    Raises:
        ValueError: the conversion is not supported.
    """
    present = pixels.shape[-3]
    if present == channels:
        return pixels
    if present == 1:
        return pixels.expand(*pixels.shape[:-3], channels, *pixels.shape[-2:])
    if (present, channels) == (3, 1):
        from torchvision.transforms.v2 import functional

        return functional.rgb_to_grayscale(pixels)
    raise ValueError(f"images with {present} channels cannot be converted to {channels} channels")
