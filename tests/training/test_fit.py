"""Training and evaluation: metrics, weights, checkpoints and side effects."""

import csv
import math
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import cnnarch
from cnnarch.training import (
    History,
    ImageData,
    NonFiniteLossError,
    Recipe,
    build_model,
    evaluate,
    fit,
    train,
)
from tests.training.conftest import Peaks

QUICK = Recipe(
    num_epochs=4,
    batch_size=16,
    optimizer="adam",
    learning_rate=3e-3,
    weight_decay=0,
    validation=0.25,
)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class CallRecorder(nn.Module):
    """A network that records its mode and whether gradients are enabled on each call."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 4))
        self.calls: list[tuple[bool, bool, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((self.training, torch.is_grad_enabled(), len(x)))
        result: Tensor = self.net(x)
        return result


def test_a_network_learns(data: ImageData, lenet: cnnarch.ImageClassifier) -> None:
    history = fit(lenet, data, QUICK)
    assert evaluate(lenet, data.test).top1 > 0.95
    assert history["train_loss"][-1] < history["train_loss"][0] / 2
    assert not lenet.training


def test_history_has_one_row_per_epoch(data: ImageData, lenet: cnnarch.ImageClassifier) -> None:
    rows: list[Any] = []
    history = fit(lenet, data, replace(QUICK, test_each_epoch=True), on_epoch_end=rows.append)
    assert history["epoch"] == [1, 2, 3, 4]
    names = [
        f"{split}_{metric}" for split in ("train", "val", "test") for metric in ("loss", "acc")
    ]
    assert set(history) == {*names, "epoch", "learning_rate", "seconds"}
    assert rows == history.rows


def test_without_validation_all_images_are_used_for_training(data: ImageData) -> None:
    model = CallRecorder()
    history = fit(model, data, replace(QUICK, num_epochs=1, validation=0))
    assert sum(n for *_, n in model.calls) == 96
    assert "val_loss" not in history


def test_each_epoch_trains_in_train_mode_and_validates_in_eval_mode(data: ImageData) -> None:
    model = CallRecorder()
    fit(model, data, replace(QUICK, num_epochs=3))
    epoch = [(True, True, 16)] * 4 + [(False, False, 16), (False, False, 8)]
    assert model.calls == epoch * 3


def test_recorded_metrics_are_means_over_all_images(
    data: ImageData, lenet: cnnarch.ImageClassifier
) -> None:
    """Because batch sizes differ, the mean of the batch means would be different."""
    recipe = replace(QUICK, num_epochs=1, test_each_epoch=True, validation=0, batch_size=32)
    history = fit(lenet, data, recipe)
    with torch.no_grad():
        logits = lenet(data.test.inputs(torch.arange(40)))
    loss = cross_entropy(logits, data.test.labels)
    assert history["test_loss"][0] == pytest.approx(float(loss), rel=1e-5)
    right = (logits.argmax(1) == data.test.labels).float().mean()
    assert history["test_acc"][0] == pytest.approx(float(right))


def test_evaluation_agrees_with_direct_computation(
    data: ImageData, lenet: cnnarch.ImageClassifier
) -> None:
    fit(lenet, data, replace(QUICK, num_epochs=1))
    metrics = evaluate(lenet, data.test, batch_size=12)
    with torch.no_grad():
        logits = lenet(data.test.inputs(torch.arange(40)))
    labels, predictions = data.test.labels, logits.argmax(1)
    assert metrics.loss == pytest.approx(float(cross_entropy(logits, labels)), rel=1e-5)
    assert metrics.top1 == pytest.approx(float((predictions == labels).float().mean()))
    assert metrics.top5 == 1  # there are only four classes
    for i, name in enumerate(data.classes):
        of_class = predictions[labels == i]
        assert metrics.per_class[name] == pytest.approx(float((of_class == i).float().mean()))
        assert metrics.confusion[i].tolist() == [int((of_class == j).sum()) for j in range(4)]
    assert 0 <= metrics.calibration_error <= 1
    assert torch.equal(metrics.predictions, predictions)
    likely = logits.softmax(1).amax(1)
    torch.testing.assert_close(metrics.probabilities, likely, rtol=1e-4, atol=1e-6)


def test_classes_with_the_same_name_have_their_own_metrics(data: ImageData) -> None:
    """ImageNet has two classes "crane". The network predicts the first class for all images."""

    class First(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([9.0, 0, 0, 0]).repeat(len(x), 1)

    images = replace(data.test, classes=("crane", "crane", "owl", "owl"))
    metrics = evaluate(First(), images)
    assert metrics.per_class == {"crane #0": 1.0, "crane #1": 0.0, "owl #2": 0.0, "owl #3": 0.0}
    assert metrics.precision["crane #0"] == 0.25  # each class has as many images
    assert metrics.f1 == {"crane #0": 0.4, "crane #1": 0.0, "owl #2": 0.0, "owl #3": 0.0}
    assert metrics.figures()["precision"]["owl #2"] is None  # never predicted
    assert metrics.figures()["macro_f1"] == pytest.approx(0.1)


def test_classes_without_images_have_no_f1_score(data: ImageData) -> None:
    metrics = evaluate(cnnarch.lenet5(num_classes=4), data.test.subset(torch.tensor([0])))
    found = int(metrics.predictions)
    expected = {data.classes[i] for i in (0, found)}  # the label and the prediction
    scores = metrics.figures()["f1"]
    assert {name for name, score in scores.items() if score is not None} == expected


def test_evaluation_keeps_the_mode_of_each_layer(
    data: ImageData, lenet: cnnarch.ImageClassifier
) -> None:
    lenet.train()
    lenet.stages[0].eval()
    before = [module.training for module in lenet.modules()]
    evaluate(lenet, data.test)
    assert [module.training for module in lenet.modules()] == before


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_does_not_change_the_network(
    data: ImageData, lenet: cnnarch.ImageClassifier, training: bool
) -> None:
    lenet.train(training)
    before = weights(lenet)
    evaluate(lenet, data.test)
    assert lenet.training is training
    assert equal(before, weights(lenet))
    assert all(p.requires_grad for p in lenet.parameters())


def test_the_same_seed_gives_the_same_weights(data: ImageData) -> None:
    def trained(noise: int) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = cnnarch.convnet(num_classes=4)
        torch.manual_seed(noise)  # random numbers drawn earlier must have no effect
        fit(model, data, replace(QUICK, num_epochs=2, crop_padding=2, flip=True, mixup=0.2))
        return weights(model)

    assert equal(trained(1), trained(2))


def test_training_does_not_change_the_global_random_state(
    data: ImageData, lenet: cnnarch.ImageClassifier
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(lenet, data, replace(QUICK, num_epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_fitting_again_continues_from_the_current_weights(
    data: ImageData, lenet: cnnarch.ImageClassifier
) -> None:
    fit(lenet, data, QUICK)
    again = fit(lenet, data, replace(QUICK, num_epochs=1, optimizer="sgd", learning_rate=1e-4))
    assert again["val_acc"][0] > 0.9


def test_one_history_contains_all_stages(data: ImageData, lenet: cnnarch.ImageClassifier) -> None:
    recipe = replace(
        QUICK,
        num_epochs=2,
        schedule="constant",
        then=[{"num_epochs": 1, "optimizer": "sgd", "learning_rate": 1e-4}],
    )
    history = fit(lenet, data, recipe)
    assert history["epoch"] == [1, 2, 3]
    assert history["learning_rate"] == pytest.approx([3e-3, 3e-3, 1e-4])


@pytest.mark.parametrize(("ema", "decay"), [(0.1, 0.1), (0.999, 2 / 11)])
def test_ema_returns_the_averaged_weights(data: ImageData, ema: float, decay: float) -> None:
    """After two steps with decay d: d * first weights + (1 - d) * second weights.

    In the second step, the decay is at most 2 / 11.
    """
    recipe = Recipe(
        optimizer="sgd", momentum=0, schedule="constant", validation=0, learning_rate=0.5
    )

    def trained(ema: float) -> tuple[list[Tensor], Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(16, 4))
        read: list[Tensor] = []
        model.register_forward_pre_hook(lambda *_: read.append(model[2].weight.detach().clone()))
        fit(model, data, replace(recipe, num_epochs=1, batch_size=48, ema=ema))
        return read, model[2].weight.detach()

    (_, first), second = trained(ema=0.0)
    _, averaged = trained(ema)
    torch.testing.assert_close(averaged, decay * first + (1 - decay) * second)
    assert (first - second).abs().max() > 1e-3


def test_keep_best_returns_the_weights_of_the_best_epoch(data: ImageData, tmp_path: Path) -> None:
    """`Peaks` performs best in the second of four epochs."""
    model = Peaks()
    scales: list[float] = []
    recipe = replace(QUICK, keep_best=True)
    history = fit(
        model,
        data,
        recipe,
        output=tmp_path,
        on_epoch_end=lambda _: scales.append(model.scale.item()),
    )
    assert history["val_acc"] == [0, 1, 0, 0]
    assert model.steps == 8
    assert model.scale.item() == scales[1]
    assert len(set(scales)) == 4
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["stage-1-result.ckpt"]


WRONG_TYPES: list[Any] = [
    ({"model": "lenet5"}, r"a network, such as build_model\('resnet18', data\), got str"),
    ({"data": "folder:photos"}, r"load_data, such as load_data\('folder:photos'\), got str"),
    ({"recipe": {"num_epochs": 1}}, r"a Recipe, such as Recipe\(num_epochs=5\), or None, got d"),
    ({"machine": 2}, r"a Machine, such as Machine\(devices=2\), got int"),
]


@pytest.mark.parametrize(("changed", "message"), WRONG_TYPES)
@pytest.mark.parametrize("function", [fit, train])
def test_an_argument_of_another_type_is_rejected(
    data: ImageData,
    lenet: cnnarch.ImageClassifier,
    function: Any,
    changed: dict[str, Any],
    message: str,
) -> None:
    arguments = {"model": lenet, "data": data, "recipe": QUICK} | changed
    with pytest.raises(TypeError, match=f"{min(changed)} must be .*{message}"):
        function(**arguments)


@pytest.mark.parametrize(("changed", "message"), WRONG_TYPES[1:3])
def test_build_model_rejects_an_argument_of_another_type(
    data: ImageData, changed: dict[str, Any], message: str
) -> None:
    arguments = {"data": data, "recipe": QUICK} | changed
    with pytest.raises(TypeError, match=message):
        build_model("lenet5", **arguments)


def test_early_stopping_stops_when_validation_does_not_improve(data: ImageData) -> None:
    torch.manual_seed(0)
    model = cnnarch.lenet5(num_classes=4)
    recipe = replace(QUICK, num_epochs=50, learning_rate=0.0, schedule="constant", early_stopping=2)
    assert len(fit(model, data, recipe).rows) == 3  # the first epoch, and two without improvement


@pytest.mark.parametrize("options", [{"early_stopping": 1}, {"keep_best": True}])
def test_a_validation_split_without_images_is_rejected(
    data: ImageData, lenet: cnnarch.ImageClassifier, options: dict[str, Any]
) -> None:
    few = data._replace(train=data.train.subset(torch.arange(4)))
    with pytest.raises(ValueError, match=r"validation=0.1 selects none of the 4 training images"):
        fit(lenet, few, Recipe(num_epochs=1, **options))


def test_label_smoothing_changes_only_the_training_loss(data: ImageData) -> None:
    def losses(smoothing: float) -> tuple[float, float]:
        torch.manual_seed(0)
        model = cnnarch.lenet5(num_classes=4)
        recipe = replace(QUICK, num_epochs=1, learning_rate=0.0, label_smoothing=smoothing)
        history = fit(model, data, recipe)
        return history["train_loss"][0], history["val_loss"][0]

    (plain, validation), (smooth, same) = losses(0.0), losses(0.4)
    assert plain != pytest.approx(smooth)
    assert validation == pytest.approx(same)


def test_losses_of_auxiliary_heads_are_weighted(data: ImageData) -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aux = (nn.Linear(16, 4) for _ in range(2))

        def forward(self, x: Tensor) -> Any:
            x = nn.functional.avg_pool2d(x, 8).flatten(1)
            return cnnarch.AuxLogits(self.main(x), self.aux(x)) if self.training else self.main(x)

    model = Auxiliary()
    before = weights(model)
    recipe = replace(QUICK, num_epochs=1, aux_weight=0.0)
    history = fit(model, data, recipe)
    assert history["train_aux1_loss"][0] > 0
    after = weights(model)
    assert torch.equal(before["aux.weight"], after["aux.weight"])  # the auxiliary loss had weight 0
    assert not torch.equal(before["main.weight"], after["main.weight"])
    fit(model, data, replace(recipe, aux_weight=0.3))
    assert not torch.equal(before["aux.weight"], weights(model)["aux.weight"])


def test_a_non_finite_loss_stops_training(
    data: ImageData, lenet: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    class Explodes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.step = lenet, 0

        def forward(self, x: Tensor) -> Tensor:
            self.step += self.training
            return self.net(x) * (math.inf if self.step == 7 else 1)

    recipe = replace(QUICK, schedule="constant", learning_rate=0.001)
    with pytest.raises(NonFiniteLossError, match=r"epoch 2, step 7, at learning rate 0.001"):
        fit(Explodes(), data, recipe, output=tmp_path)
    assert len(History.load(tmp_path / "metrics.csv").rows) == 1
    last = torch.load(tmp_path / "checkpoints" / "stage-1-last.ckpt", weights_only=True)
    assert last["loop"]["epoch"] == 1
    assert all(torch.isfinite(v).all() for v in last["state_dict"].values())


def test_nan_weights_after_the_last_step_of_an_epoch_are_not_saved(
    data: ImageData, lenet: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    """The loss in the last step is finite, and there is no validation afterwards."""

    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.step = lenet, 0

        def forward(self, x: Tensor) -> Tensor:
            self.step += self.training
            logits = self.net(x)
            if self.step == 12:  # the last step of the second epoch
                logits.register_hook(lambda gradient: gradient * math.nan)
            return logits

    recipe = replace(QUICK, schedule="constant", learning_rate=0.001, validation=0.0)
    with pytest.raises(NonFiniteLossError, match=r"weights .* in epoch 2, step 12, at .* 0.001"):
        fit(Breaks(), data, recipe, output=tmp_path)
    last = torch.load(tmp_path / "checkpoints" / "stage-1-last.ckpt", weights_only=True)
    assert last["loop"]["epoch"] == 1
    assert all(torch.isfinite(v).all() for v in last["state_dict"].values())


def test_running_out_of_memory_names_the_batch_size_and_keeps_the_last_epoch(
    data: ImageData, lenet: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    steps: list[object] = []

    def allocate(module: nn.Module, *_: object) -> None:
        steps.append(module)
        if module.training and len(steps) > 8:  # an epoch has four steps and two validation batches
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0")

    lenet.register_forward_pre_hook(allocate)
    with pytest.raises(
        torch.OutOfMemoryError, match=r"batch_size=16 .*\(tried to allocate 2.50 GiB more"
    ):
        fit(lenet, data, QUICK, output=tmp_path)
    assert len(History.load(tmp_path / "metrics.csv").rows) == 1


def test_the_progress_bar_shows_loss_accuracy_and_remaining_time(
    data: ImageData,
    lenet: cnnarch.ImageClassifier,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The progress bar fits on a single 80-column line."""
    monkeypatch.setenv("COLUMNS", "80")
    fit(lenet, data, replace(QUICK, num_epochs=1), progress=True)
    shown = capsys.readouterr().out
    assert re.search(r"Epoch 1/1 .*\d:\d\d:\d\d .* loss: \d+\.\d+ acc: [01]\.\d+", shown), shown


