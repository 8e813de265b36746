"""Effects of recipe keys on a stage, observed in the network being trained."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.training import ImageData, Recipe, fit
from cnnarch.weights import Preprocessing

ONE_STEP = Recipe(  # plain gradient descent with a learning rate of 1
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


def inputs_of_epoch(data: ImageData, recipe: Recipe) -> dict[bool, Tensor]:
    """Return a network's inputs in one epoch by mode: training (True) or evaluation (False)."""
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
def test_images_are_augmented_only_during_training(data: ImageData, change: dict[str, Any]) -> None:
    recipe = replace(ONE_STEP, batch_size=16, validation=0.25, test_each_epoch=True)
    plain = inputs_of_epoch(data, recipe)
    changed = inputs_of_epoch(data, replace(recipe, **change))
    assert plain[True].shape == changed[True].shape == (64, 1, 32, 32)
    assert not torch.equal(plain[True], changed[True])
    assert len(plain[False]) == 24 + 40  # validation, then test images
    assert torch.equal(plain[False], changed[False])
    assert torch.equal(changed[False][24:], data.test.inputs(torch.arange(40)))


def gradient(data: ImageData, clip_gradient: float) -> Tensor:
    """Return the gradient: the change in the weights in one step with learning rate 1."""
    model = linear()
    before = nn.utils.parameters_to_vector(model.parameters()).detach()
    fit(model, data, replace(ONE_STEP, clip_gradient=clip_gradient))
    return before - nn.utils.parameters_to_vector(model.parameters()).detach()


def test_a_gradient_with_a_large_norm_is_clipped_and_keeps_its_direction(
    data: ImageData,
) -> None:
    whole, clipped = gradient(data, 0.0), gradient(data, 0.01)
    assert whole.norm() > 0.02
    assert clipped.norm().item() == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(clipped / clipped.norm(), whole / whole.norm(), rtol=1e-3, atol=1e-5)


def test_a_gradient_with_a_small_norm_is_not_clipped(data: ImageData) -> None:
    torch.testing.assert_close(gradient(data, 1e3), gradient(data, 0.0))


@pytest.mark.parametrize(("setting", "channels_last"), [(None, True), (True, True), (False, False)])
def test_channels_last_is_the_default_memory_format(
    data: ImageData, setting: bool | None, channels_last: bool
) -> None:
    color = data.prepared(Preprocessing(32, 32, mean=(0.4,) * 3, std=(0.3,) * 3))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found: list[tuple[bool, bool]] = []

    def record(module: nn.Module, inputs: tuple[Tensor]) -> None:
        for tensor in (module.weight, *inputs):
            plain = tensor.is_contiguous()
            found.append((tensor.is_contiguous(memory_format=torch.channels_last), plain))

    model[0].register_forward_pre_hook(record)
    fit(model, color, replace(ONE_STEP, channels_last=setting))
    assert found == [(channels_last, not channels_last)] * 2  # weight and images
    assert model[0].weight.is_contiguous()


class Constant(nn.Module):
    """Returns logits that do not depend on the image; each head is a bias, initially 0."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.aux1, self.aux2 = (nn.Parameter(torch.zeros(4)) for _ in range(3))

    def forward(self, x: Tensor) -> Any:
        logits = [bias.expand(len(x), 4) for bias in (self.main, self.aux1, self.aux2)]
        return cnnarch.AuxLogits(*logits) if self.training else logits[0]


def test_auxiliary_losses_are_weighted_by_0_3(data: ImageData) -> None:
    """For equal logits, the gradient is 1/4 per class, minus 1 for the label."""
    first_class = data.train.subset((data.train.labels == 0).nonzero().flatten())
    model = Constant()
    fit(model, data._replace(train=first_class), ONE_STEP)
    main = torch.tensor([0.75, -0.25, -0.25, -0.25])
    torch.testing.assert_close(model.main.detach(), main)
    for head in (model.aux1, model.aux2):
        torch.testing.assert_close(head.detach(), 0.3 * main)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed_parts(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Return the parts of LeNet-5 whose parameters or running statistics differ."""
    names = [name for name, value in before.items() if not torch.equal(value, after[name])]
    return {".".join(name.split(".")[: 2 if name.startswith("stages") else 1]) for name in names}


