"""Each row of the zoo table can be trained and resumed."""

import json
from pathlib import Path

import pytest
import torch

import cnnarch
from benchmarks import zoo
from cnnarch.training import datasets, load_data


@pytest.mark.parametrize("name", zoo.ROWS)
def test_every_network_accepts_its_rows_recipe(name: str) -> None:
    recipe = zoo.recipe_of(zoo.ROWS[name])
    assert recipe.validation == 0  # without validation images, no accuracy can influence training
    assert not recipe.early_stopping
    assert not recipe.keep_best
    assert not recipe.test_each_epoch
    with torch.device("meta"):
        model = cnnarch.get_model(name, num_classes=10, in_channels=1, **recipe.model_options)
    side = recipe.image_resolution or max(28, model.min_input_size)
    assert side >= model.min_input_size


def test_published_accuracies_are_between_0_and_1() -> None:
    for row in zoo.ROWS.values():
        assert (row.published is None) == (not row.source)
        assert row.published is None or 0.8 < row.published < 1


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.skipif(not datasets.DEBIAN["fashion_mnist"].exists(), reason="needs Debian's files")
def test_a_finished_row_is_saved_and_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_data("fashion_mnist", image_resolution=32)
    small = data._replace(
        train=data.train.subset(torch.arange(256)), test=data.test.subset(torch.arange(64))
    )
    monkeypatch.setattr(zoo, "load_data", lambda *_, **__: small)
    monkeypatch.setattr(zoo, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "results")
    row = zoo.ROWS["lenet5"]
    monkeypatch.setitem(zoo.ROWS, "lenet5", row._replace(changes={"num_epochs": 1}))
    zoo.main(["lenet5"])
    first = capsys.readouterr().out
    record = json.loads((tmp_path / "results" / "lenet5.json").read_text())
    assert (record["network"], record["parameters"], record["epochs"]) == ("lenet5", 61_706, 1)
    assert record["command"] == "python -m benchmarks.zoo lenet5"
    assert f"| lenet5 | 61,706 | 32 | 1 | 0 | {record['minutes']:.1f} |" in first
    assert record["cpu_minutes"] > 0
    zoo.main(["lenet5"])
    again = json.loads((tmp_path / "results" / "lenet5.json").read_text())
    assert {**again, "date": ""} == {**record, "date": ""}
    assert "train_loss" not in capsys.readouterr().out  # no epoch was trained


def test_a_network_without_a_row_uses_its_familys_recipe() -> None:
    assert zoo.row_of("resnet18") == zoo.ZooRow("resnet18", {})
    with pytest.raises(ValueError, match="lenet6"):
        zoo.main(["lenet6"])


def test_only_small_networks_are_shipped() -> None:
    records = (json.loads((zoo.FOLDER / f"{n}.json").read_text()) for n in zoo.ROWS)
    small = {r["network"] for r in records if r["parameters"] < zoo.SMALL}
    assert small == {*zoo.SHIPPED}
