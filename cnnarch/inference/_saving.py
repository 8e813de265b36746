"""Write an optimized network to a folder; `cnnarch.inference.saved` describes it and reads it."""

import json
import os
import platform
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cnnarch._version import __version__
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.inference._measure import difference
from cnnarch.inference.engines import ENGINES, PLAIN, Engine
from cnnarch.preprocessing import Preprocessing
from cnnarch.registry import from_pretrained
from cnnarch.weights.files import sha256

if TYPE_CHECKING:
    from cnnarch.inference.optimized import Optimized

__all__ = [
    "CHECK",
    "FACTS",
    "FORMAT",
    "NETWORK",
    "WEIGHTS",
    "describe_machine",
    "find_engine",
    "find_versions",
    "save_optimized",
]

FACTS, CHECK = "optimized.json", "check.safetensors"
NETWORK, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1


def save_optimized(optimized: "Optimized", path: str | os.PathLike[str]) -> None:
    """Write the folder; an earlier one of its kind is replaced. See `Optimized.save`."""
    engine = find_engine(optimized.backend)
    image = optimized.example[:1]
    with _replacing_folder(Path(path)) as folder:
        parts = optimized.parts()
        for name, content in parts.items():
            (folder / name).write_bytes(content)
        kept = _keep_network(optimized, folder, image)
        if not engine.whole and not kept:
            raise ValueError(
                f"{optimized.backend} keeps no graph of its own, and no builder of cnnarch makes "
                f"this {type(optimized.model).__name__}; openvino and onnxruntime can be saved"
            )
        _write_tensors(folder / CHECK, {"images": image, "logits": optimized(image)})
        facts = {
            "format": FORMAT,
            "engine": engine.name,
            "precision": optimized.precision,
            "batch": len(optimized.example),
            "report": asdict(optimized.report),
            **_words(optimized),
            "versions": find_versions(engine),
            "machine": describe_machine(),
            "files": {file.name: sha256(file) for file in sorted(folder.iterdir())},
        }
        (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def find_engine(name: str) -> Engine:
    """The engine of that name, the plain one too; KeyError if there is none."""
    return {**ENGINES, PLAIN.name: PLAIN}[name]


def find_versions(engine: Engine) -> dict[str, str | None]:
    """Versions of cnnarch and of the packages of an engine, None for those not installed."""
    found: dict[str, str | None] = {"cnnarch": __version__}
    for package in engine.packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def describe_machine() -> dict[str, Any]:
    """What compiled code depends on."""
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "capabilities": sorted(name for name, has in able.items() if has is True),
    }


def _keep_network(optimized: "Optimized", folder: Path, image: Tensor) -> bool:
    """Write the network if what its builder makes of the file is the same."""
    model = optimized.model
    if not isinstance(model, ImageClassifier) or model.builder is None:
        return False
    with torch.inference_mode():
        expected = model(image)
    try:
        model.save_pretrained(folder)
        with torch.inference_mode():
            same = difference(from_pretrained(folder).eval()(image), expected) <= 1e-5
    except ValueError:  # of another builder's options or shapes: somebody changed the network
        same = False
    if not same:
        for name in (WEIGHTS, NETWORK, "README.md"):
            (folder / name).unlink(missing_ok=True)
    return same


def _words(optimized: "Optimized") -> dict[str, Any]:
    """How images are prepared for it, and the names of its classes."""
    preprocessing, categories = optimized.preprocessing, optimized.categories
    return {
        "preprocessing": asdict(preprocessing)
        if isinstance(preprocessing, Preprocessing)
        else None,
        "categories": None if categories is None else list(categories),
    }


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file({name: t.cpu().contiguous() for name, t in tensors.items()}, path)


@contextmanager
def _replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` that takes its place if all went well.

    Raises:
        ValueError: something else is there.
    """
    ours = (path / FACTS).is_file() or (path.is_dir() and not any(path.iterdir()))
    if path.exists() and not ours:
        raise ValueError(f"{path} is there and is not an optimized network")
    path.parent.mkdir(parents=True, exist_ok=True)
    part, old = (path.with_name(f".{path.name}.{uuid.uuid4().hex}.part") for _ in range(2))
    part.mkdir()
    try:
        yield part
        if path.exists():
            path.replace(old)
        part.replace(path)
    finally:
        for folder in (part, old):
            shutil.rmtree(folder, ignore_errors=True)
