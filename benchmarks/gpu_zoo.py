"""The zoo on a GPU: longer recipes, several seeds, and the table of their accuracies.

`python -m benchmarks.zoo NETWORK --device cuda --seeds 5` trains here. The networks train on all
60,000 training images, and are evaluated once on the test images, after the last epoch. Each
network has a JSON file in results/zoo/gpu, and each seed a CSV file with the metrics of its epochs.
"""

import json
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from scipy.stats import t

from benchmarks.gpu_setup import Row, Setup, noise_data
from benchmarks.measure import RESULTS, card, machine, versions, write
from benchmarks.zoo import DATA, ROWS, ZooRow, recipe_of, row_of
from cnnarch.training import History, ImageData, Recipe, build_model, evaluate, fit, load_data

SEEDS = 5
NOT_YET = "The accuracies on a GPU have not been measured yet."

LONG = {
    "source": (
        "Crops with a padding of 4 pixels and flips, as in the code of Zhong et al. (2017), arXiv "
        "1708.04896, which trains ResNet-20 on Fashion-MNIST for 300 epochs. The one-cycle "
        "schedule (Smith and Topin, 2017, arXiv 1708.07120) needs fewer. Nesterov momentum: "
        "Zagoruyko and Komodakis (2016), arXiv 1605.07146. Label smoothing of 0.1: Szegedy et al. "
        "(2015), arXiv 1512.00567."
    ),
    "num_epochs": 60,
    "crop_padding": 4,
    "nesterov": True,
    "label_smoothing": 0.1,
}
"""Changes to a family's recipe. LeNet-5 and ConvNet, which underfit, only train for longer."""


def _longer(network: str, **changes: Any) -> ZooRow:
    """Return a row that has the published accuracy of the row for a CPU, if there is one."""
    return row_of(network)._replace(changes={**LONG, **changes})


GPU_ROWS = {
    row.network: row
    for row in (
        ROWS["lenet5"]._replace(changes={"num_epochs": 50}),
        ROWS["convnet"]._replace(changes={"num_epochs": 50}),
        _longer("resnet20_cifar"),
        _longer("resnet18", num_epochs=40)._replace(
            published=0.949, source="ResNet-18, flips and more"
        ),
        _longer("densenet_bc_40_12_cifar", num_epochs=40),
        _longer("densenet_bc_100_12_cifar", num_epochs=30)._replace(
            published=0.954, source="DenseNet-BC, 768 K"
        ),
        _longer("vgg11_bn", num_epochs=30),
        _longer("mobilenet_v1", num_epochs=40),
        _longer("googlenet_bn", learning_rate=0.05, num_epochs=30),
        _longer("se_resnet18", num_epochs=40),
        _longer("nin_cifar", num_epochs=50),
        _longer("efficientnet_b0", num_epochs=30),
        _longer("alexnet_owt", num_epochs=40),
        _longer("mixer_s32", num_epochs=40),
        _longer("wrn40_4_cifar", num_epochs=30)._replace(
            published=0.967, source="WRN-40-4, 8.9 M, crops and flips"
        ),
    )
}
"""The rows of the zoo with recipes of about a minute, and three that are the published networks."""


def gpu_row(network: str) -> ZooRow:
    """Return the row for a network on a GPU; a network without one uses its family's recipe.

    Raises:
        ValueError: the network does not exist.
    """
    return GPU_ROWS.get(network) or _longer(network)


def recipe_on_gpu(row: ZooRow, tiny: bool = False) -> Recipe:
    """Return a row's recipe, except for the seed; if `tiny`, two epochs of small batches."""
    recipe = recipe_of(row)
    return replace(recipe, num_epochs=2, batch_size=16) if tiny else recipe


def results_folder(setup: Setup) -> Path:
    """Return the folder of the zoo's results on a GPU."""
    return setup.folder / "zoo" / "gpu"


def run_folder(setup: Setup, network: str, seed: int) -> Path:
    """Return the folder of an unfinished run."""
    return results_folder(setup) / "runs" / f"{network}-{seed}"


def train_seed(network: str, seed: int, setup: Setup, *, progress: bool = False) -> dict[str, Any]:
    """Train a network with a seed, or resume it, and add the result to the network's record.

    Args:
        network: name of the builder.
        seed: the recipe's seed.
        setup: the device and the folder of the results.
        progress: whether to show a progress bar.

    Returns:
        The seed's result: accuracy, seconds and how it was trained.

    Raises:
        ValueError: the record contains seeds that were trained with another recipe.
    """
    row = gpu_row(network)
    recipe = recipe_on_gpu(row, setup.tiny)
    path = results_folder(setup) / f"{row.network}.json"
    record = _open_record(path, recipe)
    if str(seed) in record["seeds"]:
        return dict(record["seeds"][str(seed)])
    data = noise_data(64, 32, 1, 28) if setup.tiny else load_data(DATA)
    facts, result = _train(row, replace(recipe, seed=seed), data, setup, progress)
    results = {**record["seeds"], str(seed): result}
    seeds = {str(n): results[str(n)] for n in sorted(map(int, results))}
    options = f"--device {setup.device} --seeds {max(map(int, seeds)) + 1}{' --tiny' * setup.tiny}"
    command = f"python -m benchmarks.zoo {row.network} {options}"
    how = {"command": command, "recipe": _settings(recipe)}
    write(path, {**facts, **how, **summarize(seeds), "seeds": seeds})
    shutil.rmtree(run_folder(setup, row.network, seed))
    return result


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Return what all seeds have in common."""
    return {key: value for key, value in asdict(recipe).items() if key != "seed"}


def _open_record(path: Path, recipe: Recipe) -> dict[str, Any]:
    """Return a network's record, or an empty one, and check that it has the same recipe."""
    if not path.exists():
        return {"seeds": {}}
    record = json.loads(path.read_text())
    for key, value in _settings(recipe).items():
        if (kept := record["recipe"].get(key)) != value:
            raise ValueError(
                f"the seeds in {path} were trained with {key}={kept!r}, but the recipe has "
                f"{value!r}; delete the file to train all seeds with the recipe"
            )
    return record


