"""The rooms of the package: what may import what, what is public, how large a file may be."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import cnnarch

ROOT = Path(cnnarch.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A room may import the rooms named here, and itself.
ALLOWED = {
    "_cards": set(),
    "blocks": set(),
    "contract": {"_cards", "blocks"},
    "models": {"_cards", "blocks", "contract"},
    "weights": {"blocks"},
    "registry": {"_cards", "contract"},
    "analysis": {"_cards", "contract"},
    "testing": {"analysis", "contract"},
    "images": set(),
    "dilation": {"blocks", "contract"},
    "backbones": {"contract", "dilation", "registry"},
    "finetuning": {"blocks", "contract", "registry"},
    "embedding": {"blocks", "contract", "images", "registry"},
    "inference": {
        *("_cards", "analysis", "blocks", "contract", "images", "registry", "weights"),
    },
    "viz": {"_cards", "analysis", "blocks", "contract", "images", "registry"},
    "training": {
        *("_cards", "analysis", "blocks", "contract", "images", "registry", "viz", "weights"),
    },
}
# A call, not a module: the network asks for its weights only when weights are wanted.
DEFERRED = {("contract", "weights"), ("registry", "weights")}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[tuple[str, bool]]:
    """Rooms that a file imports, and whether it does so only inside functions."""
    tree = ast.parse(path.read_text())
    top_level = {id(statement) for statement in tree.body}
    found = set()
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module]
            if node.module == "cnnarch":
                modules = [f"cnnarch.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        for module in modules:
            parts = module.split(".")
            if parts[0] == "cnnarch" and len(parts) > 1:
                found.add((parts[1], id(node) not in top_level))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    room = room_of(path)
    if room in ("__init__", "__main__", "cli"):  # the front doors see every room
        return
    for other, deferred in imported_rooms(path):
        allowed = other == room or other in ALLOWED[room]
        assert allowed or (deferred and (room, other) in DEFERRED), f"{room} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    room = room_of(path)
    lines = path.read_text().splitlines()
    limit = {"blocks": 150, "models": 250, "contract": 200}.get(room, 400)
    assert len(lines) <= limit
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


def test_what_is_public_exists_is_documented_and_typed() -> None:
    for module in modules():
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if inspect.isfunction(thing) or inspect.isclass(thing):
                assert inspect.getdoc(thing), f"{module.__name__}.{name} has no docstring"
            if inspect.isfunction(thing):
                hints = inspect.signature(thing)
                assert hints.return_annotation is not inspect.Signature.empty, name


def test_the_package_exports_what_the_rooms_call_public() -> None:
    assert len(cnnarch.__all__) == len(set(cnnarch.__all__))
    for name in cnnarch.__all__:
        assert getattr(cnnarch, name) is not None
    assert set(cnnarch.list_models()) <= set(cnnarch.__all__)
    assert set(cnnarch.__all__) <= set(dir(cnnarch))


def test_importing_the_package_imports_torch_alone() -> None:
    heavy = ["torchvision", "huggingface_hub", "safetensors", "matplotlib", "lightning", "PIL"]
    code = f"import sys, cnnarch; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    assert out.stderr == ""


def test_works_where_torchvision_cannot_be_imported() -> None:
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "import cnnarch, torch\n"
        "print(cnnarch.resnet18(num_classes=3).eval()(torch.zeros(1, 3, 32, 32)).shape)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "torch.Size([1, 3])"


def test_a_star_import_works_without_any_extra() -> None:
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


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'resnet50'"):
        cnnarch.get_model("resnet5O")


def test_the_package_speaks_of_the_project_alone() -> None:
    for path in FILES:
        text = path.read_text()
        for word in ("/work/", "../shared", "sandbox"):
            assert word not in text, f"{path.name} mentions {word}"
