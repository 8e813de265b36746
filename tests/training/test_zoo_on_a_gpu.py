"""Each seed of a row of the zoo can be trained on a GPU and resumed; the table says how it went."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import cnnarch
from benchmarks import gpu_zoo, zoo
from benchmarks.gpu_setup import Setup
from cnnarch.training import datasets, fit, load_data
from cnnarch.training.capture import MIN_COMPILED_STEPS
from cnnarch.training.history import History

PUBLISHED = {
    "lenet5": 0.885,
    "convnet": 0.903,
    "resnet20_cifar": 0.949,
    "resnet18": 0.949,
    "densenet_bc_40_12_cifar": 0.954,
    "densenet_bc_100_12_cifar": 0.954,
    "vgg11_bn": 0.935,
    "mobilenet_v1": 0.950,
    "googlenet_bn": 0.937,
    "alexnet_owt": 0.899,
    "wrn40_4_cifar": 0.967,
}
"""From the benchmark list of Fashion-MNIST, and for LeNet from the collection DL_image."""


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup("cpu", tiny=True, folder=tmp_path)


def read(setup: Setup, network: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((setup.folder / f"zoo/gpu/{network}.json").read_text())
    return record


def test_every_row_of_the_zoo_has_a_row_on_a_gpu_with_the_published_accuracy() -> None:
    assert zoo.ROWS.keys() <= gpu_zoo.GPU_ROWS.keys()
    found = {name: row.published for name, row in gpu_zoo.GPU_ROWS.items() if row.published}
    assert found == PUBLISHED
    assert all(row.source for row in gpu_zoo.GPU_ROWS.values() if row.published)


@pytest.mark.parametrize("name", gpu_zoo.GPU_ROWS)
def test_every_network_accepts_its_recipe_on_a_gpu(name: str) -> None:
    recipe = gpu_zoo.recipe_on_gpu(gpu_zoo.gpu_row(name))
    assert recipe.validation == 0  # no accuracy can influence training
    assert not recipe.test_each_epoch
    assert recipe.flip
    assert 30 <= recipe.num_epochs <= 100
    assert recipe.precision == "auto"
    assert 60_000 // int(recipe.batch_size) * recipe.num_epochs >= MIN_COMPILED_STEPS
    with torch.device("meta"):
        model = cnnarch.get_model(name, num_classes=10, in_channels=1, **recipe.model_options)
    assert (recipe.image_resolution or 28) >= model.min_input_size or model.fixed_input_size


def test_the_recipe_of_a_network_without_a_row_is_the_long_one() -> None:
    row = gpu_zoo.gpu_row("resnet34")
    assert (row.network, row.published) == ("resnet34", None)
    assert gpu_zoo.recipe_on_gpu(row).num_epochs == 60
    with pytest.raises(ValueError, match="lenet6"):
        gpu_zoo.gpu_row("lenet6")


@pytest.mark.parametrize(
    ("name", "size"), [("densenet_bc_100_12_cifar", 768_000), ("wrn40_4_cifar", 8_900_000)]
)
def test_published_networks_have_the_published_size(name: str, size: int) -> None:
    """The benchmark list says 768 K and 8.9 M."""
    with torch.device("meta"):
        model = cnnarch.get_model(name, num_classes=10, in_channels=1)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(size, rel=0.01)


def test_each_seed_is_added_to_the_record_and_not_trained_again(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--tiny", "--output", str(setup.folder)]
    zoo.main(["lenet5", "--seeds", "1", *options])
    first = read(setup, "lenet5")
    assert first["seeds"].keys() == {"0"}
    assert (first["standard_deviation"], first["interval"]) == (None, None)
    zoo.main(["lenet5", "--seeds", "2", *options])
    record = read(setup, "lenet5")
    assert record["seeds"]["0"] == first["seeds"]["0"]
    accuracies = [record["seeds"][seed]["accuracy"] for seed in ("0", "1")]
    assert record["mean"] == pytest.approx(sum(accuracies) / 2)
    assert record["command"] == "python -m benchmarks.zoo lenet5 --device cpu --seeds 2 --tiny"
    assert (record["parameters"], record["published"]) == (61_706, 0.885)
    assert record["seeds"]["1"]["training"]["step"] == "eager (not on a CUDA device)"
    logs = [History.load(setup.folder / f"zoo/gpu/lenet5-{seed}.csv") for seed in (0, 1)]
    assert [log["epoch"] for log in logs] == [[1, 2], [1, 2]]
    assert logs[0]["train_loss"] != logs[1]["train_loss"]  # the seeds differ
    assert not list((setup.folder / "zoo/gpu/runs").iterdir())
    assert "| lenet5 | 61,706 | 32 | 2 | 2 |" in capsys.readouterr().out
    monkeypatch.setattr(gpu_zoo, "fit", None)  # calling it would raise
    zoo.main(["lenet5", "--seeds", "2", *options])
    assert read(setup, "lenet5") == record


def test_an_interrupted_seed_is_resumed(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = gpu_zoo.train_seed("lenet5", 0, setup)
    log = (setup.folder / "zoo/gpu/lenet5-0.csv").read_text().splitlines()
    shutil.rmtree(setup.folder / "zoo")

    def stop(metrics: dict[str, float]) -> None:
        if metrics["epoch"] == 2:  # the checkpoint of the first epoch is saved
            raise KeyboardInterrupt

    def interrupted(*args: Any, **options: Any) -> Any:
        return fit(*args, **options, on_epoch_end=stop)

    def resumed(*args: Any, **options: Any) -> Any:
        assert options["resume"]
        return fit(*args, **options)

    monkeypatch.setattr(gpu_zoo, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gpu_zoo.train_seed("lenet5", 0, setup)
    assert not (setup.folder / "zoo/gpu/lenet5.json").exists()
    monkeypatch.setattr(gpu_zoo, "fit", resumed)
    found = gpu_zoo.train_seed("lenet5", 0, setup)
    assert found["accuracy"] == expected["accuracy"]
    again = (setup.folder / "zoo/gpu/lenet5-0.csv").read_text().splitlines()
    assert [row.split(",")[:4] for row in again] == [row.split(",")[:4] for row in log]


@pytest.mark.skipif(not datasets.DEBIAN["fashion_mnist"].exists(), reason="needs Debian's files")
def test_a_row_is_trained_on_fashion_mnist_with_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_data("fashion_mnist")
    few, test = torch.arange(2560), torch.arange(500)
    small = data._replace(train=data.train.subset(few), test=data.test.subset(test))
    loaded: list[str] = []
    monkeypatch.setattr(gpu_zoo, "load_data", lambda name: loaded.append(name) or small)
    row = gpu_zoo.GPU_ROWS["lenet5"]._replace(changes={"num_epochs": 10})
    monkeypatch.setitem(gpu_zoo.GPU_ROWS, "lenet5", row)
    result = gpu_zoo.train_seed("lenet5", 3, Setup("cpu", tiny=False, folder=tmp_path))
    assert loaded == ["fashion_mnist"]
    assert result["accuracy"] > 0.6
    record = json.loads((tmp_path / "zoo/gpu/lenet5.json").read_text())
    assert (record["image_resolution"], record["recipe"]["batch_size"]) == (32, 128)
    assert record["seeds"].keys() == {"3"}


def test_an_unfinished_run_with_another_recipe_is_deleted(tmp_path: Path) -> None:
    recipe = gpu_zoo.recipe_on_gpu(gpu_zoo.gpu_row("lenet5"))
    kept = tmp_path / "checkpoints" / "stage-1-last.ckpt"
    gpu_zoo._open_run(tmp_path, recipe)
    kept.parent.mkdir()
    kept.touch()
    assert gpu_zoo._open_run(tmp_path, recipe)
    assert not gpu_zoo._open_run(tmp_path, recipe.changed({"num_epochs": 3}))
    assert not kept.exists()


def test_seeds_of_different_recipes_are_not_mixed(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_zoo.train_seed("lenet5", 0, setup)
    row = gpu_zoo.GPU_ROWS["lenet5"]._replace(changes={"learning_rate": 0.001})
    monkeypatch.setitem(gpu_zoo.GPU_ROWS, "lenet5", row)
    with pytest.raises(ValueError, match=r"learning_rate=0.003, but the recipe has 0.001; delete"):
        gpu_zoo.train_seed("lenet5", 1, setup)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lenet5", "--seeds", "3"], "--seeds and --output require --device cuda or --tiny"),
        (["lenet5", "--tiny", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--ship", "lenet5"], "use it without other arguments"),
        (["lenet5", "--device", "gpu"], "invalid choice: 'gpu'"),
    ],
)
def test_wrong_arguments_are_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        zoo.main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        zoo.main(["lenet5", "--device", "cuda"])
    assert "there is no CUDA device; --tiny tests this script" in capsys.readouterr().err


def seeds(*accuracies: float) -> dict[str, dict[str, Any]]:
    """Return results of seeds on a GPU."""
    place = {"card": "NVIDIA H200", "driver": "570.1"}
    shared = {"epochs": 60, "machine": place, "versions": {"torch": "2.14.1"}}
    return {
        str(i): {"accuracy": a, "seconds": 50.0 + i, "date": f"2026-01-0{i + 1}", **shared}
        for i, a in enumerate(accuracies)
    }


def test_the_interval_is_students() -> None:
    """For two degrees of freedom, 95 % are within 4.303 standard errors, as tables of t say."""
    found = gpu_zoo.summarize(seeds(0.94, 0.95, 0.96))
    assert found["mean"] == pytest.approx(0.95)
    assert found["standard_deviation"] == pytest.approx(0.01)
    half = 4.303 * 0.01 / 3**0.5
    assert found["interval"] == pytest.approx([0.95 - half, 0.95 + half], abs=1e-5)


def test_a_table_without_results_is_one_sentence(tmp_path: Path) -> None:
    assert gpu_zoo.table(tmp_path) == "The accuracies on a GPU have not been measured yet."


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., None]:
    """Save the record of a network."""

    def save(network: str, published: float | None, *accuracies: float) -> None:
        results = seeds(*accuracies)
        record = {
            "network": network,
            "parameters": 1_234_567,
            "image_resolution": 32,
            "published": published,
            "published_as": "a list",
            **gpu_zoo.summarize(results),
            "seeds": results,
        }
        (tmp_path / f"{network}.json").write_text(json.dumps(record))

    return save


def test_the_table_shows_intervals_and_names_rows_below_the_published_accuracy(
    save: Callable[..., None], tmp_path: Path
) -> None:
    save("resnet34", None, 0.95)
    save("resnet20_cifar", 0.949, 0.940, 0.941, 0.942)
    save("lenet5", 0.885, 0.9, 0.91)
    head, where, missed = gpu_zoo.table(tmp_path).split("\n\n")
    value = "0.9410 ± 0.0025"  # 4.303 * 0.001 / sqrt(3) = 0.00248
    assert head.splitlines()[2:] == [
        "| lenet5 | 1,234,567 | 32 | 60 | 2 | 50 | 0.9050 ± 0.0635 | 0.885 (a list) |",
        f"| resnet20_cifar | 1,234,567 | 32 | 60 | 3 | 51 | {value} | 0.949 (a list) |",
        "| resnet34 | 1,234,567 | 32 | 60 | 1 | 50 | 0.9500 |  |",
    ]
    assert where.startswith(
        "Measured on NVIDIA H200 (driver 570.1) with PyTorch 2.14.1, 2026-01-01 to 2026-01-03. ± is"
    )
    assert missed == f"Below the published accuracy: resnet20_cifar ({value}, published 0.949)."


def test_the_table_says_that_all_rows_reached_the_published_accuracy(
    save: Callable[..., None], tmp_path: Path
) -> None:
    save("lenet5", 0.885, 0.885, 0.885)
    assert gpu_zoo.table(tmp_path).endswith("Every network with a published accuracy reached it.")