def test_signal_handlers_are_restored(
    data: ImageData, lenet: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    """With Lightning's handler, SIGTERM would no longer terminate the process."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    fit(lenet, data, replace(QUICK, num_epochs=1), output=tmp_path)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_metrics_are_written_to_a_csv_file(
    data: ImageData, lenet: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    history = fit(lenet, data, replace(QUICK, num_epochs=2), output=tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["train_loss"]) for row in rows] == history["train_loss"]
    assert History.load(tmp_path / "metrics.csv").rows == history.rows


def test_lightning_loggers_receive_the_metrics(
    data: ImageData, lenet: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path, name="", version="")
    fit(lenet, data, replace(QUICK, num_epochs=1), loggers=[logger])
    assert "train_loss" in (tmp_path / "metrics.csv").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 7}, "the data set requires num_classes=4, but the network has 7"),
        ({"num_classes": 4, "in_channels": 3}, "requires in_channels=1, but the network has 3"),
    ],
)
def test_a_network_with_different_classes_or_channels_is_rejected(
    data: ImageData, options: dict[str, int], message: str
) -> None:
    model = cnnarch.lenet5(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        fit(model, data)
    with pytest.raises(ValueError, match=message):
        evaluate(model, data.test)


def test_images_too_small_for_the_network_are_rejected(
    data: ImageData, lenet: cnnarch.ImageClassifier
) -> None:
    small = data.prepared(replace(data.preprocessing, crop_size=16, resize_size=16))
    with pytest.raises(ValueError, match="must be at least 32 pixels, got 16"):
        fit(lenet, small)


def test_the_error_for_a_network_with_a_fixed_input_size_states_the_size(data: ImageData) -> None:
    model = cnnarch.mixer_s32(num_classes=4, in_channels=1, image_size=64)
    with pytest.raises(ValueError, match="must be exactly 64 pixels, got 32"):
        fit(model, data)


def test_bf16_mixed_precision_computes_in_bf16(data: ImageData) -> None:
    seen = []
    model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(16, 4))
    model[2].register_forward_hook(lambda *a: seen.append(a[2].dtype))
    fit(model, data, replace(QUICK, num_epochs=1, precision="bf16-mixed"))
    assert set(seen) == {torch.bfloat16}


def test_calibration_uses_probabilities_even_if_logits_sum_to_one(data: ImageData) -> None:
    class AlwaysFirst(nn.Module):
        """Predicts class 0; the logits are between 0 and 1 and sum to 1."""

        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(len(images), 1)

    confidence = math.e / (math.e + 3)
    accuracy = float((data.test.labels == 0).float().mean())
    assert evaluate(AlwaysFirst(), data.test).calibration_error == pytest.approx(
        confidence - accuracy
    )
