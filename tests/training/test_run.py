"""The folder of a training run."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

import cnnarch
from cnnarch.training import ImageData, Machine, Recipe, build_model, evaluate, read_results, train
from tests.training.conftest import CLASSES, sides

QUICK = Recipe(num_epochs=2, batch_size=16, optimizer="adam", learning_rate=3e-3)


class Trained(NamedTuple):
    """A finished run shared by tests; they must not change its network or folder."""

    model: cnnarch.ImageClassifier
    data: ImageData
    folder: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    torch.manual_seed(0)
    model, data = cnnarch.lenet5(num_classes=len(CLASSES)), sides()
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(model, data, QUICK, folder)
    return Trained(model, data, folder)


@pytest.fixture
def finished(trained: Trained, tmp_path: Path) -> Path:
    """A copy of a finished run's folder, which tests may change."""
    return shutil.copytree(trained.folder, tmp_path / "run")


def test_a_network_is_initialized_with_the_recipes_method_and_seed(data: ImageData) -> None:
    recipe = Recipe(init="kaiming", seed=3)
    model = build_model("nin_cifar", data, recipe)
    assert (model.num_classes, model.in_channels) == (len(data.classes), data.channels)
    weight = model.state_dict()["stages.0.0.0.conv.weight"]  # 192 output channels, 5x5 kernels
    assert weight.std().item() == pytest.approx((2 / (192 * 25)) ** 0.5, rel=0.02)
    again = build_model("nin_cifar", data, recipe).state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


def test_loaded_weights_are_not_initialized_again(data: ImageData, tmp_path: Path) -> None:
    saved = cnnarch.lenet5(num_classes=4)
    saved.save_pretrained(tmp_path)
    model = build_model("lenet5", data, Recipe(init="kaiming", weights=str(tmp_path)))
    assert all(torch.equal(model.state_dict()[k], v) for k, v in saved.state_dict().items())


def test_the_error_names_an_unknown_network_option(data: ImageData) -> None:
    with pytest.raises(ValueError, match="tanh"):
        build_model("nin_cifar", data, Recipe(model_options={"tanh": True}))


