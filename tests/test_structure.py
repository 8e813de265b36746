"""Structure of the package: allowed imports, public names, file lengths, wording."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

import cnnarch
from docs.generators.imports import (
    FILES,
    IMPORTS,
    MODULES,
    ROOT,
    Import,
    imports_of,
    module_of,
    part_of,
)

# The other parts that each part may import.
ALLOWED = {
    "facts": set(),
    "_version": set(),
    "folders": set(),
    "splits": {"folders"},
    "devices": set(),
    "images": {"folders"},
    "contents": {"images"},
    "inputs": {"images"},
    "preprocessing": {"images"},
    "blocks": set(),
    "contract": {"facts", "blocks"},
    "models": {"facts", "blocks", "contract"},
    "weights": {"_version", "blocks", "facts", "folders", "preprocessing"},
    "registry": {"facts", "contract", "weights"},
    "analysis": {"facts", "blocks", "contract"},
    "testing": {"analysis", "contract"},
    "dilation": {"analysis", "blocks", "contract"},
    "backbones": {"contract", "dilation", "registry"},
    "finetuning": {"blocks", "contract", "registry"},
    "embedding": {
        *("blocks", "contents", "contract", "devices", "folders", "images", "inputs"),
        *("preprocessing", "registry"),
    },
    "inference": {
        *("facts", "_version", "analysis", "blocks", "contract", "devices", "images", "inputs"),
        *("preprocessing", "registry", "weights"),
    },
    "viz": {
        *("facts", "analysis", "blocks", "contract", "embedding", "images", "inputs"),
        *("preprocessing", "registry"),
    },
    "training": {
        *("facts", "_version", "analysis", "blocks", "contents", "contract", "folders", "images"),
        *("preprocessing", "registry", "splits", "viz", "weights"),
    },
}
# Imports inside functions: networks import `weights` only when they load or save weights.
DEFERRED = {("contract", "weights")}


ENTRY_POINTS = ("cnnarch", "__main__", "cli")
"""Parts that may import all others."""


@pytest.mark.parametrize("module", [m for m in MODULES if part_of(m) not in ENTRY_POINTS])
def test_parts_import_only_what_they_may(module: str) -> None:
    part = part_of(module)
    for imported, deferred in IMPORTS[module]:
        other = part_of(imported)
        allowed = other == part or other in ALLOWED[part]
        assert allowed or (deferred and (part, other) in DEFERRED), f"{part} imports {other}"


def test_there_are_no_circular_imports() -> None:
    graph = {module: {m for m, _ in found} for module, found in IMPORTS.items()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]))


@pytest.mark.parametrize("module", [module for module in MODULES if module != "cnnarch.cli"])
def test_a_file_does_not_import_its_own_package(module: str) -> None:
    package = module.rpartition(".")[0]
    assert package not in {m for m, _ in IMPORTS[module]}


def test_only_the_command_line_imports_the_whole_package() -> None:
    importing = {name for name, found in IMPORTS.items() if "cnnarch" in {m for m, _ in found}}
    assert all(name.startswith(("cnnarch.cli", "cnnarch.__main__")) for name in importing)


def test_the_contract_imports_weights_in_only_three_places() -> None:
    upwards = {
        (module, imported, deferred)
        for module, found in IMPORTS.items()
        for imported, deferred in found
        if module.startswith("cnnarch.contract.") and imported.startswith("cnnarch.weights")
    }
    assert upwards == {
        ("cnnarch.contract.build", "cnnarch.weights", True),
        ("cnnarch.contract.classifier", "cnnarch.weights", True),
        ("cnnarch.contract.recording", "cnnarch.weights.recorded", True),
    }


def test_imports_of_finds_nested_imports() -> None:
    text = """
import cnnarch
import cnnarch.viz as viz
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from cnnarch.weights import Weights
else:
    from cnnarch import images
    from cnnarch.weights import catalog, load

class Network:
    def save(self):
        if self:
            from cnnarch.weights.files import sha256
