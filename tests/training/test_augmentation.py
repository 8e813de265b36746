"""Augmentation: random per image, reproducible and independent of the number of processes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cnnarch.training import Recipe
from cnnarch.training.augmentation import Augmentation, random_resized_crop, random_shift_and_flip

EVERYTHING = Recipe(crop_padding=2, flip=True, resized_crop=0.5, randaugment=9, erasing=0.5)


def draws(*numbers: list[float]) -> "iter":  # type: ignore[valid-type]
    """Return a function that returns the next of the given lists as a tensor on each call."""
    iterator = iter(numbers)
    return lambda: torch.tensor(next(iterator))


def test_a_shift_moves_the_image_and_fills_with_black() -> None:
    image = torch.arange(1, 10, dtype=torch.uint8).reshape(1, 1, 3, 3)
    # The offset into the padded image is 0, 1 or 2: 0.99 selects 2 (up by one), 0.0 selects 0.
    moved = random_shift_and_flip(image, 1, False, draws([0.99], [0.0]))
    assert moved[0, 0].tolist() == [[0, 4, 5], [0, 7, 8], [0, 0, 0]]


def test_the_middle_offset_does_not_shift() -> None:
    image = torch.arange(9, dtype=torch.uint8).reshape(1, 1, 3, 3)
    assert torch.equal(random_shift_and_flip(image, 1, False, draws([0.5], [0.5])), image)


def test_a_flip_swaps_left_and_right() -> None:
    images = torch.arange(12, dtype=torch.uint8).reshape(2, 1, 2, 3)
    flipped = random_shift_and_flip(images, 0, True, draws([0.0] * 2, [0.0] * 2, [0.4, 0.6]))
    assert torch.equal(flipped[0], images[0].flip(-1))
    assert torch.equal(flipped[1], images[1])


def test_shifts_differ_between_images() -> None:
    images = torch.zeros(64, 1, 9, 9, dtype=torch.uint8)
    images[:, :, 4, 4] = 255
    changed = Augmentation(Recipe(crop_padding=4), 10).pixels(images, seed=5)
    rows, columns = (changed[:, 0].amax(d).argmax(1) for d in (2, 1))
    assert len(set(rows.tolist())) == 9  # every shift from -4 to 4
    assert len(set(columns.tolist())) == 9


def test_cropping_to_the_whole_area_changes_nothing() -> None:
    images = torch.randint(0, 256, (3, 3, 12, 12)).to(torch.uint8)
    square = [0.5] * 3  # aspect ratio 1, the middle of the logarithmic range
    whole = random_resized_crop(images, 1.0, draws([0.0] * 3, square, [0.3] * 3, [0.7] * 3))
    assert (whole.int() - images.int()).abs().max() <= 1


def test_a_crop_of_a_quarter_of_the_area_is_enlarged_twofold() -> None:
    image = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    image[:, :, 4:, :4] = 200  # the lower-left quarter
    cut = random_resized_crop(image, 0.25, draws([0.0], [0.5], [0.0], [1.0]))
    assert cut[0, 0, 1:, :-1].unique().tolist() == [200]


@pytest.mark.parametrize("recipe", [EVERYTHING, Recipe(mixup=0.5, cutmix=0.5), Recipe()])
def test_the_same_seed_gives_the_same_images(recipe: Recipe) -> None:
    pixels = torch.randint(0, 256, (8, 3, 16, 16)).to(torch.uint8)

    def changed() -> tuple[Tensor, Tensor]:
        augmentation = Augmentation(recipe, 4)
        torch.manual_seed(1)
        inputs = augmentation.pixels(pixels, seed=1).float()
        return augmentation.inputs(inputs, torch.arange(8) % 4)

    (a, b), (c, d) = changed(), changed()
    assert torch.equal(a, c)
    assert torch.equal(b, d)
    assert a.shape == pixels.shape


def test_two_processes_augment_like_a_single_process() -> None:
    pixels = torch.randint(0, 256, (10, 3, 16, 16)).to(torch.uint8)
    recipe = Recipe(crop_padding=3, flip=True, resized_crop=0.4)
    alone = Augmentation(recipe, 10).pixels(pixels, seed=7)
    for rank in (0, 1):
        share = Augmentation(recipe, 10, rank=rank, world_size=2).pixels(pixels[rank::2], seed=7)
        assert torch.equal(share, alone[rank::2])


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_targets_are_probabilities_of_at_most_two_classes(kind: str) -> None:
    recipe = replace(Recipe(), **{kind: 1.0})
    labels = torch.arange(6)
    _, targets = Augmentation(recipe, 6).inputs(torch.rand(6, 3, 8, 8), labels)
    assert targets.shape == (6, 6)
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    assert (targets > 0).sum(1).max() <= 2


def test_images_are_erased_with_the_given_probability() -> None:
    images = torch.rand(200, 1, 16, 16) + 1
    erased, labels = Augmentation(Recipe(erasing=0.5), 2).inputs(images, torch.zeros(200).long())
    share = (erased == 0).flatten(1).any(1).float().mean()
    assert 0.35 < share < 0.65
    assert labels.shape == (200,)


def test_randaugment_changes_pixels_and_keeps_uint8() -> None:
    pixels = torch.randint(0, 256, (6, 3, 16, 16)).to(torch.uint8)
    changed = Augmentation(Recipe(randaugment=15), 10).pixels(pixels, seed=0)
    assert changed.dtype == torch.uint8
    assert not torch.equal(changed, pixels)
