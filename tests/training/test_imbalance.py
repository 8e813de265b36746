"""Class weights, balanced sampling and gradient accumulation, compared with hand arithmetic."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.training import ImageData, Recipe, fit, load_data
from cnnarch.training.classes import weights_of_classes
from cnnarch.training.loading import BatchSampler
from tests.training.test_stage import ONE_STEP, Constant


def unequal(data: ImageData, counts: list[int]) -> ImageData:
    """Return training images with these numbers of images in the four classes."""
    labels = data.train.labels
    chosen = [(labels == i).nonzero().flatten()[:n] for i, n in enumerate(counts)]
    return data._replace(train=data.train.subset(torch.cat(chosen)))


def gradient_of_bias(data: ImageData, recipe: Recipe) -> Tensor:
    """Return the gradient of a bias that is the only parameter, initially 0."""
    model = Constant()
    fit(model, data, replace(recipe, aux_weight=0.0))
    return -model.main.detach()


@pytest.mark.parametrize(
    ("class_weights", "weights"),
    [
        # 12 images of 3 classes: 12 / (3 * 6), 12 / (3 * 4), 12 / (3 * 2)
        ("balanced", [2 / 3, 1.0, 2.0, 0.0]),
        ({"left": 3.0}, [3.0, 1.0, 1.0, 1.0]),
        ({"right": 0.0, "top": 0.5}, [1.0, 0.0, 0.5, 1.0]),
    ],
)
def test_class_weights_multiply_the_loss_of_each_image(
    data: ImageData, class_weights: Any, weights: list[float]
) -> None:
    """The gradient of an image with weight w is w (p - y), and all p are 1/4."""
    counts = torch.tensor([6, 4, 2, 0])
    recipe = replace(ONE_STEP, class_weights=class_weights)
    total = (counts * torch.tensor(weights)).sum()
    expected = (total / 4 - counts * torch.tensor(weights)) / 12
    found = gradient_of_bias(unequal(data, [6, 4, 2, 0]), recipe)
    torch.testing.assert_close(found, expected)


def test_class_weights_have_an_effect_on_batches_of_one_class(data: ImageData) -> None:
    """PyTorch's own weighted mean would divide by the weight again."""
    one = unequal(data, [4, 0, 0, 0])
    twice = gradient_of_bias(one, replace(ONE_STEP, class_weights={"left": 2.0}))
    torch.testing.assert_close(twice, 2 * gradient_of_bias(one, ONE_STEP))


def test_balanced_weights_equal_scikit_learns(data: ImageData) -> None:
    from sklearn.utils.class_weight import compute_class_weight

    images = unequal(data, [20, 3, 7, 1]).train
    labels = images.labels.numpy()
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    found = weights_of_classes(Recipe(class_weights="balanced"), images)
    assert found is not None
    assert found.tolist() == pytest.approx(expected.tolist())


def test_class_weights_apply_to_mixed_images(data: ImageData) -> None:
    recipe = replace(ONE_STEP, mixup=1.0, class_weights=dict.fromkeys(data.classes, 2.0))
    plain = gradient_of_bias(data, replace(ONE_STEP, mixup=1.0))
    torch.testing.assert_close(gradient_of_bias(data, recipe), 2 * plain)


def test_names_of_classes_may_be_numbers_in_yaml(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("class_weights: {3: 2}")
    recipe = Recipe.load(tmp_path / "recipe.yaml")
    weights = weights_of_classes(recipe, load_data("digits").train)
    assert weights is not None
    assert weights.tolist() == [1.0] * 3 + [2.0] + [1.0] * 6


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"lefd": 2.0}, "no class 'lefd'; did you mean 'left'"),
        ({True: 2.0}, "no class 'True'.*put the name in quotes"),
        (dict.fromkeys(("left", "right", "top", "bottom"), 0.0), "above 0 for at least one class"),
    ],
)
def test_weights_for_other_classes_are_rejected_before_training(
    data: ImageData, weights: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(Constant(), data, replace(ONE_STEP, class_weights=weights))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"class_weights": "balance"}, "class_weights"),
        ({"class_weights": {"left": -1}}, "weight of 'left' must be at least 0, got -1"),
        ({"class_weights": {"left": "much"}}, "class_weights"),
        ({"class_weights": "balanced", "balanced_sampling": True}, "set only one"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches must be at least 1, got 0"),
        ({"layer_decay": 0}, "layer_decay must be from 0.01 to 1, got 0"),
        ({"num_epochs": "auto"}, "num_epochs"),
        ({"num_steps": "aut"}, "num_steps"),
        ({"batch_size": "aut"}, "batch_size"),
    ],
)
def test_values_out_of_range_are_rejected(values: dict[str, Any], message: str) -> None:
    for make in (Recipe.from_dict, lambda values: Recipe(**values)):
        with pytest.raises(ValueError, match=message):
            make(values)