ALL = {"stem", "stages.1", "stages.3", "head"}  # the other stages are pooling layers


@pytest.mark.parametrize(
    ("freeze", "trained"), [(True, {"head"}), ("C3", {"stages.3", "head"}), (False, ALL)]
)
def test_frozen_layers_do_not_change_and_may_be_trained_later(
    data: ImageData, freeze: bool | str, trained: set[str]
) -> None:
    model = cnnarch.lenet5_bn(num_classes=4)
    before, found = copied(model), []
    recipe = replace(ONE_STEP, batch_size=16, freeze=freeze, then=[{"freeze": False}])
    history = fit(model, data, recipe, on_epoch_end=lambda _: found.append(copied(model)))
    assert changed_parts(before, found[0]) == trained
    assert changed_parts(found[0], found[1]) == ALL
    assert len(history.rows) == 2


def test_freezing_everything_trains_only_the_classifier(data: ImageData) -> None:
    model = cnnarch.lenet5_bn(num_classes=4)
    before = copy.deepcopy(model.state_dict())
    fit(model, data, replace(ONE_STEP, batch_size=16, freeze=True))
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"head.classifier.weight"}


def test_training_restores_the_frozen_state_of_each_layer(data: ImageData) -> None:
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


def test_a_resumed_run_freezes_the_same_layers(data: ImageData, tmp_path: Path) -> None:
    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise KeyError

    recipe = replace(ONE_STEP, batch_size=16, num_epochs=3, freeze=True)
    model = cnnarch.lenet5_bn(num_classes=4)
    before = copied(model)
    with pytest.raises(KeyError):
        fit(model, data, recipe, output=tmp_path, on_epoch_end=stop)
    resumed = cnnarch.lenet5_bn(num_classes=4)
    assert len(fit(resumed, data, recipe, output=tmp_path, resume=True).rows) == 3
    assert changed_parts(before, copied(resumed)) == {"head"}


def test_an_unknown_stage_to_freeze_is_rejected_before_the_first_step(data: ImageData) -> None:
    epochs: list[object] = []
    recipe = replace(ONE_STEP, then=[{"freeze": "conv9"}])
    with pytest.raises(ValueError, match="no stage 'conv9'; the stages are 0 'C1', 1 'S2'"):
        fit(cnnarch.lenet5_bn(num_classes=4), data, recipe, on_epoch_end=epochs.append)
    with pytest.raises(TypeError, match="a cnnarch network or backbone, got Sequential"):
        fit(linear(), data, recipe, on_epoch_end=epochs.append)
    assert epochs == []


def test_a_stage_that_would_train_nothing_is_rejected_before_the_first_step(
    data: ImageData,
) -> None:
    """The classifier of lenet5_1998 computes distances to fixed vectors."""
    model = cnnarch.lenet5_1998(num_classes=4)
    calls: list[int] = []
    handle = model.register_forward_pre_hook(lambda *_: calls.append(1))
    recipe = replace(ONE_STEP, then=[{"freeze": True}])
    with pytest.raises(ValueError, match=r"stage 2 .* train nothing: freeze=True .* classifier"):
        fit(model, data, recipe)
    handle.remove()
    assert not calls
    assert all(p.requires_grad for p in model.parameters())


def test_a_network_without_trainable_parameters_is_rejected(data: ImageData) -> None:
    model = cnnarch.lenet5(num_classes=4).requires_grad_(False)
    with pytest.raises(ValueError, match=r"train nothing: no parameter .* requires gradients"):
        fit(model, data, ONE_STEP)
    model = cnnarch.lenet5(num_classes=0)
    with pytest.raises(ValueError, match="requires num_classes=4, but the network has 0"):
        fit(model, data, replace(ONE_STEP, freeze=True))
