"""Optimizers and schedules: learning rates compared with hand-computed values."""

import math

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from cnnarch.training import Recipe, find_recipe
from cnnarch.training.optimization import make_optimizer, make_schedule, number_of_epochs

STEPS = 10  # per epoch


def rates(recipe: Recipe) -> list[float]:
    """Return a recipe's learning rate at each step."""
    optimizer = make_optimizer(nn.Linear(2, 2), recipe)
    schedule = make_schedule(optimizer, recipe, STEPS)
    found = []
    for _ in range(number_of_epochs(recipe, STEPS) * STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_optimizers_are_torch_optimizers_with_the_recipes_values() -> None:
    model = nn.Linear(2, 2)
    sgd = make_optimizer(model, Recipe(optimizer="sgd", momentum=0.8, nesterov=True))
    assert isinstance(sgd, SGD)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.8, True)
    adam = make_optimizer(model, Recipe(optimizer="adam", weight_decay=0.3))
    assert type(adam) is Adam
    assert adam.defaults["weight_decay"] == 0.3
    assert type(make_optimizer(model, Recipe(optimizer="adamw"))) is AdamW
    rmsprop = make_optimizer(model, find_recipe("efficientnet-paper"))
    assert type(rmsprop) is RMSprop
    numbers = [rmsprop.defaults[name] for name in ("lr", "alpha", "momentum", "weight_decay")]
    assert numbers == [0.256, 0.9, 0.9, 1e-5]  # arXiv:1905.11946, section 5.2


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop"])
def test_epsilon_limits_the_step_for_a_small_gradient(optimizer: str) -> None:
    weight = nn.Linear(1, 1, bias=False)
    before = weight.weight.item()
    recipe = Recipe(
        optimizer=optimizer, learning_rate=1.0, epsilon=1.0, weight_decay=0.0, momentum=0.0
    )
    weight.weight.grad = torch.full((1, 1), 1e-3)
    make_optimizer(weight, recipe).step()
    # Without epsilon, the step would be 1 (Adam) or 3.2 (RMSProp, whose running mean is a tenth of
    # the squared gradient).
    root = 1e-3 * math.sqrt(0.1) if optimizer == "rmsprop" else 1e-3
    assert before - weight.weight.item() == pytest.approx(1e-3 / (1 + root), rel=1e-3)


def test_the_optimizer_excludes_frozen_parameters() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    (group,) = make_optimizer(model, Recipe()).param_groups
    assert [p.shape for p in group["params"]] == [(2, 2)]


def test_the_constant_schedule_does_not_change() -> None:
    assert set(rates(Recipe(schedule="constant", learning_rate=0.2, num_epochs=2))) == {0.2}


def test_the_step_schedule_decays_at_regular_intervals() -> None:
    found = rates(Recipe(schedule="step", learning_rate=1.0, step_epochs=2, num_epochs=5))
    expected = [1.0] * 20 + [0.1] * 20 + [0.01] * 10
    assert found == pytest.approx(expected)


def test_the_step_schedule_decays_after_the_listed_epochs() -> None:
    recipe = Recipe(schedule="step", learning_rate=1.0, step_epochs=[1, 3], num_epochs=4)
    assert rates(recipe) == pytest.approx([1.0] * 10 + [0.1] * 20 + [0.01] * 10)


def test_the_step_schedule_may_decay_within_an_epoch() -> None:
    found = rates(Recipe(schedule="step", learning_rate=1.0, step_epochs=2.4, num_epochs=6))
    assert found == pytest.approx([1.0] * 24 + [0.1] * 24 + [0.01] * 12)


def test_cosine_decays_to_zero() -> None:
    found = rates(Recipe(schedule="cosine", learning_rate=2.0, num_epochs=4))
    assert found == pytest.approx([1 + math.cos(math.pi * i / 40) for i in range(40)])


def test_linear_decays_to_zero() -> None:
    found = rates(Recipe(schedule="linear", learning_rate=2.0, num_epochs=4))
    assert found == pytest.approx([2 * (40 - i) / 40 for i in range(40)])


def test_warmup_rises_linearly_before_the_schedule() -> None:
    recipe = Recipe(schedule="cosine", learning_rate=1.0, num_epochs=4, warmup_epochs=1)
    found = rates(recipe)
    assert found[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert found[10:] == pytest.approx([(1 + math.cos(math.pi * i / 30)) / 2 for i in range(30)])


def test_warmup_does_not_shift_the_steps_of_the_schedule() -> None:
    recipe = Recipe(
        schedule="step", learning_rate=1.0, step_epochs=[2], num_epochs=3, warmup_epochs=1
    )
    assert rates(recipe)[10:] == pytest.approx([1.0] * 10 + [0.1] * 10)


@pytest.mark.parametrize(("warmup", "peak"), [(0.0, 0.3), (1.0, 0.1)])
def test_one_cycle_rises_and_falls(warmup: float, peak: float) -> None:
    found = rates(Recipe(learning_rate=1.0, num_epochs=10, warmup_epochs=warmup))
    assert max(found) == pytest.approx(1.0, abs=0.01)
    assert found.index(max(found)) == pytest.approx(peak * 100, abs=1)
    assert found[0] == pytest.approx(1 / 25)  # OneCycleLR's div_factor
    assert found[-1] < 1e-4


def test_the_training_length_may_be_a_number_of_steps() -> None:
    assert number_of_epochs(Recipe(num_epochs=7), 390) == 7
    assert number_of_epochs(Recipe(num_steps=64_000), 390) == 164  # ResNet's CIFAR training
    assert number_of_epochs(Recipe(num_steps=3), 390) == 1


def test_schedules_load_with_weights_only() -> None:
    import io

    for schedule in ("constant", "step", "cosine", "one-cycle"):
        recipe = Recipe(schedule=schedule, warmup_epochs=1)  # type: ignore[arg-type]
        optimizer = make_optimizer(nn.Linear(2, 2), recipe)
        file = io.BytesIO()
        torch.save(make_schedule(optimizer, recipe, STEPS).state_dict(), file)
        file.seek(0)
        assert torch.load(file, weights_only=True)


def test_one_cycle_may_rise_in_a_single_step() -> None:
    recipe = Recipe(num_epochs=2, warmup_epochs=1 / STEPS, learning_rate=0.1)
    found = rates(recipe)
    assert found[0] == pytest.approx(0.1 / 25)  # OneCycleLR starts at 1/25 of the peak
    assert found[1] > 0.09
    assert found[-1] == pytest.approx(0.1 / 25e4, abs=1e-4)
