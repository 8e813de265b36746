"""Write and read an optimized network's folder, whose format is described in `saved`."""

import json
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cnnarch._version import __version__
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.inference._measure import describe_device, difference
from cnnarch.inference._requests import default_tolerance
from cnnarch.inference.engines import Engine, find_engine
from cnnarch.preprocessing import Preprocessing
from cnnarch.registry import from_pretrained
from cnnarch.weights.files import atomic_write, open_regular, sha256

if TYPE_CHECKING:
    from cnnarch.inference.optimized import Optimized

FACTS, CHECK = "optimized.json", "check.safetensors"
NETWORK, _WEIGHTS = "config.json", "model.safetensors"
_FORMAT = 1
_MAX_FACTS_BYTES = 2**20


def save_optimized(optimized: "Optimized", path: str | os.PathLike[str]) -> None:
    """Write the folder next to `path`, then move it to `path`; see `Optimized.save`.

    Raises:
        ValueError: `path` exists and is neither an optimized network nor an empty folder.
    """
    path = Path(path)
    is_ours = (path / FACTS).is_file() or (path.is_dir() and not any(path.iterdir()))
    if path.exists() and not is_ours:
        raise ValueError(f"{path} exists and is not an optimized network")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
        folder = Path(temporary, "new")
        folder.mkdir()
        _write(optimized, folder)
        if path.exists():
            path.replace(Path(temporary, "old"))
        folder.replace(path)


def _write(optimized: "Optimized", folder: Path) -> None:
    engine, image = find_engine(optimized.backend), optimized.example[:1]
    for name, content in optimized.parts().items():
        (folder / name).write_bytes(content)
    if not _save_network(optimized, folder, image) and not engine.keeps_graph:
        raise ValueError(
            f"{optimized.backend} does not save a graph, and no cnnarch builder creates this "
            f"{type(optimized.model).__name__}; it can only be saved with backend openvino or "
            "onnxruntime"
        )
    check = {"images": image, "logits": optimized(image)}
    with atomic_write(folder / CHECK) as part:  # safetensors alone would create it with mode 600
        save_file({name: t.cpu().contiguous() for name, t in check.items()}, part)
    preprocessing, categories = optimized.preprocessing, optimized.categories
    facts = {
        "format": _FORMAT,
        "engine": engine.name,
        "precision": optimized.precision,
        "batch": len(optimized.example),
        "report": asdict(optimized.report),
        "preprocessing": asdict(preprocessing)
        if isinstance(preprocessing, Preprocessing)
        else None,
        "categories": None if categories is None else list(categories),
        "versions": _find_versions(engine),
        "device": optimized.example.device.type,
        "machine": _describe_machine(optimized.example.device),
        "files": {file.name: sha256(file) for file in sorted(folder.iterdir())},
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _save_network(optimized: "Optimized", folder: Path, image: Tensor) -> bool:
    """Save the network if its builder can rebuild it; return whether it was saved."""
    model = optimized.model
    if not isinstance(model, ImageClassifier) or model.builder is None:
        return False
    with torch.inference_mode():
        expected = model(image)
    try:
        model.save_pretrained(folder)
        with torch.inference_mode():
            loaded = from_pretrained(folder).eval().to(image.device)
            same = difference(loaded(image), expected) <= _same_within(image.device)
    except ValueError:  # the user changed the network, so its options or shapes do not match
        same = False
    if not same:
        for name in (_WEIGHTS, NETWORK, "README.md"):
            (folder / name).unlink(missing_ok=True)
    return same


def _same_within(device: torch.device) -> float:
    """Return the largest difference between the logits of equal networks.

    A GPU may choose another algorithm for a convolution, which differs more in TF32.
    """
    return 1e-5 if device.type == "cpu" else default_tolerance("float32", device)


def read_facts(folder: Path) -> dict[str, Any]:
    """Read the JSON file and check the hashes of the files that it lists."""
    if folder.is_file():
        raise ValueError(
            f"{folder} is a file, but Optimized.save writes a folder; load files from "
            "cnnarch.inference.export with ONNX Runtime, OpenVINO or torch.export.load"
        )
    with open_regular(folder / FACTS) as file:
        text = file.read(_MAX_FACTS_BYTES + 1)
    try:
        if len(text) > _MAX_FACTS_BYTES:
            raise ValueError("the file is too large")
        facts = dict(json.loads(text))
        if facts["format"] != _FORMAT:
            raise ValueError(f"its format is {facts['format']!r}, but this version reads {_FORMAT}")
        files = dict(facts["files"])
        sections = all(isinstance(facts[key], dict) for key in ("report", "versions", "machine"))
        needed = {CHECK, *((NETWORK, _WEIGHTS) if NETWORK in files else ())}
        if not sections or needed - files.keys() or any(Path(n).name != n for n in files):
            raise ValueError("its entries were changed")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{folder / FACTS} cannot be read: {error}") from error
    for name, expected in files.items():
        if sha256(folder / name) != expected:
            raise ValueError(f"{folder / name} is not the file that was saved: its sha256 differs")
    return facts


def saved_device(facts: Mapping[str, Any]) -> torch.device:
    """Return the device for which a network was saved, or the CPU if it is not available."""
    saved = facts.get("device", "cpu")  # older files lack it
    if saved not in ("cpu", "cuda", "mps", "xpu"):
        raise ValueError(f"there is no device {saved!r}")
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return here if here is not None and here.type == saved else torch.device("cpu")


def find_change(
    facts: Mapping[str, Any], engine: type[Engine], precision: str, device: torch.device
) -> str:
    """Return why the saved engine cannot be used on this device, or an empty string."""
    saved = facts.get("device", "cpu")
    if saved != device.type:
        return f"it was saved for the device {saved!r}, which this machine does not have"
    for name, here in _find_versions(engine).items():
        if facts["versions"].get(name) != here:
            return f"it was saved with {name} {facts['versions'].get(name)}, this is {here}"
    for name, here in _describe_machine(device).items():
        if facts["machine"].get(name) != here:
            return f"it was saved on a different kind of machine ({name})"
    return engine.why_unavailable(precision, device) or ""


def _find_versions(engine: type[Engine]) -> dict[str, str | None]:
    """Return the versions of cnnarch and of an engine's packages (None if not installed)."""
    found: dict[str, str | None] = {"cnnarch": __version__}
    for package in engine.packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _describe_machine(device: torch.device) -> dict[str, Any]:
    """Return the machine properties that compiled code depends on."""
    if device.type != "cpu":
        return {"system": platform.system(), "device": describe_device(device)}
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "capabilities": sorted(name for name, has in capabilities.items() if has is True),
    }