"""
    assert imports_of(text) == {
        Import("cnnarch", False),
        Import("cnnarch.viz", False),
        Import("cnnarch.images", False),
        Import("cnnarch.weights.catalog", False),
        Import("cnnarch.weights", False),
        Import("cnnarch.weights.files", True),
    }


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    part, text = part_of(module_of(path)), path.read_text()
    if part == "models":  # the number of builders depends on the family
        text = text.partition("\n@builder\n")[0]
    limit = {"blocks": 150, "models": 200, "contract": 200}.get(part, 400)
    assert len(text.splitlines()) <= limit
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            start = node.body[0]
            code = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            length = (node.end_lineno or 0) - (code[0] if code else start).lineno + 1
            assert length <= 40, f"{node.name} has {length} lines"


def modules() -> list[ModuleType]:
    return [
        importlib.import_module(m.name)
        for m in pkgutil.walk_packages(cnnarch.__path__, "cnnarch.")
        if not m.name.endswith("__main__")
    ]


def test_public_names_exist_and_are_documented_and_typed() -> None:
    for module in modules():
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                assert inspect.getdoc(value), f"{module.__name__}.{name} has no docstring"
            if inspect.isfunction(value):
                hints = inspect.signature(value)
                assert hints.return_annotation is not inspect.Signature.empty, name


def test_the_package_exports_its_public_names() -> None:
    assert len(cnnarch.__all__) == len(set(cnnarch.__all__))
    for name in cnnarch.__all__:
        assert getattr(cnnarch, name) is not None
    assert set(cnnarch.list_models()) <= set(cnnarch.__all__)
    assert set(cnnarch.__all__) <= set(dir(cnnarch))


def test_importing_the_package_imports_no_optional_libraries() -> None:
    heavy = ["torchvision", "huggingface_hub", "safetensors", "matplotlib", "lightning", "PIL"]
    code = f"import sys, cnnarch; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    assert out.stderr == ""


def test_the_package_works_without_torchvision() -> None:
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "import cnnarch, torch\n"
        "print(cnnarch.resnet18(num_classes=3).eval()(torch.zeros(1, 3, 32, 32)).shape)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "torch.Size([1, 3])"


def test_a_star_import_works_without_any_extras() -> None:
    extras = ["captum", "jsonargparse", "lightning", "matplotlib", "rich", "sklearn", "yaml"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({extras}))\n"
        "from cnnarch import *\n"
        "print(resnet18 and freeze and weights.load and True)\n"
        "import cnnarch\n"
        "try: cnnarch.training\n"
        "except ImportError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines() == [
        "True",
        "training needs more packages: pip install 'cnnarch[train]'",
    ]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("resnet5O", "resnet50"), ("resnt", "resnet18"), ("cnn", "convnet"), ("mixr", "mixer_s16")],
)
def test_an_unknown_model_raises_and_suggests_the_nearest_name(name: str, nearest: str) -> None:
    """For a name close to a family alias, the family's default network is suggested."""
    with pytest.raises(ValueError, match=f"no network '{name}'; did you mean '{nearest}'"):
        cnnarch.get_model(name)


def test_the_package_contains_no_paths_from_the_development_machine() -> None:
    for path in FILES:
        text = path.read_text()
        for word in ("/work/", "../shared", "sandbox"):
            assert word not in text, f"{path.name} contains {word}"


def test_class_names_are_unique() -> None:
    places: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module)
    repeated = {name: modules for name, modules in places.items() if len(modules) > 1}
    assert not repeated


UNCLEAR_PHRASES = (
    "How ill a layout",
    "Mistakes are told in one line",
    "Of each paper there is its own recipe",
    "What it says of",
    "a folder a class",
    "cannot be had",
    "for who looks on",
    "freeze what shall stay",
    "likeliest",
    "on after a kill",
    "shall",
    "takes for which",
    "the rooms",
    "where nobody can tell",
    "whoever",
)
"""Unidiomatic or outdated phrases found in earlier versions."""
REPOSITORY = ROOT.parent
TEXTS = sorted(
    path
    for folder in ("cnnarch", "docs", "tests", "benchmarks")
    for pattern in ("*.py", "*.md", "*.toml")
    for path in (REPOSITORY / folder).rglob(pattern)
    if not {"_build", "_generated"} & set(path.parts) and path != Path(__file__)
)


def test_texts_contain_no_unclear_phrases() -> None:
    words = "|".join(re.escape(phrase) for phrase in UNCLEAR_PHRASES)
    found = [
        f"{path.relative_to(REPOSITORY)}: {match[0]}"
        for path in (REPOSITORY / "README.md", *TEXTS)
        for match in re.finditer(rf"\b({words})\b", " ".join(path.read_text().split()), re.I)
    ]
    assert not found