def test_a_network_that_could_not_be_saved_is_rejected_before_training(
    data: ImageData, lenet: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    lenet.head.pool = torch.nn.AdaptiveMaxPool2d(1)
    with pytest.raises(ValueError, match=r"head\.pool is AdaptiveMaxPool2d"):
        train(lenet, data, QUICK, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("without_pictures")
def test_the_recipe_file_contains_non_default_options(data: ImageData, tmp_path: Path) -> None:
    options = {"activation": "relu", "pool": "avg"}
    model = build_model("lenet5", data, Recipe(model_options=options))
    train(model, data, replace(QUICK, num_epochs=1), tmp_path / "run")
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert recipe["model_options"] == {"activation": "relu"}


def test_a_folder_contains_all_files_of_a_run(finished: Path) -> None:
    assert {p.name for p in finished.iterdir()} >= {
        "README.md",
        "config.json",
        "curves.png",
        "metrics.csv",
        "model.safetensors",
        "predictions.png",
        "recipe.yaml",
        "report.html",
        "results.json",
    }
    assert not (finished / "checkpoints").exists()


def test_the_model_card_of_a_run_shows_its_results_and_pictures(
    trained: Trained, tmp_path: Path
) -> None:
    cnnarch.from_pretrained(trained.folder).save_pretrained(tmp_path / "copy", run=trained.folder)
    top1 = read_results(trained.folder)["test"]["top1"]
    drawn = sorted(path.name for path in trained.folder.glob("*.png"))
    assert len(drawn) == 10
    for folder in (trained.folder, tmp_path / "copy"):
        card = (folder / "README.md").read_text()
        assert f"| Accuracy | {100 * top1:.2f}% |" in card
        assert sorted(re.findall(r"!\[.+\]\((.+)\)", card)) == drawn
        assert all((folder / name).is_file() for name in drawn)


def test_the_saved_network_keeps_its_classes_and_preprocessing(trained: Trained) -> None:
    lenet, data = trained.model, trained.data
    again = cnnarch.from_pretrained(trained.folder)
    assert again.categories == data.classes
    assert again.preprocessing == data.preprocessing
    x = data.test.inputs(torch.arange(8))
    assert lenet(x).std() > 1e-3
    torch.testing.assert_close(again.eval()(x), lenet(x))


def test_results_contain_the_metrics(trained: Trained) -> None:
    results = read_results(trained.folder)
    assert results == json.loads((trained.folder / "results.json").read_text())
    metrics = evaluate(trained.model, trained.data.test)
    assert results["test"]["top1"] == pytest.approx(metrics.top1)
    assert results["test"]["confusion"] == metrics.confusion.tolist()
    assert (results["model"], results["data"], results["epochs"]) == ("lenet5", "sides", 2)
    assert results["parameters"] == 61_706 - 6 * 85  # four classes instead of ten
    assert set(results["versions"]) == {"cnnarch", "torch", "python"}
    assert results["minutes"] > 0


def test_the_recipe_file_names_the_network_and_the_data_set(finished: Path) -> None:
    written = yaml.safe_load((finished / "recipe.yaml").read_text())
    assert (written["model"], written["data"]) == ("lenet5", "sides")
    assert written["num_epochs"] == 2
    assert written["image_resolution"] == 32


def test_a_run_is_not_overwritten(
    finished: Path, lenet: cnnarch.ImageClassifier, data: ImageData
) -> None:
    before = (finished / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="a run: resume it, overwrite it, or choose another"):
        train(lenet, data, QUICK, finished)
    assert (finished / "model.safetensors").read_bytes() == before


def test_a_folder_with_other_files_is_not_changed(
    lenet: cnnarch.ImageClassifier, data: ImageData, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="contains other files"):
        train(lenet, data, QUICK, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_resuming_a_finished_run_returns_its_results(finished: Path, data: ImageData) -> None:
    epochs: list[object] = []
    fresh = cnnarch.lenet5(num_classes=4)
    results = train(fresh, data, QUICK, finished, resume=True, on_epoch_end=epochs.append)
    assert results == read_results(finished)
    assert epochs == []


def test_resuming_with_a_different_recipe_reports_the_difference(
    finished: Path, lenet: cnnarch.ImageClassifier, data: ImageData
) -> None:
    with pytest.raises(ValueError, match=r"a run with learning_rate=0\.003, not 0\.1"):
        train(lenet, data, replace(QUICK, learning_rate=0.1), finished, resume=True)


def test_a_run_from_an_older_version_that_lacks_a_key_can_be_resumed(
    finished: Path, lenet: cnnarch.ImageClassifier, data: ImageData
) -> None:
    path = finished / "recipe.yaml"
    written = yaml.safe_load(path.read_text())
    del written["freeze"]
    path.write_text(yaml.safe_dump(written))
    assert train(lenet, data, QUICK, finished, resume=True) == read_results(finished)
    with pytest.raises(ValueError, match="contains a run with freeze=False, not True"):
        train(lenet, data, replace(QUICK, freeze=True), finished, resume=True)


def test_a_reworded_source_does_not_prevent_resuming(
    finished: Path, lenet: cnnarch.ImageClassifier, data: ImageData
) -> None:
    other = replace(QUICK, source="The same paper, cited in other words.")
    assert train(lenet, data, other, finished, resume=True) == read_results(finished)


@pytest.mark.parametrize("text", ["", "- 1", "model: [", "fast"])
def test_the_error_names_a_damaged_recipe_file(
    finished: Path, lenet: cnnarch.ImageClassifier, data: ImageData, text: str
) -> None:
    (finished / "recipe.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"recipe\.yaml is corrupted"):
        train(lenet, data, QUICK, finished, resume=True)


def test_the_error_names_an_invalid_results_file(tmp_path: Path) -> None:
    for text in ("{", "3"):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(ValueError, match=r"results\.json does not contain the results"):
            read_results(tmp_path)


def test_reading_a_folder_without_results_returns_an_empty_dict(tmp_path: Path) -> None:
    assert read_results(tmp_path) == {}


@pytest.mark.usefixtures("without_pictures")
def test_a_partial_recipe_left_by_a_killed_process_is_ignored(
    data: ImageData, lenet: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    (tmp_path / ".recipe.yaml.0123456789abcdef.part").write_text("model: len")
    assert train(lenet, data, replace(QUICK, num_epochs=1), tmp_path)


def test_a_saved_network_is_not_overwritten(
    data: ImageData, lenet: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    lenet.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="contains other files"):
            train(lenet, data, QUICK, tmp_path, overwrite=overwrite)
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "machine", "message"),
    [
        ({"batch_size": 15}, Machine(2), "batch_size must be a multiple of 2, the number of"),
        ({"then": [{"batch_size": 15}]}, Machine(2), "batch_size must be a multiple of 2"),
        ({}, Machine(num_workers=-1), "num_workers must be at least 0, got -1"),
        ({}, Machine(devices=0), "devices must be at least 1, got 0"),
        ({}, Machine(num_nodes=0), "num_nodes must be at least 1, got 0"),
        ({"keep_best": True, "validation": 0.001}, Machine(), "selects none of the"),
    ],
)
def test_a_run_is_not_overwritten_by_one_that_cannot_start(
    trained: Trained, finished: Path, options: dict[str, Any], machine: Machine, message: str
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    model, recipe = cnnarch.lenet5(num_classes=len(CLASSES)), replace(QUICK, **options)
    with pytest.raises(ValueError, match=message):
        train(model, trained.data, recipe, finished, overwrite=True, machine=machine)
    assert {path.name: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_a_file_in_place_of_the_folder_is_kept(
    data: ImageData, lenet: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    file = tmp_path / "run"
    file.write_text("notes")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="run is not a folder; choose an empty or new"):
            train(lenet, data, QUICK, file, overwrite=overwrite)
    assert file.read_text() == "notes"


def test_images_that_cannot_be_divided_among_the_processes_are_rejected(data: ImageData) -> None:
    few = data._replace(train=data.train.subset(torch.arange(2)))
    recipe = Recipe(batch_size=9, validation=0.0)
    with pytest.raises(ValueError, match="2 training images cannot be divided among 3 processes"):
        train(cnnarch.lenet5(num_classes=4), few, recipe, machine=Machine(3, accelerator="cpu"))


@pytest.mark.parametrize("name", [".", "new"])
def test_a_run_that_fails_in_its_first_step_leaves_no_files(
    data: ImageData, lenet: cnnarch.ImageClassifier, tmp_path: Path, name: str
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("in the first step")

    lenet.register_forward_pre_hook(fail)
    with pytest.raises(KeyError, match="in the first step"):
        train(lenet, data, QUICK, tmp_path / name)
    assert tmp_path.exists()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_run_stopped_before_its_first_step_leaves_no_files(
    data: ImageData,
    lenet: cnnarch.ImageClassifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    """Simulates Ctrl-C during startup; a real one would leave Lightning's handlers installed."""

    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("cnnarch.training.run.fit", stop)
    with pytest.raises(error):
        train(lenet, data, QUICK, tmp_path / "new")
    assert not any(tmp_path.iterdir())


def test_an_error_is_raised_even_if_a_logger_wrote_to_the_folder(
    data: ImageData, lenet: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        (tmp_path / "events").write_text("from a logger")
        raise KeyError("the error")

    lenet.register_forward_pre_hook(fail)
    with pytest.raises(KeyError, match="the error"):
        train(lenet, data, QUICK, tmp_path)
    assert (tmp_path / "events").exists()


@pytest.mark.usefixtures("without_pictures")
def test_resuming_a_run_without_a_checkpoint_says_that_it_starts_over(
    data: ImageData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def full(row: object) -> None:
        raise OSError(f"no space for {row}")

    model = cnnarch.lenet5(num_classes=len(CLASSES))
    with pytest.raises(OSError, match="no space"):
        train(model, data, QUICK, tmp_path / "run", on_epoch_end=full)
    assert "starts from the beginning" not in caplog.text
    train(model, data, QUICK, tmp_path / "run", resume=True)
    assert f"{tmp_path}/run has no checkpoint; it starts from the beginning" in caplog.text