def test_balanced_sampling_draws_all_classes_equally_often(data: ImageData) -> None:
    """Of 60 images drawn 50 times, a class with 2 of 60 images gets a quarter, not 3%."""
    seen: list[Tensor] = []
    images = unequal(data, [24, 24, 10, 2])

    class Watching(Constant):
        def forward(self, x: Tensor) -> Any:
            seen.append(x)
            return super().forward(x)

    fit(Watching(), images, replace(ONE_STEP, num_epochs=50, balanced_sampling=True))
    rare = images.train.inputs(torch.tensor([58, 59]))
    inputs = torch.cat(seen)
    share = torch.stack([(inputs == x).flatten(1).all(1) for x in rare]).any(0).float().mean()
    assert len(inputs) == 50 * 60
    assert share.item() == pytest.approx(0.25, abs=0.04)  # five standard deviations


def test_balanced_sampling_draws_the_same_images_for_all_processes() -> None:
    frequencies = torch.tensor([1.0, 1.0, 2.0, 8.0, 0.0, 4.0, 1.0, 1.0])
    options: dict[str, Any] = {"shuffle": True, "frequencies": frequencies, "seed": 3}
    alone = [b.indices.tolist() for b in BatchSampler(8, 4, **options)]
    shares = [BatchSampler(8, 4, **options, rank=rank, world_size=2) for rank in (0, 1)]
    pairs = [[b.indices.tolist() for b in share] for share in shares]
    assert [sorted(a + b) for a, b in zip(*pairs, strict=True)] == [sorted(b) for b in alone]
    assert all(4 not in batch for batch in alone)


def trained(data: ImageData, recipe: Recipe) -> tuple[dict[str, Tensor], int]:
    """Return the weights of a network without BatchNorm, and its number of batches."""
    torch.manual_seed(0)
    model, batches = cnnarch.lenet5(num_classes=4), []

    def count(module: nn.Module, *_: Any) -> None:
        if module.training:
            batches.append(module)

    model.register_forward_pre_hook(count)
    fit(model, data, recipe)
    return model.state_dict(), len(batches)


@pytest.mark.parametrize(
    ("size", "batches", "whole"),
    [
        (16, 2, 32),  # 86 images are five batches of 16, of which four are used, and two of 32
        (20, 3, 60),  # four batches of 20, of which three are used
        (40, 9, 80),  # only two batches: both form the step
    ],
)
@pytest.mark.filterwarnings("ignore:accumulate_grad_batches=9 is reduced to 2")
def test_accumulated_gradients_equal_those_of_a_larger_batch(
    data: ImageData, size: int, batches: int, whole: int
) -> None:
    data = data._replace(train=data.train.subset(torch.arange(86)))
    recipe = replace(ONE_STEP, num_epochs=3, learning_rate=0.05, schedule="cosine")
    parts = replace(recipe, batch_size=size, accumulate_grad_batches=batches)
    found, number = trained(data, parts)
    expected, steps = trained(data, replace(recipe, batch_size=whole))
    assert number == steps * whole // size
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


def test_accumulating_more_batches_than_an_epoch_has_warns(data: ImageData) -> None:
    """96 images in batches of 40 are 2 batches."""
    recipe = replace(ONE_STEP, batch_size=40, accumulate_grad_batches=8, validation=0.0)
    expected = (
        r"accumulate_grad_batches=8 is reduced to 2, because an epoch has only 2 batches \(96 "
        r"training images in batches of 40\): set it to at most 2, or choose a smaller batch_size"
    )
    with pytest.warns(UserWarning, match=expected):
        fit(Constant(), data, recipe)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fit(Constant(), data, replace(recipe, accumulate_grad_batches=2))
    assert not [each for each in found if "accumulate" in str(each.message)]


def test_the_schedule_of_accumulated_gradients_ends_with_the_run(
    data: ImageData, tmp_path: Path
) -> None:
    """Cosine over three epochs of one step each: 1, 3/4 and 1/4 of the learning rate."""
    recipe = replace(ONE_STEP, num_epochs=3, batch_size=24, accumulate_grad_batches=4)
    history = fit(Constant(), data, replace(recipe, schedule="cosine"), output=tmp_path)
    assert history["learning_rate"] == pytest.approx([1.0, 0.75, 0.25])
