"""Preprocessing in two parts: what threads do with each image, and what is done with batches."""

import pytest
import torch

from cnnarch.weights import Preprocessing

EXAMPLES = [
    Preprocessing(16, 20),
    Preprocessing(16, 16, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3),
    Preprocessing(24, 20, mean=(0.2860,), std=(0.3530,), antialias=False),
]


@pytest.mark.parametrize("preprocessing", EXAMPLES)
def test_every_value_is_scaled_to_the_last_bit_of_torchvisions(
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
def test_the_two_parts_are_the_transform(
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
