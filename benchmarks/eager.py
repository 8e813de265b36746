"""Is a plain forward as quick as torchvision's and timm's? Batch 1 and 16, no engine, no tricks."""

import gc
import statistics

import torch
from torch.testing import assert_close

from benchmarks.measure import alternate, keep, ratio_of_medians
from benchmarks.pairs import PAIRS, Pair, images

BAR = "at most 1.05x the time of torchvision's or timm's twin each, 1.0x geometric mean"
RUNS = {1: 25, 16: 9}


def measure(pair: Pair, batch: int) -> dict[str, float]:
    """Milliseconds a batch, theirs and ours, and the ratio."""
    models = {"theirs": pair.theirs().eval(), "ours": pair.ours().eval()}
    x = images(batch)
    with torch.inference_mode():
        assert_close(models["ours"](x[:2]), models["theirs"](x[:2]), atol=1e-3, rtol=1e-3)
        seconds = alternate(
            {name: lambda model=model: model(x) for name, model in models.items()}, RUNS[batch]
        )
    figures = {f"{name}_ms": 1000 * statistics.median(times) for name, times in seconds.items()}
    return {**figures, "ratio": ratio_of_medians(seconds, "ours", "theirs")}


def main() -> None:
    results: dict[str, object] = {}
    ratios = []
    for pair in PAIRS:
        for batch in RUNS:
            figures = measure(pair, batch)
            gc.collect()
            print(pair.network, batch, figures, flush=True)
            results[f"{pair.network}, batch {batch}"] = figures
            ratios.append(figures["ratio"])
    results["geometric mean"] = statistics.geometric_mean(ratios)
    keep("eager", BAR, results)


if __name__ == "__main__":
    main()
