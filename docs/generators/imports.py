"""Find the imports between cnnarch modules by parsing their source."""

import ast
from pathlib import Path
from typing import NamedTuple

import cnnarch

ROOT = Path(cnnarch.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


class Import(NamedTuple):
    """An import of a cnnarch module.

    Args:
        module: dotted name of the imported module.
        deferred: whether the import statement is inside a function.
    """

    module: str
    deferred: bool


def module_of(path: Path) -> str:
    """Return the dotted name of a file; for `__init__.py`, the name of its package."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """Return the part to which a module belongs: the name after `cnnarch.`, or "cnnarch" itself."""
    return module.split(".")[1] if "." in module else module


MODULES = {module_of(path): path for path in FILES}


def imports_of(text: str) -> set[Import]:
    """Return all imports of cnnarch modules in a file, except those under `if TYPE_CHECKING:`.

    `from package import file` imports the file. `from cnnarch import x` also imports cnnarch.
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


def part_imports() -> dict[str, set[str]]:
    """Return the parts that each part imports when it is loaded, excluding deferred imports."""
    found: dict[str, set[str]] = {}
    for module, imports in IMPORTS.items():
        part = part_of(module)
        others = {part_of(i.module) for i in imports if not i.deferred} - {part}
        found.setdefault(part, set()).update(others)
    return found
