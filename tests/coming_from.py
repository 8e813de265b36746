"""Read the tables of the "Coming from" pages, run their calls and compare the results."""

import ast
import copy
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.testing import assert_close
from tests.oracles.libraries import randomize

DOCS = Path(__file__).parent.parent / "docs"
TOLERANCE = 1e-5  # relative to the largest value
Names = dict[str, Any]


class Row(NamedTuple):
    """The calls in one row of a table."""

    theirs: str
    ours: str

    @property
    def is_command(self) -> bool:
        """Whether the row is for the command line."""
        return self.ours.startswith(("cnnarch ", "--"))

    @property
    def loads_weights(self) -> bool:
        """Whether the calls load a checkpoint."""
        return "weights=" in self.ours or "checkpoint.pth" in self.ours


def rows_of(library: str) -> list[Row]:
    """Return the rows of a page's tables. The call is the code at the start of a cell."""
    lines = (DOCS / f"coming_from_{library}.md").read_text().splitlines()
    return [Row(*re.findall(r"\| `([^`]+)`", line)) for line in lines if line.startswith("| `")]


def run(code: str, names: Names) -> Any:
    """Execute statements and return the value of the last one, or None if it is no expression.

    Networks without weights are built on the meta device, to save time.
    """
    *first, last = ast.parse(code).body
    with torch.device("meta" if _only_builds(code) else "cpu"):
        if isinstance(last, ast.Expr):
            exec(compile(ast.Module(first, []), code, "exec"), names)
            return eval(compile(ast.Expression(last.value), code, "eval"), names)
        exec(code, names)
    return None


def _only_builds(code: str) -> bool:
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)]
    read = {node.id for node in nodes if isinstance(node.ctx, ast.Load)}
    needs_values = "weights=|pretrained=True|checkpoint|regnet|quantization"
    return not read & {"images", "model", "photo"} and not re.search(needs_values, code)


def compare(theirs: Any, ours: Any, images: Tensor, *, loaded: bool) -> None:
    """Assert that two results are the same.

    Args:
        theirs: a network, a tensor, a number, a text, or a sequence or mapping of these.
        ours: the same from cnnarch. Keys of mappings may differ.
        images: input for networks.
        loaded: whether both networks have the same weights; otherwise, ours adopts theirs.
    """
    if isinstance(theirs, nn.Module):
        compare_networks(theirs, ours, images, loaded=loaded)
    elif isinstance(theirs, Tensor):
        assert_close(ours, theirs, TOLERANCE)
    elif isinstance(theirs, list | tuple | dict):
        theirs, ours = (list(x.values() if isinstance(x, dict) else x) for x in (theirs, ours))
        assert len(theirs) == len(ours)
        for pair in zip(theirs, ours, strict=True):
            compare(*pair, images, loaded=loaded)
    else:
        assert isinstance(theirs, str | float | int), f"{type(theirs)} cannot be compared"
        assert theirs == ours


def compare_networks(theirs: nn.Module, ours: nn.Module, images: Tensor, *, loaded: bool) -> None:
    """Assert that two networks have the same outputs and numbers of trainable parameters."""
    numbers = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (theirs, ours)]
    assert numbers[0] == numbers[1]
    theirs, ours = copy.deepcopy(theirs).eval(), copy.deepcopy(ours).eval()
    if not loaded:
        randomize(theirs)
        cnnarch.weights.load(ours, theirs.state_dict())
    images = images[:, : getattr(ours, "in_channels", 3)]
    with torch.no_grad():
        compare(theirs(images), ours(images), images, loaded=True)
