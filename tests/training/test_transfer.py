"""The recipe for transfer learning: pretrained weights on a small data set."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import cnnarch
from cnnarch.cli import main
from cnnarch.cli.training import warnings_on_one_line
from cnnarch.training import (
    ImageData,
    Recipe,
    build_model,
    default_recipe,
    evaluate,
    find_recipe,
    fit,
    load_data,
    train,
)
from cnnarch.training.optimization import batch_size_of, count_steps, make_optimizer
from cnnarch.viz._figure import select_images
from cnnarch.weights import Preprocessing
from tests.training.test_stage import ONE_STEP, copied

PROBE = replace(ONE_STEP, learning_rate=0.0, freeze_norm=True, probe=True)  # nothing is trained


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two classes, dark and bright, with 24 images each."""
    generator = np.random.default_rng(0)
    for name, low in (("bright", 90), ("dark", 0)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(24):
            pixels = generator.integers(low, low + 160, (40, 40, 3), "uint8")
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{name}{i}.png")
    return tmp_path / "photos"


def pretrained() -> cnnarch.ImageClassifier:
    """A small network with BatchNorm and weights from Fashion-MNIST."""
    options: dict[str, Any] = {"num_classes": 4, "in_channels": 1}
    return cnnarch.resnet20_cifar(weights="FASHION_MNIST", **options)


# --- which recipe is the default ---


def test_pretrained_weights_use_the_recipe_for_transfer() -> None:
    expected = replace(find_recipe("transfer"), weights="IMAGENET1K_V1")
    assert default_recipe("efficientnet_lite0", "folder:x", "IMAGENET1K_V1") == expected
    fashion = default_recipe("resnet18", "fashion_mnist", "IMAGENET1K_V1")
    assert fashion == replace(expected, crop_padding=2, flip=True)
    assert default_recipe("resnet18", "digits", "x").flip is False
    assert (expected.probe, expected.freeze_norm, expected.layer_decay < 1) == (True, True, True)


def test_the_checkpoint_of_a_run_continues_with_the_networks_recipe() -> None:
    checkpoint = "runs/first/checkpoints/stage-1-last.ckpt"
    for data in ("digits", "folder:x"):
        assert default_recipe("resnet18", data, checkpoint) == default_recipe("resnet18", data)


@pytest.mark.parametrize("images", [8, 30, 79, 80, 173, 1_000, 50_000])
def test_the_number_of_steps_follows_the_number_of_images(images: int) -> None:
    recipe = find_recipe("transfer")
    size = batch_size_of(recipe, images)
    assert size == min(32, max(8, images // 20))
    steps = count_steps(recipe, images)
    assert steps >= 100
    assert steps >= 5 * (images // size)
    assert steps <= max(100 + images // size, 5 * (images // size))


def test_an_automatic_batch_can_be_divided_among_processes() -> None:
    assert [batch_size_of(find_recipe("transfer"), 200, n) for n in (1, 2, 3)] == [10, 10, 12]


# --- Python and the command do the same ---


@pytest.mark.usefixtures("without_pictures", "folder")
def test_python_trains_pretrained_weights_as_the_command_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cnnarch.resnet20_cifar(weights="FASHION_MNIST").save_pretrained("weights")
    words = ["train", "resnet20_cifar", "--data", "folder:photos", "--weights", "./weights"]
    assert main([*words, "--output", "first"]) == 0
    data = load_data("folder:photos")
    model = build_model("resnet20_cifar", data, weights="./weights")
    preprocessing = model.preprocessing
    results = train(model, data)  # the default recipe and folder
    second = Path("runs/resnet20_cifar-folder-photos")
    first, again = (cnnarch.from_pretrained(run) for run in ("first", second))
    assert (again.preprocessing, again.categories) == (preprocessing, ("bright", "dark"))
    assert first.preprocessing == preprocessing
    for name, value in first.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)
    recipes = [yaml.safe_load(Path(run, "recipe.yaml").read_text()) for run in ("first", second)]
    assert recipes[0] == recipes[1]
    assert recipes[0]["weights"] == "./weights"
    assert results is not None
    assert results["test"]["top1"] == 1.0
    assert evaluate(again, data.test).top1 == 1.0  # data that nobody adapted


@pytest.mark.parametrize("resolution", [None, 40])
def test_fit_normalizes_images_as_the_weights_require(
    data: ImageData, resolution: int | None
) -> None:
    model, seen = pretrained(), []
    model.preprocessing = Preprocessing(32, 32, "bicubic", (0.1,), (0.2,))
    model.stem.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    fit(model, data, replace(ONE_STEP, image_resolution=resolution))
    (x,) = seen
    plain = data.adapt_to(model, resolution or 32).train
    assert plain.preprocessing.mean == (0.1,)
    expected = plain.inputs(torch.arange(96))
    torch.testing.assert_close(x.sum(0), expected.sum(0), rtol=1e-4, atol=1e-3)
    assert model.preprocessing == plain.preprocessing


def test_evaluation_normalizes_images_as_the_weights_require(data: ImageData) -> None:
    model, seen = pretrained(), []
    model.preprocessing = Preprocessing(32, 32, mean=(0.1,), std=(0.2,))
    model.stem.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    evaluate(model, data.test)
    pixels = data.test.pixels[torch.arange(40)]
    torch.testing.assert_close(torch.cat(seen), (pixels.float() / 255 - 0.1) / 0.2)


def test_pictures_show_images_as_the_weights_require(data: ImageData) -> None:
    model = pretrained()
    model.preprocessing = Preprocessing(32, 32, mean=(0.1,), std=(0.2,))
    shown = select_images(data.test, 3, model=model)
    assert shown.preprocessing == model.preprocessing
    pixels = data.test.pixels[torch.arange(3)]
    torch.testing.assert_close(shown.inputs, (pixels.float() / 255 - 0.1) / 0.2)


@pytest.mark.parametrize("where", ["builder", "load"])
def test_fit_uses_the_recipe_for_transfer_for_networks_with_weights(
    data: ImageData, where: str
) -> None:
    tensors = cnnarch.resnet20_cifar(weights="FASHION_MNIST").state_dict()
    options: dict[str, Any] = {"num_classes": 4, "in_channels": 1}
    if where == "builder":
        model = cnnarch.resnet20_cifar(weights=tensors, **options)
    else:
        model = cnnarch.resnet20_cifar(**options)
        cnnarch.weights.load(model, tensors)
    history = fit(model, data)
    assert max(history["learning_rate"]) <= find_recipe("transfer").learning_rate
    assert history["train_acc"][0] > 0.9  # a new classifier would start at about 0.25


# --- the probe ---


def features(model: cnnarch.ImageClassifier, data: ImageData) -> Tensor:
    with torch.no_grad():
        images = data.matched_to(model).train
        maps = model.eval().forward_features(images.inputs(torch.arange(len(images))))
        return model.forward_head(maps, pre_logits=True)


def some_classes(data: ImageData, classes: set[int]) -> ImageData:
    keep = torch.tensor([int(label) in classes for label in data.train.labels])
    return data._replace(train=data.train.subset(keep.nonzero().flatten()))


@pytest.mark.parametrize("classes", [{0, 1, 2, 3}, {0, 1, 2}, {1, 3}])
def test_the_classifier_starts_as_scikit_learns_logistic_regression(
    data: ImageData, classes: set[int]
) -> None:
    """Classes without images, here 0 to 2 of the 4, are the least likely ones."""
    data, model = some_classes(data, classes), pretrained()
    fit(model, data, PROBE)
    x, labels = features(model, data), data.train.labels
    scaled = ((x - x.mean(0)) / (x - x.mean(0)).std(correction=0)).numpy()
    expected = LogisticRegression(C=0.1, max_iter=500).fit(scaled, labels.numpy())
    present = sorted(classes)
    logits = model.get_classifier()(x).detach()
    torch.testing.assert_close(
        logits[:, present].softmax(1),
        torch.from_numpy(expected.predict_proba(scaled)).float(),
        rtol=1e-2,
        atol=1e-3,
    )
    for absent in {0, 1, 2, 3} - classes:
        assert (logits[:, absent] <= logits[:, present].max(1).values).all()


def test_the_probe_changes_only_the_classifier(data: ImageData) -> None:
    model = pretrained()
    before = copied(model)
    fit(model, data, PROBE)
    changed = {name for name, v in model.state_dict().items() if not torch.equal(v, before[name])}
    assert changed == {"head.classifier.weight", "head.classifier.bias"}


def test_a_classifier_for_the_same_classes_is_kept(data: ImageData) -> None:
    model = pretrained()
    model.categories = data.classes
    before = copied(model)
    fit(model, data, PROBE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["nin_cifar", "lenet5_1998", "lenet5_bn"])
def test_other_classifiers_are_trained_without_a_probe(data: ImageData, name: str) -> None:
    model = cnnarch.get_model(name, num_classes=4, in_channels=1)
    fit(model, data, replace(PROBE, learning_rate=1e-3, layer_decay=0.7))


def test_a_probe_counts_classes_as_the_recipe_does(data: ImageData) -> None:
    """With three images of one class and 72 of the others, its mean probability rises."""
    counts = (3, 24, 24, 24)
    parts = [(data.train.labels == i).nonzero().flatten()[:n] for i, n in enumerate(counts)]
    data = data._replace(train=data.train.subset(torch.cat(parts)))
    shares = []
    changes: list[dict[str, Any]] = [{}, {"class_weights": "balanced"}, {"balanced_sampling": True}]
    for change in changes:
        model = pretrained()
        fit(model, data, replace(PROBE, **change))
        logits = model.get_classifier()(features(model, data)).detach()
        shares.append(float(logits.softmax(1)[:, 0].mean()))
    assert shares[0] < shares[1]
    assert shares[1] == pytest.approx(shares[2], rel=1e-3)


def test_infinite_features_are_rejected(data: ImageData) -> None:
    model = pretrained()
    with torch.no_grad():
        model.stem.conv.weight.fill_(torch.inf)
    with pytest.raises(ValueError, match="infinite or NaN; check the weights"):
        fit(model, data, PROBE)


def test_a_resumed_run_does_not_start_from_a_probe_again(data: ImageData, tmp_path: Path) -> None:
    recipe = replace(find_recipe("transfer"), learning_rate=1e-3, num_steps=None, num_epochs=3)

    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise KeyError

    whole, cut, resumed = pretrained(), pretrained(), pretrained()
    fit(whole, data, recipe)
    with pytest.raises(KeyError):
        fit(cut, data, recipe, output=tmp_path, on_epoch_end=stop)
    fit(resumed, data, recipe, output=tmp_path, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


# --- frozen norms, early stages and learning rates ---


@pytest.mark.parametrize("kind", ["network", "module"])
def test_frozen_norms_do_not_change_and_thaw_after_training(data: ImageData, kind: str) -> None:
    layers = (nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    model = pretrained() if kind == "network" else nn.Sequential(*layers, nn.Linear(16, 4))
    before = copied(model)
    fit(model, data, replace(ONE_STEP, batch_size=32, learning_rate=0.01, freeze_norm=True))
    norms = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    for name, value in model.state_dict().items():
        frozen = name.rpartition(".")[0] in norms
        assert torch.equal(value, before[name]) is frozen, name
    assert all(p.requires_grad for p in model.parameters())
    model.train()
    assert all(m.training for m in model.modules())


def test_early_freezes_the_first_half_of_the_stages(data: ImageData) -> None:
    """Of conv1 and conv2_x to conv4_x, the first two are frozen."""
    model = pretrained()
    assert len(model.stage_names) == 4
    before = copied(model)
    fit(model, data, replace(ONE_STEP, batch_size=32, learning_rate=0.01, freeze="early"))
    changed = {name for name, v in model.state_dict().items() if not torch.equal(v, before[name])}
    assert {name.partition(".conv")[0].partition(".norm")[0][:8] for name in changed} == {
        "stages.1",
        "stages.2",
        "head.cla",
    }


def test_learning_rates_decay_from_the_head_to_the_stem() -> None:
    """LeNet-5 has the stages C1, S2, C3, S4 and C5; the pools S2 and S4 have no weights."""
    recipe = Recipe(optimizer="adamw", learning_rate=0.8, layer_decay=0.5, weight_decay=0.1)
    model = cnnarch.lenet5()
    optimizer = make_optimizer(model, recipe)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    names = {name[:8]: rates[id(p)] for name, p in model.named_parameters() if "weight" in name}
    expected = {"head.cla": 0.8, "stages.3": 0.4, "stages.1": 0.1, "stem.con": 0.025}
    assert {name: names[name] for name in expected} == pytest.approx(expected)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1}
    assert len(rates) == len(list(model.parameters()))


def test_the_history_shows_the_learning_rate_of_the_head(data: ImageData) -> None:
    history = fit(pretrained(), data, replace(ONE_STEP, learning_rate=0.01, layer_decay=0.5))
    assert history["learning_rate"] == pytest.approx([0.01])


def test_learning_rates_of_stages_need_a_network_with_stages(data: ImageData) -> None:
    with pytest.raises(TypeError, match="a cnnarch network or backbone, got Sequential"):
        fit(nn.Sequential(nn.Flatten()), data, replace(ONE_STEP, layer_decay=0.5))


# --- runs that are too short, and batches of one ---


def test_a_short_run_says_so(data: ImageData) -> None:
    """87 training images in batches of 16 are five steps; two stages of three epochs are 30."""
    recipe = replace(ONE_STEP, validation=0.1, batch_size=16, num_epochs=3, then=[{}])
    with pytest.warns(UserWarning, match=r"takes only 30 steps \(88 training images in batches"):
        fit(pretrained(), data, recipe)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(pretrained(), data, replace(recipe, num_epochs=10))


@pytest.mark.usefixtures("without_pictures")
def test_the_command_says_on_one_line_that_a_run_is_short(
    folder: Path,
) -> None:
    words = ["train", "resnet20_cifar", "--data", f"folder:{folder}", "--num_epochs", "1"]
    with pytest.warns(UserWarning, match=r"this run takes only 1 step \("):
        assert main([*words, "--output", str(folder / "run")]) == 0
    with warnings_on_one_line():
        assert warnings.formatwarning("short", UserWarning, "file.py", 3) == "cnnarch: short\n"


@pytest.mark.parametrize(
    ("change", "size", "message"),
    [
        (
            {"batch_size": 1},
            32,
            r"BatchNorm.*\(batch_size=1, 8 training.*one pixel .* input size of 32",
        ),
        ({"batch_size": 1, "then": [{"batch_size": 8}]}, 32, "batch_size=1"),
        ({"batch_size": 8, "then": [{"batch_size": 1}]}, 32, "batch_size=1"),
        ({"batch_size": 1, "freeze": "conv4_x"}, 32, "stages.3"),
        ({"batch_size": 1}, 64, None),
        ({"batch_size": 1, "freeze_norm": True}, 32, None),
        ({"batch_size": 1, "freeze": True}, 32, None),
        ({"batch_size": 2}, 32, None),
    ],
)
def test_batch_norm_on_a_single_value_is_rejected_before_training(
    data: ImageData, tmp_path: Path, change: dict[str, Any], size: int, message: str | None
) -> None:
    """ResNet-18 reduces 32 pixels to one."""
    few = data.train.subset(torch.arange(8))
    data = data._replace(train=few).adapt_to(cnnarch.lenet5(), size)
    model = cnnarch.resnet18(num_classes=4, in_channels=1)
    recipe = replace(ONE_STEP, **{"learning_rate": 1e-3, **change})
    if message is None:
        fit(model, data, recipe)
        return
    with pytest.raises(ValueError, match=message):
        train(model, data, recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_batch_norm_of_a_vector_on_a_batch_of_one_is_rejected(data: ImageData) -> None:
    """LeNet-5 with BatchNorm also normalizes its hidden layer."""
    with pytest.raises(ValueError, match="is a BatchNorm, which cannot be trained on a single"):
        fit(cnnarch.lenet5_bn(num_classes=4), data, replace(ONE_STEP, batch_size=1))


def test_a_single_training_image_is_rejected_like_a_batch_of_one(data: ImageData) -> None:
    one = data._replace(train=data.train.subset(torch.arange(1)))
    with pytest.raises(ValueError, match=r"1 training images.*Use at least two images"):
        fit(cnnarch.resnet18(num_classes=4, in_channels=1), one, ONE_STEP)


def test_a_last_batch_of_one_image_is_skipped(data: ImageData) -> None:
    nine = data._replace(train=data.train.subset(torch.arange(9)))
    fit(cnnarch.resnet18(num_classes=4, in_channels=1), nine, replace(ONE_STEP, batch_size=8))


def test_there_may_be_more_classes_than_images(data: ImageData) -> None:
    classes = tuple(map(str, range(50)))
    train_images = replace(data.train.subset(torch.arange(20)), classes=classes)
    many = ImageData("many", train_images, replace(data.test, classes=classes))
    model = cnnarch.resnet20_cifar(weights="FASHION_MNIST", num_classes=50)
    history = fit(model, many)
    assert history["train_acc"][-1] > 0.9
    assert evaluate(model, many.train).top1 > 0.9


def test_a_run_records_the_source_of_the_networks_weights(data: ImageData, tmp_path: Path) -> None:
    model = pretrained()
    model.weights_source = "runs/first"
    train(model, data, ONE_STEP, tmp_path / "run")
    assert yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())["weights"] == "runs/first"


def test_only_image_sets_are_evaluated(data: ImageData) -> None:
    with pytest.raises(TypeError, match=r"data\.test\.subset\(indices\), got Subset"):
        evaluate(pretrained(), torch.utils.data.Subset(data.test, [0, 1]))  # type: ignore[arg-type]
