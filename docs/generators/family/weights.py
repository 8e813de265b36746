"""All checkpoints of a family in the catalog, as a table that browsers can sort."""

from collections.abc import Sequence

from cnnarch.facts.cards import ModelCard
from cnnarch.weights import Weights, get_weights

from ..text import table, without_empty_columns

HEAD = ("network", "weights", "top-1", "top-5", "pixels", "MiB", "license", "source")
INTRODUCTION = """Pass a name as `weights`, for example \
`cnnarch.{network}(weights="{tag}")`. Top-1 and top-5 are the accuracies on {data} in percent that \
the publisher states for images of the given size; an empty accuracy means that none is published. \
Select a column head to sort. [Pretrained weights](../weights.md) describes loading and licenses."""


def weights_section(cards: Sequence[ModelCard]) -> list[str]:
    """Return the checkpoints with their published accuracies; nothing if there are none."""
    entries = [entry for card in cards for entry in get_weights(card.name).values()]
    if not entries:
        return []
    filled = without_empty_columns(HEAD, [_cells(entry) for entry in entries])
    data = " and ".join(dict.fromkeys(entry.dataset for entry in entries if entry.dataset))
    text = INTRODUCTION.format(network=entries[0].network, tag=entries[0].tag, data=data)
    return ["## Weights", text, table(*filled, kind="sortable")]


def _cells(entry: Weights) -> tuple[str, ...]:
    size = entry.preprocessing.crop_size if entry.preprocessing else None
    accuracies = (entry.metrics.get(k) for k in ("acc@1", "acc@5"))
    return (
        f"`{entry.network}`",
        f"`{entry.tag}`",
        *(f"{a:.2f}" if a is not None else "" for a in accuracies),
        str(size or ""),
        f"{entry.file_size:.1f}" if entry.file_size else "",
        f"[own license]({entry.license})" if "://" in entry.license else entry.license,
        _links(entry),
    )


def _links(entry: Weights) -> str:
    """Return links to the page of the weights, and to the page with the accuracies."""
    kind, _, place = entry.url.partition(":")
    if kind == "package":
        return "[cnnarch](../zoo.md)"
    page = f"https://huggingface.co/{place}" if kind == "hf-hub" else entry.source
    texts = [f"[{entry.layout}]({page})" if page and "://" in page else entry.layout]
    if entry.metrics_source and "://" in entry.metrics_source:
        texts.append(f"[accuracy]({entry.metrics_source})")
    return ", ".join(texts)
