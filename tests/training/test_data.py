"""Images in memory and in files, and their preprocessing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, random_split

import cnnarch
from cnnarch.preprocessing import convert_channels
from cnnarch.training import ImageData, ImageSet, load_data
from cnnarch.training.data import measure_preprocessing
from cnnarch.training.file_pixels import FilePixels
from cnnarch.weights import Preprocessing


def test_normalized_input_has_zero_mean_and_unit_standard_deviation() -> None:
    pixels = torch.randint(0, 256, (50, 3, 16, 16)).to(torch.uint8)
    images = ImageSet(pixels, torch.zeros(50).long(), ("a",), measure_preprocessing(pixels, 16, 3))
    inputs = images.inputs(torch.arange(50))
    torch.testing.assert_close(inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(inputs.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)


def test_a_constant_channel_stays_finite() -> None:
    pixels = torch.full((4, 1, 8, 8), 51, dtype=torch.uint8)
    assert measure_preprocessing(pixels, 8, 1).mean == pytest.approx((0.2,))
    assert measure_preprocessing(pixels, 8, 1).std == (1.0,)


def test_gray_from_color_uses_itu_r_601_weights() -> None:
    red = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    red[:, 0] = 200
    gray = convert_channels(red, 1)
    assert gray.shape == (1, 1, 2, 2)
    assert gray.unique().item() == pytest.approx(0.2989 * 200, abs=1)  # ITU-R 601-2


def test_color_from_gray_repeats_the_channel() -> None:
    gray = torch.randint(0, 256, (2, 1, 4, 4)).to(torch.uint8)
    assert all(torch.equal(channel, gray[:, 0]) for channel in convert_channels(gray, 3).unbind(1))


def test_two_channels_cannot_be_converted() -> None:
    with pytest.raises(ValueError, match=r"images with 2 channels .* to 3 channels"):
        convert_channels(torch.zeros(1, 2, 4, 4), 3)


@pytest.mark.parametrize(
    ("labels", "message"), [([0, 4], "0 to 3, got 0 to 4"), ([-1, 0], "got -1")]
)
def test_labels_outside_the_classes_are_rejected(labels: list[int], message: str) -> None:
    pixels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=message):
        ImageSet(pixels, torch.tensor(labels), tuple("abcd"), Preprocessing(8, 8))


def test_training_and_validation_images_are_disjoint(data: ImageData) -> None:
    train, validation = data.hold_back(0.25, seed=3)
    assert validation is not None
    assert (len(train), len(validation)) == (72, 24)
    pixels = torch.cat([s.pixels[torch.arange(len(s))] for s in (train, validation)])
    assert len(pixels.unique(dim=0)) == len(data.train)


def test_a_validation_fraction_of_zero_keeps_all_images(data: ImageData) -> None:
    train, validation = data.hold_back(0.0)
    assert train is data.train
    assert validation is None


@pytest.mark.parametrize(("fraction", "left"), [(0.0, 96), (0.1, 88), (0.25, 72), (0.99, 4)])
def test_the_number_of_training_images_follows_from_the_fraction(
    data: ImageData, fraction: float, left: int
) -> None:
    """Of 4 classes with 24 images each, at least one image per class is kept."""
    assert data.training_size(fraction) == len(data.hold_back(fraction)[0]) == left


def test_a_validation_fraction_of_one_is_rejected(data: ImageData) -> None:
    with pytest.raises(ValueError, match=r"validation must be in \[0, 1\), got 1"):
        data.hold_back(1)


def test_images_are_enlarged_to_the_networks_minimum_size(data: ImageData) -> None:
    small = data.prepared(Preprocessing(8, 8, mean=(0.5,), std=(0.5,)))
    assert small.adapt_to(cnnarch.lenet5()).preprocessing.crop_size == 32
    assert small.adapt_to(cnnarch.lenet5(), 40).preprocessing.crop_size == 40
    assert data.adapt_to(cnnarch.lenet5()).preprocessing == data.preprocessing


def test_pretrained_weights_determine_the_preprocessing(data: ImageData) -> None:
    model = cnnarch.lenet5()
    model.preprocessing = Preprocessing(36, 40, mean=(0.1,), std=(0.2,))  # type: ignore[assignment]
    adapted = data.adapt_to(model).preprocessing
    assert (adapted.mean, adapted.std) == ((0.1,), (0.2,))
    assert (adapted.crop_size, adapted.resize_size) == (36, 36)  # nothing is cropped


def test_gray_images_keep_their_own_mean_with_weights_for_color(data: ImageData) -> None:
    model = cnnarch.lenet5(num_classes=4)
    model.preprocessing = Preprocessing(40, 40, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    adapted = data.adapt_to(model).preprocessing
    assert (adapted.mean, adapted.std, adapted.crop_size) == ((0.4,), (0.3,), 40)


def test_files_and_tensors_have_the_same_pixels(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (5, 3, 10, 10)).to(torch.uint8)
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    files = FilePixels(paths, 3, Preprocessing(10, 10))
    assert torch.equal(files[torch.tensor([4, 1])], pixels[[4, 1]])
    sets = [
        ImageSet(p, torch.arange(5), tuple("abcde"), Preprocessing(10, 10)) for p in (files, pixels)
    ]
    for (x, label), (other, other_label) in zip(*sets, strict=True):
        assert torch.equal(x, other)
        assert label == other_label
    assert torch.equal(sets[0].subset(torch.tensor([3])).pixels[torch.tensor([0])], pixels[3:4])


def test_files_are_resized_by_their_shorter_side_and_center_cropped(tmp_path: Path) -> None:
    wide = torch.zeros(20, 60, dtype=torch.uint8)
    wide[:, 20:40] = 255  # the middle third
    Image.fromarray(wide.numpy()).save(tmp_path / "wide.png")
    square = FilePixels([tmp_path / "wide.png"], 1, Preprocessing(10, 10))[torch.tensor([0])]
    assert square.shape == (1, 1, 10, 10)
    assert square[..., 1:-1].float().mean() > 250


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_files_are_resized_once_for_the_network(tmp_path: Path, interpolation: str) -> None:
    """The result equals the inference transform applied to the original file."""
    noise = torch.randint(0, 256, (90, 60, 3), generator=torch.Generator().manual_seed(0))
    image = Image.fromarray(noise.to(torch.uint8).numpy())
    image.save(tmp_path / "1.png")
    labels, first = torch.zeros(1, dtype=torch.long), Preprocessing(20, 20)
    pixels = FilePixels.read([tmp_path / "1.png"], 3, first)
    images = ImageSet(pixels, labels, ("a",), first)
    new = Preprocessing(32, 40, interpolation=interpolation)
    both = ImageData("one", images, images).prepared(new)
    for split in (both.train, both.train.subset(torch.tensor([0])), both.test):
        assert torch.equal(split.inputs(torch.tensor([0]))[0], new.transform()(image))


def test_each_image_needs_a_label() -> None:
    pixels, labels = torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="3 images but 2 labels"):
        ImageSet(pixels, labels, ("a", "b"), Preprocessing(4, 4))


def test_an_image_set_is_a_map_style_data_set(data: ImageData) -> None:
    image, label = data.train[0]
    pixels = data.train.pixels[torch.tensor([0, 95])]
    expected = (pixels.float() / 255 - 0.4) / 0.3  # the mean and std in `sides`
    torch.testing.assert_close(image, expected[0])
    assert (image.shape, label) == ((1, 32, 32), int(data.train.labels[0]))
    torch.testing.assert_close(data.train[-1][0], expected[1])
    assert data.train[np.int64(3)][1] == data.train[torch.tensor(3)][1] == 3
    assert len(list(data.test)) == 40


def test_an_image_set_works_with_torchs_data_loader_and_splits(data: ImageData) -> None:
    images, labels = next(iter(DataLoader(data.train, batch_size=5)))
    assert images.shape == (5, 1, 32, 32)
    assert torch.equal(labels, data.train.labels[:5])
    parts = random_split(data.train, [90, 6])
    assert next(iter(DataLoader(parts[1], batch_size=6)))[0].shape == (6, 1, 32, 32)


@pytest.mark.parametrize("index", [96, -97])
def test_an_image_that_does_not_exist_is_an_index_error(data: ImageData, index: int) -> None:
    with pytest.raises(IndexError, match=f"there are 96 images, but none at index {index}"):
        data.train[index]


@pytest.mark.parametrize("index", [slice(2), "0", 1.0, [0, 1]])
def test_an_index_must_be_an_integer(data: ImageData, index: Any) -> None:
    with pytest.raises(TypeError, match=r"index must be an integer, got .*subset\(indices\)"):
        data.train[index]


def test_weights_determine_the_normalization_but_not_a_chosen_size(data: ImageData) -> None:
    model = cnnarch.lenet5(num_classes=4)
    model.preprocessing = Preprocessing(40, 40, "bicubic", (0.1,), (0.2,), antialias=False)
    matched = data.matched_to(model).preprocessing
    assert matched == Preprocessing(32, 32, "bicubic", (0.1,), (0.2,), antialias=False)
    digits = load_data("digits").matched_to(model)
    assert digits.preprocessing == model.preprocessing
    assert digits.matched_to(model).preprocessing == model.preprocessing
    chosen = load_data("digits", image_resolution=36).matched_to(model)
    assert (chosen.preprocessing.crop_size, chosen.preprocessing.mean) == (36, (0.1,))
    assert digits.matched_to(model, 48).preprocessing.crop_size == 48


def test_data_without_a_chosen_size_use_the_networks(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for i in range(3):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGB", (50, 50), (80 * i, 0, 0)).save(tmp_path / name / f"{i}.png")
    data = load_data(f"folder:{tmp_path}")
    assert data.matched_to(cnnarch.resnet20_cifar()).preprocessing.crop_size == 32
    assert data.matched_to(cnnarch.mobilenet_v1(width=0.25)).preprocessing.crop_size == 224
    assert load_data("digits").matched_to(cnnarch.lenet5()).preprocessing.crop_size == 32
    chosen = load_data(f"folder:{tmp_path}", image_resolution=64)
    assert chosen.matched_to(cnnarch.resnet20_cifar()).preprocessing.crop_size == 64