def _train(
    row: ZooRow, recipe: Recipe, data: ImageData, setup: Setup, progress: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train and evaluate a network; return facts about the network, and the seed's result."""
    model = build_model(row.network, data, recipe)
    data = data.adapt_to(model, recipe.image_resolution)
    run = run_folder(setup, row.network, recipe.seed)
    kept = _open_run(run, recipe)
    history = fit(
        model,
        data,
        recipe,
        output=run,
        resume=kept,
        machine=setup.machine(),
        progress=progress,
    )
    accuracy = evaluate(model, data.test, machine=setup.machine()).top1
    log = results_folder(setup) / f"{run.name}.csv"
    history.save(log)
    facts = {
        "network": row.network,
        "options": model.options,
        "parameters": sum(p.numel() for p in model.parameters()),
        "image_resolution": data.preprocessing.crop_size,
        "published": row.published,
        "published_as": row.source,
    }
    return facts, _result(accuracy, history, log)


def _result(accuracy: float, history: History, log: Path) -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "epochs": len(history.rows),
        "seconds": sum(history["seconds"]),
        "training": history.setup,
        "log": log.name,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine() | card(),
        "versions": versions(),
    }


def _open_run(folder: Path, recipe: Recipe) -> bool:
    """Return whether a folder has a run to resume; delete a run with another recipe."""
    path = folder / "recipe.yaml"
    if path.exists() and Recipe.load(path) != recipe:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(recipe.to_yaml())
    return any(folder.glob("checkpoints/*.ckpt"))


def summarize(seeds: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return mean, standard deviation and 95 % interval of the seeds' accuracies.

    The deviation is that of a sample. The interval is Student's, for the mean over all seeds. For a
    single seed, both are None.
    """
    values = [result["accuracy"] for result in seeds.values()]
    mean, count = statistics.mean(values), len(values)
    if count == 1:
        return {"mean": mean, "standard_deviation": None, "interval": None}
    deviation = statistics.stdev(values)
    half = float(t.ppf(0.975, count - 1)) * deviation / count**0.5
    interval = [mean - half, mean + half]
    return {"mean": mean, "standard_deviation": deviation, "interval": interval}


def zoo_rows(setup: Setup) -> Iterator[tuple[str, Row]]:
    """Train the zoo on a GPU, first all rows with one seed, then with the next."""
    networks = ["lenet5"] if setup.tiny else list(GPU_ROWS) if setup.device == "cuda" else []
    for seed in range(1 if setup.tiny else SEEDS):
        for network in networks:
            yield f"{network}, seed {seed}", partial(seed_figures, network, seed, setup)


def seed_figures(network: str, seed: int, setup: Setup) -> dict[str, Any]:
    """Return a seed's figures for the GPU benchmark."""
    result = train_seed(network, seed, setup)
    figures = {key: result[key] for key in ("accuracy", "seconds", "training")}
    return figures | {"published": gpu_row(network).published}


def table(folder: Path = RESULTS / "zoo" / "gpu") -> str:
    """Return the accuracies as a Markdown table, and where they were measured, or `NOT_YET`."""
    records = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    if not records:
        return NOT_YET
    order = [name for name in GPU_ROWS if name in records]
    rows = [records[name] for name in (*order, *sorted(records.keys() - GPU_ROWS.keys()))]
    lines = [
        "| network | parameters | input | epochs | seeds | seconds per seed | accuracy "
        "| published |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
        *map(_line, rows),
    ]
    return "\n\n".join(["\n".join(lines), _where(rows), _missed(rows)])


def _line(row: dict[str, Any]) -> str:
    results = list(row["seeds"].values())
    seconds = statistics.mean(result["seconds"] for result in results)
    known = row["published"] is not None
    published = f"{row['published']:.3f} ({row['published_as']})" if known else ""
    return (
        f"| {row['network']} | {row['parameters']:,} | {row['image_resolution']} "
        f"| {results[0]['epochs']} | {len(results)} | {seconds:.0f} | {_value(row)} "
        f"| {published} |"
    )


def _value(row: dict[str, Any]) -> str:
    """Return the mean accuracy and half the width of its interval."""
    if row["interval"] is None:
        return f"{row['mean']:.4f}"
    return f"{row['mean']:.4f} ± {row['interval'][1] - row['mean']:.4f}"


def _where(rows: list[dict[str, Any]]) -> str:
    """Return what the table contains, and the GPUs, versions and dates of the results."""
    results = [result for row in rows for result in row["seeds"].values()]
    places = {
        f"{found['card']} (driver {found['driver']}) with PyTorch {result['versions']['torch']}"
        if "card" in (found := result["machine"])
        else found["processor"]
        for result in results
    }
    dates = [result["date"] for result in results]
    first, last = min(dates), max(dates)
    when = first if first == last else f"{first} to {last}"
    return (
        f"Measured on {', '.join(sorted(places))}, {when}. ± is the 95 % confidence interval of "
        "the mean over the seeds (Student's t). It does not include the choice of test images."
    )


def _missed(rows: list[dict[str, Any]]) -> str:
    """Return the networks whose mean accuracy is below the published one."""
    missed = [
        f"{row['network']} ({_value(row)}, published {row['published']:.3f})"
        for row in rows
        if row["published"] is not None and row["mean"] < row["published"]
    ]
    if not missed:
        return "Every network with a published accuracy reached it."
    return f"Below the published accuracy: {', '.join(missed)}."
