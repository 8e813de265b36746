"""Load an optimized network from the folder that `Optimized.save` wrote, without converting.

The folder holds JSON, safetensors and the engine's own graph (OpenVINO's IR or ONNX): nothing
that is executed.

- optimized.json: engine, precision, report, versions, machine, and the sha256 of the other files;
- check.safetensors: an image and the logits that it gave;
- model.xml and model.bin, model.onnx, or ranges.safetensors: what the engine made, where it made
  something;
- model.safetensors and config.json: the network itself, where a builder of cnnarch can rebuild
  it; `cnnarch.from_pretrained` reads them too.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnarch.inference._measure import difference, usable_threads
from cnnarch.inference._requests import PRECISIONS
from cnnarch.inference._saving import (
    CHECK,
    FACTS,
    FORMAT,
    NETWORK,
    WEIGHTS,
    describe_machine,
    find_engine,
    find_versions,
)
from cnnarch.inference.engines import Engine, Source
from cnnarch.inference.optimize import optimize
from cnnarch.inference.optimized import Optimized, make_ready
from cnnarch.inference.report import Candidate, Report
from cnnarch.preprocessing import Preprocessing, preprocessing_from
from cnnarch.registry import from_pretrained
from cnnarch.weights.files import open_regular, sha256

__all__ = ["load_optimized"]

_MOST_BYTES = 2**20  # of optimized.json
_ALLOWED = {**PRECISIONS, "int8": PRECISIONS["bfloat16"]}  # of the check's logits


def load_optimized(
    path: str | os.PathLike[str], *, rebuild: bool = True, budget_s: float = 60
) -> Optimized:
    """Take up a network that `Optimized.save` wrote.

    On the same kind of machine with the same versions the engine's graph is used as it is, after
    one image has shown that it still gives the same logits. Elsewhere the network is rebuilt
    from its weights and optimized anew, which the report says in a note.

    Args:
        path: the folder.
        rebuild: whether it may be optimized anew; if not, it is refused.
        budget_s: seconds for that, as in `optimize`.

    Raises:
        ValueError: the folder is not as it was written, or comes from another machine or version
            and cannot be rebuilt: its network is not cnnarch's, or it is int8, whose calibration
            images are not kept.
    """
    folder = Path(path)
    facts = _read_facts(folder)
    try:
        engine, precision = find_engine(facts["engine"]), facts["precision"]
        images, logits = (_read_tensors(folder / CHECK)[name] for name in ("images", "logits"))
        example = images.repeat(facts["batch"], 1, 1, 1)
        report = _report(facts["report"])
        tolerance = _ALLOWED[precision]
        words = preprocessing_from(facts["preprocessing"]), facts["categories"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{folder} does not hold what its {FACTS} says: {error!r}") from error
    kept = NETWORK in facts["files"]
    model: nn.Module = from_pretrained(folder) if kept else _Gone(tuple(example.shape[1:]), words)
    model.eval()
    changed = _changed(facts, engine, precision)
    if not changed:
        parts = {name: (folder / name).read_bytes() for name in facts["files"]}
        source = Source(model, example, usable_threads())
        try:
            name, runner = make_ready(source, engine.name, precision, parts)
        except KeyError as error:
            raise ValueError(f"{folder} lacks {error}, which {engine.name} made") from error
        optimized = Optimized(source, name, precision, runner, report)
        off = difference(optimized(example), logits.expand(len(example), -1))
        if off <= tolerance:
            return optimized
        optimized.close()
        changed = f"its logits differ by {off:.0e} from those at saving"
    if not (rebuild and kept) or precision == "int8":
        raise ValueError(f"{folder} cannot be used here: {changed}; optimize the network again")
    wanted, allowed = report.precision, report.tolerance
    if wanted == "int8":  # which did not work then, and cannot now
        wanted, allowed = precision, PRECISIONS[precision]
    new = optimize(model, example, precision=wanted, tolerance=allowed, budget_s=budget_s)
    new.report = replace(new.report, notes=(*new.report.notes, f"Optimized anew: {changed}."))
    return new


class _Gone(nn.Module):
    """In the place of a network that was not kept; it knows what a `Predictor` asks for."""

    def __init__(
        self, size: tuple[int, ...], words: tuple[Preprocessing | None, list[str] | None]
    ) -> None:
        super().__init__()
        self.size = size
        self.preprocessing, categories = words
        self.categories = None if categories is None else tuple(map(str, categories))

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError(
            f"this network was saved without its weights for images {self.size} alone, "
            f"got {tuple(x.shape)}"
        )


def _changed(facts: Mapping[str, Any], engine: Engine, precision: str) -> str:
    """What is not as at saving; an empty string if nothing matters."""
    for name, here in find_versions(engine).items():
        if facts["versions"].get(name) != here:
            return f"it was saved with {name} {facts['versions'].get(name)}, here is {here}"
    for name, here in describe_machine().items():
        if facts["machine"].get(name) != here:
            return f"it was saved on another machine ({name})"
    return engine.missing(precision, torch.device("cpu")) or ""


def _read_facts(folder: Path) -> dict[str, Any]:
    """The JSON, after each file that it names has been found to be the one that was written."""
    with open_regular(folder / FACTS) as file:
        text = file.read(_MOST_BYTES + 1)
    try:
        if len(text) > _MOST_BYTES:
            raise ValueError("it is too long")
        facts = dict(json.loads(text))
        if facts["format"] != FORMAT:
            raise ValueError(f"it has format {facts['format']!r}, this version reads {FORMAT}")
        files = dict(facts["files"])
        sections = all(isinstance(facts[key], dict) for key in ("report", "versions", "machine"))
        needed = {CHECK, *((NETWORK, WEIGHTS) if NETWORK in files else ())}
        if not sections or needed - files.keys() or any(Path(n).name != n for n in files):
            raise ValueError("its entries are not as they were written")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{folder / FACTS} cannot be read: {error}") from error
    for name, expected in files.items():
        if sha256(folder / name) != expected:
            raise ValueError(f"{folder / name} is not the file that was saved: its sha256 differs")
    return facts


def _report(facts: Mapping[str, Any]) -> Report:
    rows = tuple(Candidate(**row) for row in facts["candidates"])
    rest = {key: facts[key] for key in ("threads", "tolerance", "precision")}
    return Report(rows, tuple(facts["shape"]), notes=tuple(facts["notes"]), **rest)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)
