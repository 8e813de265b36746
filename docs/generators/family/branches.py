"""How the branches of a network become one convolution: the algebra and the code that does it."""

import ast
import inspect
import textwrap
from collections.abc import Sequence

from cnnarch.blocks import RepConv
from cnnarch.facts.cards import ModelCard
from cnnarch.inference import reparameterize
from cnnarch.inference._layers import scale_and_shift

from ..blocks import network
from ..text import bullets, table

CODE = (reparameterize.merge_branches, reparameterize.weight_and_shift, scale_and_shift)


def branches_section(cards: Sequence[ModelCard], shown: ModelCard) -> list[str]:
    """Return the section of a family whose networks contain `RepConv`; nothing for the others."""
    if not any(isinstance(module, RepConv) for module in network(shown.name).modules()):
        return []
    sentence, _, algebra = (inspect.getdoc(reparameterize.merge_branches) or "").partition("\n\n")
    counts = [(card, card.form.fused) for card in cards if card.form.fused]
    head = ("network", "parameters", "merged", "MACs", "merged")
    rows = [
        (f"`{c.name}`", f"{c.params:,}", f"{fused[0]:,}", f"{c.macs:,}", f"{fused[1]:,}")
        for c, fused in counts
    ]
    calls = [
        "`cnnarch.inference.fuse(model)` merges a trained network. `optimize` and `export` do too.",
        f"`cnnarch.{shown.name}(deploy=True)` builds the merged form, which can be saved.",
    ]
    return [
        "## From branches to one convolution",
        sentence.replace("Return one convolution that computes", "One convolution computes"),
        algebra,
        "In code:",
        "\n\n".join(f"```python\n{source_without_docstring(function)}\n```" for function in CODE),
        bullets(calls),
        table(head, rows),
    ]


def source_without_docstring(function: object) -> str:
    """Return the source of a function without its docstring."""
    source = textwrap.dedent(inspect.getsource(function))  # type: ignore[arg-type]
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.FunctionDef)
    docstring, lines = node.body[0], source.splitlines()
    del lines[docstring.lineno - 1 : docstring.end_lineno]
    return "\n".join(lines)
