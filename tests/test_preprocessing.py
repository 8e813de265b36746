"""Preprocessing returns the same network inputs for every kind of image."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

import cnnarch
from cnnarch.embedding.sources import open_source
from cnnarch.inference import Predictor
from cnnarch.preprocessing import Preprocessing
from cnnarch.training.data import ImageSet
from cnnarch.training.file_pixels import FilePixels

EXAMPLES = [
    Preprocessing(16, 20),
    Preprocessing(16, 16, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3),
    Preprocessing(24, 20, mean=(0.2860,), std=(0.3530,), antialias=False),
    Preprocessing(16, 20, squash=True),
]


@pytest.mark.parametrize("preprocessing", EXAMPLES)
def test_scaled_values_equal_torchvisions_bit_for_bit(
    preprocessing: Preprocessing,
) -> None:
    channels, size = len(preprocessing.mean), preprocessing.crop_size
    for start in range(0, 256, size):
        values = (torch.arange(size) + start).clamp(max=255).to(torch.uint8)
        pixels = values.expand(channels, size, size)
        unscaled = Preprocessing(size, size, mean=preprocessing.mean, std=preprocessing.std)
        expected = unscaled.transform()(pixels)
        assert torch.equal(preprocessing.scale(pixels), expected)
        assert torch.equal(preprocessing.scale(pixels[None])[0], expected)


@pytest.mark.parametrize("preprocessing", EXAMPLES)
@pytest.mark.parametrize("shape", [(3, 30, 40), (1, 18, 18), (3, 90, 7)])
def test_crop_and_scale_equal_the_transform(
    preprocessing: Preprocessing, shape: tuple[int, int, int]
) -> None:
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    before = pixels.clone()
    cropped = preprocessing.crop()(pixels)
    assert cropped.dtype == torch.uint8
    assert cropped.shape == (len(preprocessing.mean), *2 * (preprocessing.crop_size,))
    kept = cropped.clone()
    scaled = preprocessing.scale(cropped)
    assert scaled.dtype == torch.float32
    assert torch.equal(scaled, preprocessing.transform()(pixels))
    assert torch.equal(pixels, before)
    assert torch.equal(cropped, kept)


def photograph() -> PIL.Image.Image:
    from sklearn.datasets import load_sample_image

    return PIL.Image.fromarray(load_sample_image("china.jpg"))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(224, 256), (96, 97), (500, 500)])
def test_images_and_tensors_produce_the_same_result(
    interpolation: str, size: tuple[int, int]
) -> None:
    """Check PIL images, uint8 tensors and float tensors."""
    preprocessing = Preprocessing(*size, interpolation, mean=(0.0,) * 3, std=(1.0,) * 3)
    transform, image = preprocessing.transform(), photograph()
    expected = transform(image)
    assert expected.shape == (3, size[0], size[0])
    assert (expected.min(), expected.max()) >= (0, 0.5)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    for tensor in (pixels, pixels / 255, pixels[None].expand(2, -1, -1, -1)):
        found = transform(tensor)
        found = found if found.dim() == 3 else found[1]
        assert torch.equal(found, expected)


def test_squash_resizes_both_sides_and_keeps_the_whole_image() -> None:
    """A third of the columns are white: 30 to 49 of 60."""
    pixels = torch.zeros(3, 20, 60, dtype=torch.uint8)
    pixels[..., 30:] = 255
    pixels[..., 50:] = 0  # outside a center crop, which keeps columns 20 to 39
    mean, std = (0.0,) * 3, (1.0,) * 3
    cropped, squashed = (
        Preprocessing(20, 20, mean=mean, std=std, squash=squash).transform()(pixels)
        for squash in (False, True)
    )
    assert cropped.shape == squashed.shape == (3, 20, 20)
    assert cropped.mean().item() == pytest.approx(1 / 2)
    assert squashed.mean().item() == pytest.approx(1 / 3, abs=0.01)


def test_palettes_transparency_and_gray_are_converted_to_rgb() -> None:
    transform = Preprocessing(32, 32, mean=(0.0,) * 3, std=(1.0,) * 3).transform()
    red = PIL.Image.new("RGB", (40, 40), (255, 0, 0))
    for image in (red, red.convert("RGBA"), red.convert("P")):
        assert transform(image).mean((1, 2)).tolist() == [1, 0, 0]
    assert transform(PIL.Image.new("L", (40, 40), 255)).shape == (3, 32, 32)
    assert transform(torch.ones(1, 40, 40)).shape == (3, 32, 32)
    with pytest.raises(ValueError, match="images with 4 channels cannot be converted to 3"):
        transform(torch.ones(4, 40, 40))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.int16, torch.uint16, torch.int64])
def test_other_integer_types_are_rejected(dtype: torch.dtype) -> None:
    """The torchvision transforms divide by the maximum of the dtype, so 255 becomes nearly 0."""
    preprocessing, pixels = Preprocessing(8, 8), torch.ones(3, 8, 8, dtype=dtype)
    for call in (preprocessing.transform(), preprocessing.crop(), preprocessing.scale):
        with pytest.raises(TypeError, match=f"uint8, got {dtype}"):
            call(pixels)
    with pytest.raises(TypeError, match=r"uint8, got torch\.float32"):
        preprocessing.scale(pixels.float())


def test_a_gray_network_receives_gray_images() -> None:
    transform = Preprocessing(32, 32, mean=(0.0,), std=(1.0,)).transform()
    red = PIL.Image.new("RGB", (40, 40), (255, 0, 0))
    pixels = torch.zeros(3, 40, 40)
    pixels[0] = 1
    for image in (red, pixels):
        assert transform(image).shape == (1, 32, 32)
        assert abs(transform(image).mean().item() - 0.299) < 2 / 255


def test_a_transform_can_be_pickled() -> None:
    transform = Preprocessing(32, 32).transform()
    again = pickle.loads(pickle.dumps(transform))
    assert torch.equal(again(photograph()), transform(photograph()))


def deep(folder: Path) -> Path:
    values = np.full((16, 16), 0x8000, np.uint16)
    values[:, 8:] = 0xFFFF
    PIL.Image.fromarray(values).save(folder / "deep.png")
    return folder / "deep.png"


def turned(folder: Path) -> Path:
    """Write an image whose left half is black and moves to the top after EXIF rotation."""
    image, exif = PIL.Image.new("L", (16, 16)), PIL.Image.Exif()
    image.paste(255, (8, 0, 16, 16))
    exif[0x0112] = 6
    image.save(folder / "turned.jpg", exif=exif)  # JPEG stores uniform 8x8 blocks exactly
    return folder / "turned.jpg"


def palette(folder: Path) -> Path:
    image = PIL.Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(folder / "palette.png", transparency=bytes([255, 0]))
    return folder / "palette.png"


def plain(mode: str, color: object, suffix: str = "png") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        PIL.Image.new(mode, (16, 16), color).save(folder / f"{mode}.{suffix}")  # type: ignore[arg-type]
        return folder / f"{mode}.{suffix}"

    return write


def flat(*color: int) -> Tensor:
    return torch.tensor(color, dtype=torch.float32)[:, None, None].expand(-1, 16, 16)


LEFT_AND_RIGHT = flat(128, 128, 128).where(torch.arange(16) < 8, torch.tensor(255.0))
TOP_AND_BOTTOM = flat(0, 0, 0).where(torch.arange(16)[:, None] < 8, torch.tensor(255.0))
FILES: dict[str, tuple[Callable[[Path], Path], Tensor]] = {
    "16 bits": (deep, LEFT_AND_RIGHT),
    "EXIF": (turned, TOP_AND_BOTTOM),
    "palette with transparency": (palette, flat(200, 100, 50)),
    "alpha": (plain("RGBA", (10, 20, 30, 0)), flat(10, 20, 30)),
    "gray with alpha": (plain("LA", (77, 0)), flat(77, 77, 77)),
    "gray": (plain("L", 77), flat(77, 77, 77)),
    "bits": (plain("1", 1), flat(255, 255, 255)),
    "CMYK": (plain("CMYK", (0, 255, 255, 0), "tiff"), flat(255, 0, 0)),
    "gray for a gray network": (plain("L", 77), flat(77)),
    "16 bits for a gray network": (deep, LEFT_AND_RIGHT[:1]),
    "color for a gray network": (plain("RGB", (255, 0, 0)), flat(76)),  # 0.299 * 255
}


def predictor_inputs(path: Path, preprocessing: Preprocessing) -> Tensor:
    seen = []

    def network(inputs: Tensor) -> Tensor:
        seen.append(inputs)
        return torch.zeros(len(inputs), 5)

    assert len(Predictor(network, preprocessing, batch_size=1)(path)) == 1
    return seen[0]


def embed_inputs(path: Path, preprocessing: Preprocessing) -> Tensor:
    model = cnnarch.lenet5(in_channels=len(preprocessing.mean))
    (batch,) = open_source(model, [path], 1, preprocessing, False)
    assert batch.images is not None
    return batch.images


def training_inputs(path: Path, preprocessing: Preprocessing) -> Tensor:
    files = FilePixels([path], len(preprocessing.mean), preprocessing)
    return ImageSet(files, torch.tensor([0]), ("a",), preprocessing).inputs(torch.tensor([0]))


READERS = (predictor_inputs, embed_inputs, training_inputs)


@pytest.mark.parametrize("kind", FILES)
def test_every_reader_returns_the_same_pixels(tmp_path: Path, kind: str) -> None:
    write, expected = FILES[kind]
    path, channels = write(tmp_path), len(expected)
    preprocessing = Preprocessing(16, 16, mean=(0.0,) * channels, std=(1.0,) * channels)
    with PIL.Image.open(path) as image:
        found = preprocessing.transform()(image)
    assert torch.equal((255 * found).round(), expected)
    for reader in READERS:
        assert torch.equal(reader(path, preprocessing), found[None]), reader.__name__


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("size", [(24, 32), (40, 40)])
def test_every_reader_resizes_photographs_identically(
    tmp_path: Path, size: tuple[int, int], squash: bool
) -> None:
    path, image = tmp_path / "china.png", photograph().resize((90, 60))
    image.save(path)
    preprocessing = Preprocessing(*size, squash=squash)
    found = preprocessing.transform()(image)
    for reader in READERS if size == (40, 40) else READERS[:2]:  # training crops in augmentation
        assert torch.equal(reader(path, preprocessing), found[None]), reader.__name__


def test_images_with_unsupported_modes_or_channels_are_rejected() -> None:
    transform = Preprocessing(16, 16).transform()
    with pytest.raises(ValueError, match="mode 'F' have no defined white level"):
        transform(PIL.Image.new("F", (16, 16)))
    with pytest.raises(ValueError, match="1 or 3 channels, but 4 are needed"):
        Preprocessing(16, 16, mean=(0.5,) * 4, std=(0.5,) * 4).transform()(
            PIL.Image.new("RGB", (16, 16))
        )
    with pytest.raises(TypeError, match="expected a PIL image or a tensor, got ndarray"):
        transform(np.zeros((16, 16, 3), np.uint8))


def test_a_transformed_image_is_not_changed() -> None:
    image = PIL.Image.new("P", (20, 16))
    image.getexif()[0x0112] = 6
    Preprocessing(16, 16).transform()(image)
    assert (image.mode, image.size, image.getexif()[0x0112]) == ("P", (20, 16), 6)


@pytest.mark.parametrize("pixels", [-0.5, 1.5, 255.0, float("nan")])
def test_floats_outside_the_unit_interval_are_rejected(pixels: float) -> None:
    image = torch.full((3, 16, 16), 0.5)
    image[0, 0, 0] = pixels
    with pytest.raises(ValueError, match=r"float pixels must be in \[0, 1\], got"):
        Preprocessing(16, 16).transform()(image)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_any_precision_are_read(dtype: torch.dtype) -> None:
    transform = Preprocessing(16, 16, mean=(0.0,) * 3, std=(1.0,) * 3).transform()
    assert transform(torch.ones(3, 16, 16, dtype=dtype)).min() == 1
