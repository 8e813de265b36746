"""Generate the page about identical and similar networks in other libraries."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnarch.facts.sheets import near_twins, twins

from .text import table, write

LIBRARIES = {
    "torchvision": "torchvision",
    "timm": "timm",
    "efficientnet_pytorch": "efficientnet_pytorch and efficientnet_lite_pytorch",
    "cadene": "pretrainedmodels (Cadene)",
    "pytorchcv": "pytorchcv",
}
INTRODUCTION = """# Networks in other libraries

The tensors of these networks can be loaded into ours, and `cnnarch.weights.export` converts them
back. Every row is tested with random weights: the logits differ by at most the tolerance, relative
to the largest logit."""
NEAR_TWINS = """## Similar but different networks

The loader rejects checkpoints of these networks. If the tensors do not reveal the difference, the
loader can reject a checkpoint only if it states its architecture, as timm's repositories on the
Hugging Face Hub do."""


def write_pages(folder: Path) -> None:
    """Write the page to `folder`."""
    folder.mkdir(exist_ok=True)
    write(folder / "ports.md", ports_page())


def ports_page() -> str:
    parts = [INTRODUCTION]
    for library, title in LIBRARIES.items():
        parts += [f"## {title}", twins_table(library), *notes(library)]
    parts += [NEAR_TWINS, near_twins_table()]
    return "\n\n".join(parts) + "\n"


def twins_table(library: str) -> str:
    rows = [
        (f"`{twin.name}`", call(twin.builder, twin.options), f"{twin.tolerance:g}")
        for twin in twins(library=library)
    ]
    return table(("theirs", "ours", "tolerance"), rows)


def notes(library: str) -> list[str]:
    """Return each note about a library's rows once, with the builders it applies to."""
    builders_of: dict[str, dict[str, None]] = {}
    for twin in twins(library=library):
        if twin.note:
            builders_of.setdefault(twin.note, {})[f"`{twin.builder}`"] = None
    lines = [f"- {', '.join(builders)}: {note}" for note, builders in builders_of.items()]
    return ["\n".join(lines)] if lines else []


def near_twins_table() -> str:
    rows = [
        (f"`{n.name}`", n.library, f"`{n.builder}`", n.reason, "no" if n.hidden else "yes")
        for n in near_twins()
    ]
    return table(("theirs", "library", "ours", "difference", "revealed by tensors"), rows)


def call(builder: str, options: Mapping[str, Any]) -> str:
    return f"`{builder}({', '.join(f'{name}={value!r}' for name, value in options.items())})`"
