"""Generate one page per family, with its idea and the reported and measured values."""

import importlib
import inspect
from pathlib import Path

import torch

import cnnarch
from cnnarch.analysis import count_macs, count_parameters, summary
from cnnarch.facts.builders import BUILDERS, families
from cnnarch.facts.cards import Form, ModelCard, Paper, Stated
from cnnarch.facts.sheets import read_sheet
from cnnarch.facts.text import shape_text
from cnnarch.weights import Weights, get_weights

from .text import table, write

FIGURES = {
    "params": "parameters",
    "macs": "MACs",
    "top1_err": "top-1 error",
    "top5_err": "top-5 error",
}
TOP_K = ("acc@1", "acc@5")


def write_pages(folder: Path) -> None:
    """Write the pages of all families and their index to `folder`."""
    folder.mkdir(exist_ok=True)
    write(folder / "families.md", index_page())
    for family in families():
        cards = [card for card in map(cnnarch.get_card, BUILDERS) if card.family == family]
        write(folder / f"{family}.md", family_page(family, cards))


def index_page() -> str:
    rows = []
    for card in map(cnnarch.get_card, BUILDERS):
        year = str(card.year or "")
        link = f"[{card.name}]({card.family}.md)"
        rows.append((link, year, shape_text(card.input_size), f"{card.params:,}", f"{card.macs:,}"))
    parts = [
        "# Networks",
        f"{len(BUILDERS)} networks in {len(families())} families. Each family's page "
        "explains its idea, compares the values in the paper with measured ones, and lists the "
        "differences from the paper.",
        table(("network", "year", "input", "parameters", "MACs"), sorted(rows)),
        "```{toctree}\n:hidden:\n" + "\n".join(families()) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def family_page(family: str, cards: list[ModelCard]) -> str:
    module = importlib.import_module(f"cnnarch.models.{family}")
    title = (inspect.getdoc(module) or "").partition(":")[0]
    parts = [f"# {title}", read_sheet(family).idea]
    papers = {card.paper: None for card in cards if card.paper}
    if papers:
        lines = [f"- {p.authors}, {link_title(p)}, {p.year}" for p in papers]
        parts += ["\n".join(lines)]
        parts += ["## Reported and measured values", figures_table(cards)]
        parts += ["## Differences from the paper", departures(cards)]
    parts += [f"## {cards[0].name}, stage by stage", stage_table(cards[0])]
    parts += weights_section(cards)
    parts += ["## Builders", "\n".join(api(module, card.name, "autofunction") for card in cards)]
    classes = [n for n in module.__all__ if inspect.isclass(getattr(module, n))]
    parts += ["## Classes", "\n".join(api(module, name, "autoclass") for name in classes)]
    return "\n\n".join(parts) + "\n"


def link_title(paper: Paper) -> str:
    return f"[{paper.title}]({paper.link})" if paper.link else f'"{paper.title}"'


def figures_table(cards: list[ModelCard]) -> str:
    rows = []
    for card in cards:
        for row in card.all_rows():
            with torch.device("meta"):
                model = card.build(**row.options)
            measured = {
                "params": count_parameters(model),
                "macs": count_macs(model, row.input_size),
            }
            rows.append(
                (describe_call(card, row), *(f"{n:,}" for n in measured.values()), printed(row))
            )
    return table(("network", "parameters", "MACs", "stated in the paper"), rows)


def describe_call(card: ModelCard, row: Form) -> str:
    options = ", ".join(f"{k}={v!r}" for k, v in row.options.items())
    size = "" if row.input_size == card.input_size else f" at {shape_text(row.input_size)}"
    return f"`{card.name}({options})`{size}"


def printed(row: Form) -> str:
    """Return the reported values in a row and whether each one matches ours."""
    ours = {"params": row.params, "macs": row.macs}
    return "<br>".join(describe_figure(s, ours.get(s.figure)) for s in row.stated) or "-"


def describe_figure(stated: Stated, exact: int | None) -> str:
    unit = "" if exact is not None else " %"
    text = f"{FIGURES[stated.figure]} {stated.printed}{unit} ({stated.source})"
    verdict = stated.verdict(exact)
    return f"{text}: {verdict}" if verdict else text


def departures(cards: list[ModelCard]) -> str:
    lines: dict[str, list[str]] = {}
    for card in cards:
        for sentence in card.departs:
            lines.setdefault(sentence, []).append(f"`{card.name}`")
    if not lines:
        return "There are none."
    return "\n".join(f"- {', '.join(names)}: {sentence}" for sentence, names in lines.items())


def weights_section(cards: list[ModelCard]) -> list[str]:
    """Return the checkpoints with their published accuracies; nothing if there are none."""
    entries = [entry for card in cards for entry in get_weights(card.name).values()]
    if not entries:
        return []
    head = ("network", "weights", "pixels", "top-1", "top-5", "license", "accuracy from")
    text = (
        "Accuracies are percentages, as published by the linked library for images of the given "
        "size. Empty cells are not published. See [Pretrained weights](../weights.md)."
    )
    return ["## Weights", text, table(head, [weights_row(entry) for entry in entries])]


def weights_row(entry: Weights) -> tuple[str, ...]:
    pixels = str(entry.preprocessing.crop_size) if entry.preprocessing else ""
    accuracies = (f"{entry.metrics[k]:.2f}" if k in entry.metrics else "" for k in TOP_K)
    source = entry.metrics_source or ""
    if source.startswith("https://"):
        source = f"[{entry.layout}]({source})"
    license = f"[its own]({entry.license})" if "://" in entry.license else entry.license
    return (f"`{entry.network}`", f"`{entry.tag}`", pixels, *accuracies, license, source)


def stage_table(card: ModelCard) -> str:
    with torch.device("meta"):
        model = card.build().eval()
    layers = summary(model, card.input_size)
    shapes = dict(zip(model.feature_info, stage_maps(model, card), strict=True))
    rows = []
    for i, (info, shape) in enumerate(shapes.items()):
        path = "stem" if i == 0 else f"stages.{i - 1}"
        inside = [r for r in layers.rows if r.path == path or r.path.startswith(path + ".")]
        costs = (sum(r.params for r in inside), sum(r.macs for r in inside))
        rows.append((info.name, shape_text(shape), str(info.stride), *(f"{n:,}" for n in costs)))
    head = [r for r in layers.rows if r.path.split(".")[0] == "head"]
    costs = (sum(r.params for r in head), sum(r.macs for r in head))
    rows.append(("head", str(model.num_classes), "", *(f"{n:,}" for n in costs)))
    return table(("stage", "map", "stride", "parameters", "MACs"), rows)


def stage_maps(model: cnnarch.ImageClassifier, card: ModelCard) -> list[tuple[int, ...]]:
    image = torch.empty(1, *card.input_size, device="meta")
    return [tuple(m.shape[1:]) for m in model.forward_stages(image)]


def api(module: object, name: str, directive: str) -> str:
    return f"```{{eval-rst}}\n.. {directive}:: {module.__name__}.{name}\n```"
