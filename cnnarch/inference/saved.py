"""Load an optimized network from a folder written by `Optimized.save`, without converting it again.

The folder contains JSON, safetensors and the engine's graph (OpenVINO IR or ONNX), none of which
can execute code.

- optimized.json: engine, precision, report, versions, machine, and the sha256 of the other files;
- check.safetensors: an image and its logits;
- model.xml and model.bin, model.onnx, or ranges.safetensors: the files that the engine created, if
  any;
- model.safetensors and config.json: the network, if a cnnarch builder can rebuild it;
  `cnnarch.from_pretrained` can also read them.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cnnarch.inference._measure import difference
from cnnarch.inference._requests import default_tolerance
from cnnarch.inference._saving import (
    CHECK,
    FACTS,
    NETWORK,
    find_change,
    read_facts,
    saved_device,
)
from cnnarch.inference.engines import find_engine
from cnnarch.inference.optimize import optimize
from cnnarch.inference.optimized import Optimized, restore
from cnnarch.inference.report import Candidate, Report
from cnnarch.preprocessing import preprocessing_from
from cnnarch.registry import from_pretrained


def load_optimized(
    path: str | os.PathLike[str], *, rebuild: bool = True, budget_s: float = 60
) -> Optimized:
    """Load a network saved by `Optimized.save`, on the type of device for which it was optimized.

    On the same kind of machine with the same package versions, the engine's graph is used if it
    reproduces the saved logits of one image. Otherwise the network is rebuilt from its weights and
    optimized again, and a note in the report says so. CUDA graphs are recorded again, and compiled
    code is compiled again.

    Args:
        path: the folder.
        rebuild: optimize the network again if necessary; False raises an error instead.
        budget_s: the time budget in seconds for optimizing again, as in `optimize`.

    Raises:
        ValueError: the folder was changed, or it comes from a different kind of machine or version
            and the network cannot be rebuilt: it is not a cnnarch network, or it is in int8, for
            which the calibration images are not saved.
    """
    folder = Path(path)
    facts = read_facts(folder)
    has_network = NETWORK in facts["files"]
    try:
        kind, precision = find_engine(facts["engine"]), facts["precision"]
        device = saved_device(facts)
        check = load_file(folder / CHECK, device=str(device))
        images, logits = (check[name] for name in ("images", "logits"))
        example = images.repeat(facts["batch"], 1, 1, 1)
        candidates = tuple(Candidate(**row) for row in facts["report"].pop("candidates"))
        shape, notes = (tuple(facts["report"].pop(key)) for key in ("shape", "notes"))
        report = Report(candidates, shape, notes=notes, **facts["report"])
        tolerance = _tolerance(precision, device)
        missing = _MissingNetwork(example, facts["preprocessing"], facts["categories"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{folder} does not match its {FACTS}: {error!r}") from error
    model: nn.Module = from_pretrained(folder) if has_network else missing
    model.eval().to(device)
    changed = find_change(facts, kind, precision, device)
    if not changed:
        names = [name for name in kind.files if name in facts["files"]]
        parts = {name: (folder / name).read_bytes() for name in names}
        try:
            optimized = restore(model, example, kind.name, precision, report, parts)
        except KeyError as error:
            raise ValueError(f"{folder} lacks {error}, which {kind.name} created") from error
        differs_by = difference(optimized(example), logits.expand(len(example), -1))
        if differs_by <= tolerance:
            return optimized
        optimized.close()
        changed = f"its logits differ by {differs_by:.0e} from the saved ones"
    if not (rebuild and has_network) or precision == "int8":
        raise ValueError(f"{folder} cannot be used here: {changed}; optimize the network again")
    wanted, allowed = _request_again(report, precision, device)
    new = optimize(model, example, precision=wanted, tolerance=allowed, budget_s=budget_s)
    new.report = replace(new.report, notes=(*new.report.notes, f"Optimized again: {changed}."))
    return new


def _tolerance(precision: str, device: torch.device) -> float:
    """Return by how much the logits may differ from the saved ones."""
    return default_tolerance("bfloat16" if precision == "int8" else precision, device)


def _request_again(report: Report, precision: str, device: torch.device) -> tuple[str, float]:
    """Return the precision and the tolerance for optimizing again on this device."""
    wanted = report.precision
    if wanted == "int8":  # int8 was not chosen, and a retry would need calibration images
        return precision, default_tolerance(precision, device)
    if device.type == "cpu" and report.device != "cpu":  # the GPU is missing
        wanted = "float32" if wanted == "float16" else wanted
        return wanted, default_tolerance(wanted, device)
    return wanted, report.tolerance


class _MissingNetwork(nn.Module):
    """A placeholder, with the attributes `Predictor` needs, for a network that was not saved."""

    def __init__(self, example: Tensor, preprocessing: Any, categories: Any) -> None:
        super().__init__()
        self.size = tuple(example.shape[1:])
        self.preprocessing = preprocessing_from(preprocessing)
        self.categories = None if categories is None else tuple(map(str, categories))

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError(
            "this network was saved without its weights and only accepts images of shape "
            f"{self.size}, got {tuple(x.shape)}"
        )
