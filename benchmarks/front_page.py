"""The measured claims on the front page and in the README."""

import json
from collections.abc import Iterable
from typing import Any

import cnnarch
from benchmarks import int8_accuracy
from benchmarks.measure import RESULTS
from cnnarch.facts.sheets import twins
from cnnarch.weights import get_weights


def text(docs: str) -> str:
    """Return the claims as a Markdown list.

    Args:
        docs: path from the page to the docs folder: "docs/", or "" for a page in that folder.
    """
    claims = (faithful(), compatible(), optimized(docs), folders(docs), int8(docs))
    return "\n".join(f"- {claim}" for claim in claims)


def faithful() -> str:
    cards = [cnnarch.get_card(name) for name in cnnarch.list_models()]
    exact = [
        (stated, {"params": row.params, "macs": row.macs}[stated.figure])
        for card in cards
        for row in card.all_rows()
        for stated in row.stated
        if stated.compared
    ]
    agree = sum(stated.agrees(count) for stated, count in exact)
    return (
        f"**Faithful.** {agree} of {len(exact)} parameter and multiply-add counts that are printed "
        "in the papers agree with the networks, to within one unit of the last printed digit. The "
        f"other {len(exact) - agree} are explained on the page of the network's family."
    )


def compatible() -> str:
    same = list(twins())
    libraries = {twin.library for twin in same}
    checkpoints = sum(len(get_weights(name)) for name in cnnarch.list_models())
    return (
        f"**Compatible.** {len(same)} networks of {len(libraries)} other libraries, such as "
        "torchvision and timm, share their weights with cnnarch's networks: tests compare the "
        f"logits. The catalog lists {checkpoints} pretrained checkpoints."
    )


def optimized(docs: str) -> str:
    machines = results("inference")
    precisions = ("float32", "bfloat16", "int8")
    times = {
        precision: spread(
            1 / figures[key]
            for figures in machines.values()
            if (key := f"{precision} over eager, batch 1") in figures
        )
        for precision in precisions
    }
    listed = [f"{factor} times as fast in {precision}" for precision, factor in times.items()]
    return (
        "**Fast.** On two CPU cores, `cnnarch.inference.optimize` makes a network "
        f"{', '.join(listed[:-1])} and {listed[-1]} as in eager mode, for single images "
        f"([geometric means over several networks]({docs}speed.md))."
    )


def folders(docs: str) -> str:
    ratios = spread(row["ratio"] for row in results("folder").values())
    return (
        "**From files to labels.** With ResNet-50 and EfficientNet-B0 optimized in bfloat16, 1,000 "
        f"JPEG files are classified {ratios} times as fast as in a float32 "
        f"[loop with torchvision]({docs}speed.md)."
    )


def int8(docs: str) -> str:
    networks = results("int8_accuracy")["networks"]
    lost = [
        row["float32"] - row[engine]
        for row in networks.values()
        for engine in int8_accuracy.ENGINES
        if isinstance(row[engine], float)
    ]
    return (
        f"**Accurate in int8.** int8 costs at most {max(lost):.2f} percentage points of accuracy "
        f"on Fashion-MNIST, in [{len(networks)} networks]({docs}speed.md#int8-accuracy) that were "
        "mostly trained for a few hundred steps."
    )


def results(question: str) -> Any:
    return json.loads((RESULTS / f"{question}.json").read_text())["results"]


def spread(values: Iterable[float]) -> str:
    """Return "1.9 to 2.1", or one number if both are the same."""
    found = sorted(values)
    low, high = f"{found[0]:.1f}", f"{found[-1]:.1f}"
    return low if low == high else f"{low} to {high}"
