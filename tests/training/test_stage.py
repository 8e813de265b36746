"""What a stage does of what its recipe says, seen from within the network that it trains."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.training import ImageData, Recipe, fit
from cnnarch.weights import Preprocessing

ONE_STEP = Recipe(  # of plain gradient descent, as long as the gradient
    num_epochs=1,
    batch_size=96,
    learning_rate=1.0,
    momentum=0.0,
    weight_decay=0.0,
    schedule="constant",
    precision="32-true",
    validation=0.0,
)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(16, 4))


def seen(data: ImageData, recipe: Recipe) -> dict[bool, Tensor]:
    """All that a network reads in an epoch: in training, and in evaluation."""
    calls: dict[bool, list[Tensor]] = {True: [], False: []}
    model = linear()
    model.register_forward_pre_hook(lambda m, x: calls[m.training].append(x[0].clone()))
    fit(model, data, recipe)
    return {training: torch.cat(inputs) for training, inputs in calls.items()}


@pytest.mark.parametrize(
    "change",
    [
        {"crop_padding": 4},
        {"flip": True},
        {"resized_crop": 0.3},
        {"randaugment": 15},
        {"erasing": 0.9},
        {"mixup": 1.0},
        {"cutmix": 1.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_images_are_changed_in_training_alone(data: ImageData, change: dict[str, Any]) -> None:
    recipe = replace(ONE_STEP, batch_size=16, validation=0.25, test_each_epoch=True)
    plain, changed = seen(data, recipe), seen(data, replace(recipe, **change))
    assert plain[True].shape == changed[True].shape == (64, 1, 32, 32)
    assert not torch.equal(plain[True], changed[True])
    assert len(plain[False]) == 24 + 40  # validation, then test images
    assert torch.equal(plain[False], changed[False])
    assert torch.equal(changed[False][24:], data.test.inputs(torch.arange(40)))


def step(data: ImageData, clip_gradient: float) -> Tensor:
    """What one step of a learning rate of 1 takes from the weights: the gradient."""
    model = linear()
    before = nn.utils.parameters_to_vector(model.parameters()).detach()
    fit(model, data, replace(ONE_STEP, clip_gradient=clip_gradient))
    return before - nn.utils.parameters_to_vector(model.parameters()).detach()


def test_a_gradient_longer_than_allowed_is_shortened_and_keeps_its_direction(
    data: ImageData,
) -> None:
    whole, short = step(data, 0.0), step(data, 0.01)
    assert whole.norm() > 0.02
    assert short.norm().item() == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(short / short.norm(), whole / whole.norm(), rtol=1e-3, atol=1e-5)


def test_a_gradient_that_is_short_enough_stays(data: ImageData) -> None:
    torch.testing.assert_close(step(data, 1e3), step(data, 0.0))


@pytest.mark.parametrize(("wanted", "innermost"), [(None, True), (True, True), (False, False)])
def test_channels_are_innermost_in_memory_unless_that_is_forbidden(
    data: ImageData, wanted: bool | None, innermost: bool
) -> None:
    colour = data.prepared(Preprocessing(32, 32, mean=(0.4,) * 3, std=(0.3,) * 3))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found: list[tuple[bool, bool]] = []

    def note(module: nn.Module, inputs: tuple[Tensor]) -> None:
        for tensor in (module.weight, *inputs):
            plain = tensor.is_contiguous()
            found.append((tensor.is_contiguous(memory_format=torch.channels_last), plain))

    model[0].register_forward_pre_hook(note)
    fit(model, colour, replace(ONE_STEP, channels_last=wanted))
    assert found == [(innermost, not innermost)] * 2  # weight and images of the one step
    assert model[0].weight.is_contiguous()


class Constant(nn.Module):
    """Logits that no image moves: each head is a bias, 0 for all four classes at first."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.aux1, self.aux2 = (nn.Parameter(torch.zeros(4)) for _ in range(3))

    def forward(self, x: Tensor) -> Any:
        logits = [bias.expand(len(x), 4) for bias in (self.main, self.aux1, self.aux2)]
        return cnnarch.AuxLogits(*logits) if self.training else logits[0]


def test_each_auxiliary_loss_counts_three_tenths_of_the_main_one(data: ImageData) -> None:
    """Of equal logits the gradient is 1/4 for each class, less 1 for the label's."""
    first_class = data.train.subset((data.train.labels == 0).nonzero().flatten())
    model = Constant()
    fit(model, data._replace(train=first_class), ONE_STEP)
    main = torch.tensor([0.75, -0.25, -0.25, -0.25])
    torch.testing.assert_close(model.main.detach(), main)
    for head in (model.aux1, model.aux2):
        torch.testing.assert_close(head.detach(), 0.3 * main)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Which parts of LeNet-5 differ in parameters or running statistics."""
    names = [name for name, value in before.items() if not torch.equal(value, after[name])]
    return {".".join(name.split(".")[: 2 if name.startswith("stages") else 1]) for name in names}


ALL = {"stem", "stages.1", "stages.3", "head"}  # the other stages are pools


@pytest.mark.parametrize(
    ("freeze", "trained"), [(True, {"head"}), ("C3", {"stages.3", "head"}), (False, ALL)]
)
def test_what_is_frozen_stays_to_the_bit_and_may_be_trained_after(
    data: ImageData, freeze: bool | str, trained: set[str]
) -> None:
    model = cnnarch.lenet5_bn(num_classes=4)
    before, found = copied(model), []
    recipe = replace(ONE_STEP, batch_size=16, freeze=freeze, then=[{"freeze": False}])
    history = fit(model, data, recipe, tell=lambda _: found.append(copied(model)))
    assert moved(before, found[0]) == trained
    assert moved(found[0], found[1]) == ALL
    assert len(history.rows) == 2


def test_after_training_nothing_is_frozen_but_what_was_before(data: ImageData) -> None:
    for before in (set(), {"stem", "stages.0"}):
        model = cnnarch.lenet5_bn(num_classes=4)
        if before:
            cnnarch.freeze(model, upto="S2")
        fit(model, data, replace(ONE_STEP, freeze=True))
        model.train()
        parts = {f"stages.{i}": stage for i, stage in enumerate(model.stages)}
        for name, part in {"stem": model.stem, **parts, "head": model.head}.items():
            assert part.training is (name not in before)
            assert all(p.requires_grad is (name not in before) for p in part.parameters())


def test_a_resumed_run_keeps_frozen_what_was(data: ImageData, tmp_path: Path) -> None:
    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise KeyError

    recipe = replace(ONE_STEP, batch_size=16, num_epochs=3, freeze=True)
    model = cnnarch.lenet5_bn(num_classes=4)
    before = copied(model)
    with pytest.raises(KeyError):
        fit(model, data, recipe, output=tmp_path, tell=stop)
    resumed = cnnarch.lenet5_bn(num_classes=4)
    assert len(fit(resumed, data, recipe, output=tmp_path, resume=True).rows) == 3
    assert moved(before, copied(resumed)) == {"head"}


def test_what_cannot_be_frozen_is_told_before_the_first_step(data: ImageData) -> None:
    told: list[object] = []
    recipe = replace(ONE_STEP, then=[{"freeze": "conv9"}])
    with pytest.raises(ValueError, match="no stage 'conv9'; the stages are 0 'C1', 1 'S2'"):
        fit(cnnarch.lenet5_bn(num_classes=4), data, recipe, tell=told.append)
    with pytest.raises(TypeError, match="a network or a backbone of cnnarch, got Sequential"):
        fit(linear(), data, recipe, tell=told.append)
    assert told == []
