"""How long does it take to build a network, on the meta device and in memory?

Goals: at most 0.3 s on meta (1 s above 500 layers), and 1.1x torchvision's time in memory.
"""

import gc
import statistics
import time
import warnings

import torch
import torchvision
from torch import nn

import cnnarch
from benchmarks.measure import alternate, keep, ratio_of_medians
from benchmarks.pairs import PAIRS, Pair

TWINS = [pair for pair in PAIRS if pair.library == "torchvision"]


def on_meta(name: str) -> dict[str, float | int]:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        with torch.device("meta"):
            model = cnnarch.get_model(name)
        seconds.append(time.perf_counter() - start)
    layers = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules())
    return {"seconds": statistics.median(seconds), "layers": layers}


def against_torchvision(pair: Pair) -> float:
    def build_theirs() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision's GoogLeNet warns about a future change
            return torchvision.models.get_model(pair.twin.name, **pair.without)

    candidates = {"cnnarch": lambda: cnnarch.get_model(pair.network), "torchvision": build_theirs}
    gc.collect()
    return ratio_of_medians(alternate(candidates, 7, 1), "cnnarch", "torchvision")


def main() -> None:
    meta = {name: on_meta(name) for name in cnnarch.list_models()}
    missed = {
        name: row["seconds"]
        for name, row in meta.items()
        if row["seconds"] > (1.0 if row["layers"] > 500 else 0.3)
    }
    real = {pair.network: against_torchvision(pair) for pair in TWINS}
    results = {"meta": meta, "meta_over_the_bar": missed, "time_over_torchvision": real}
    keep("building", "meta 0.3 s (1 s above 500 layers); real 1.1x torchvision", results)


if __name__ == "__main__":
    main()
