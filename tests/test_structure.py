"""The parts of the package: what may import what, what is public, how large a file may be."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

import cnnarch

ROOT = Path(cnnarch.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A part may import the parts named here, and itself.
ALLOWED = {
    "facts": set(),
    "_version": set(),
    "images": set(),
    "preprocessing": {"images"},
    "blocks": set(),
    "contract": {"facts", "blocks"},
    "models": {"facts", "blocks", "contract"},
    "weights": {"_version", "blocks", "facts", "preprocessing"},
    "registry": {"facts", "contract", "weights"},
    "analysis": {"facts", "contract"},
    "testing": {"analysis", "contract"},
    "dilation": {"blocks", "contract"},
    "backbones": {"contract", "dilation", "registry"},
    "finetuning": {"blocks", "contract", "registry"},
    "embedding": {"blocks", "contract", "images", "preprocessing", "registry"},
    "inference": {
        *("facts", "_version", "analysis", "blocks", "contract", "images"),
        *("preprocessing", "registry", "weights"),
    },
    "viz": {"facts", "analysis", "blocks", "contract", "images", "preprocessing", "registry"},
    "training": {
        *("facts", "_version", "analysis", "blocks", "contract", "images", "preprocessing"),
        *("registry", "viz", "weights"),
    },
}
# A call, not a module: the network asks for its weights only when weights are wanted.
DEFERRED = {("contract", "weights")}


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


class Import(NamedTuple):
    """That a file needs another: by its dotted name, and whether only inside of a function."""

    module: str
    deferred: bool


def module_of(path: Path) -> str:
    """Dotted name of a file; a package's is that of its `__init__`."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports_of(text: str) -> set[Import]:
    """The modules of cnnarch that a file imports anywhere, but for `if TYPE_CHECKING:`.

    `from package import file` imports the file; from cnnarch itself it imports both.
    """
    found = set()

    def visit(node: ast.AST, deferred: bool) -> None:
        names: list[str] = []
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.orelse:
                visit(child, deferred)
            return
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports in the package are absolute"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in inside]
            names += ["cnnarch"] if node.module == "cnnarch" else []
        found.update(Import(name, deferred) for name in names if name in MODULES)
        functions = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
        for child in ast.iter_child_nodes(node):
            visit(child, deferred or isinstance(node, functions))

    visit(ast.parse(text), False)
    return found


IMPORTS = {module: imports_of(path.read_text()) for module, path in MODULES.items()}


def imported_parts(path: Path) -> set[tuple[str, bool]]:
    """Rooms that a file imports, and whether it does so only inside functions."""
    found = IMPORTS[module_of(path)]
    return {(m.split(".")[1], deferred) for m, deferred in found if m != "cnnarch"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    part = part_of(path)
    if part in ("__init__", "__main__", "cli"):  # the front doors see every part
        return
    for other, deferred in imported_parts(path):
        allowed = other == part or other in ALLOWED[part]
        assert allowed or (deferred and (part, other) in DEFERRED), f"{part} imports {other}"


def test_no_file_imports_itself_by_way_of_others() -> None:
    graph = {module: {m for m, _ in found} for module, found in IMPORTS.items()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]))


@pytest.mark.parametrize("module", MODULES)
def test_a_file_does_not_import_the_package_that_it_is_in(module: str) -> None:
    package = module.rpartition(".")[0]
    if module != "cnnarch.cli":
        assert package not in {m for m, _ in IMPORTS[module]}


@pytest.mark.parametrize("module", MODULES)
def test_only_the_command_line_imports_the_whole_package(module: str) -> None:
    if "cnnarch" in {m for m, _ in IMPORTS[module]}:
        assert module.startswith(("cnnarch.cli", "cnnarch.__main__"))


def test_networks_ask_for_weights_in_two_places() -> None:
    upwards = {
        (module, imported, deferred)
        for module, found in IMPORTS.items()
        for imported, deferred in found
        if module.startswith("cnnarch.contract.") and imported.startswith("cnnarch.weights")
    }
    assert upwards == {
        ("cnnarch.contract.build", "cnnarch.weights", True),
        ("cnnarch.contract.classifier", "cnnarch.weights", True),
    }


def test_imports_are_found_wherever_they_are() -> None:
    text = """
import cnnarch
import cnnarch.viz as viz
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from cnnarch.weights import Weights
else:
    from cnnarch import images
    from cnnarch.weights import entry, load

class Network:
    def save(self):
        if self:
            from cnnarch.weights.files import sha256
"""
    assert imports_of(text) == {
        Import("cnnarch", False),
        Import("cnnarch.viz", False),
        Import("cnnarch.images", False),
        Import("cnnarch.weights.entry", False),
        Import("cnnarch.weights", False),
        Import("cnnarch.weights.files", True),
    }


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    part = part_of(path)
    text = path.read_text()
    if part == "models":  # builders are as many as the family has networks
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


def test_what_is_public_exists_is_documented_and_typed() -> None:
    for module in modules():
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if inspect.isfunction(thing) or inspect.isclass(thing):
                assert inspect.getdoc(thing), f"{module.__name__}.{name} has no docstring"
            if inspect.isfunction(thing):
                hints = inspect.signature(thing)
                assert hints.return_annotation is not inspect.Signature.empty, name


def test_the_package_exports_what_the_parts_call_public() -> None:
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


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("resnet5O", "resnet50"), ("resnt", "resnet18"), ("cnn", "convnet"), ("mixr", "mixer_s16")],
)
def test_an_unknown_model_names_the_nearest(name: str, nearest: str) -> None:
    """For an alias of a family, its usual network."""
    with pytest.raises(ValueError, match=f"no network '{name}'; did you mean '{nearest}'"):
        cnnarch.get_model(name)


def test_the_package_speaks_of_the_project_alone() -> None:
    for path in FILES:
        text = path.read_text()
        for word in ("/work/", "../shared", "sandbox"):
            assert word not in text, f"{path.name} mentions {word}"
