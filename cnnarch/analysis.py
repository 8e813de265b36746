"""Count and measure a network without running it: everything happens on the meta device.

A copy of the network without values runs one image without pixels, so that ResNet-152 takes
well under a second and no memory, and the network itself is not touched.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cnnarch.contract.meta import without_memory
from cnnarch.facts.builders import BUILDERS
from cnnarch.facts.sheets import facts_of

__all__ = ["Summary", "SummaryRow", "count_macs", "count_parameters", "stage_shapes", "summary"]

Shape = tuple[int, ...]


class SummaryRow(NamedTuple):
    """One layer: its path in the network, its type, what it gives out and what it costs."""

    path: str
    layer: str
    shape: Shape
    params: int
    macs: int


class Summary(NamedTuple):
    """A network's layers in the order they run; `print` shows them as a table."""

    name: str
    input_size: Shape
    rows: tuple[SummaryRow, ...]
    params: int
    macs: int

    def __str__(self) -> str:
        """Aligned columns and a line of totals."""
        cells = [("layer", "type", "output", "parameters", "MACs")]
        cells += [
            (r.path, r.layer, _sized(r.shape), f"{r.params:,}", f"{r.macs:,}") for r in self.rows
        ]
        cells += [("total", "", "", f"{self.params:,}", f"{self.macs:,}")]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join([*map(str.ljust, row[:2], widths), *map(str.rjust, row[2:], widths[2:])])
            for row in cells
        ]
        rule = "-" * len(lines[0])
        title = f"{self.name}, input {_sized(self.input_size)}"
        return "\n".join([title, rule, lines[0], rule, *lines[1:-1], rule, lines[-1]])


def count_parameters(model: nn.Module) -> int:
    """Number of trainable values: every parameter that asks for a gradient, counted once.

    >>> count_parameters(nn.Linear(10, 5))
    55
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def count_macs(model: nn.Module, input_size: Shape | None = None) -> int:
    """Multiply-adds of convolutions and linear layers for one image.

    Biases, normalisation, activation and pooling are left out, as papers do.

    Args:
        model: any module of images, on any device.
        input_size: `(C, H, W)` in pixels; None means the size on the network's card.

    Raises:
        ValueError: no size was given and the network has no card.

    >>> count_macs(nn.Conv2d(3, 8, 3), (3, 10, 10))
    13824
    """
    return sum(row.macs for row in _run(model, input_size))


def stage_shapes(model: nn.Module, input_size: Shape | None = None) -> dict[str, Shape]:
    """Output shape of every module, without the batch, by its path ("stages.0.1").

    Args:
        model: any module of images, on any device.
        input_size: `(C, H, W)` in pixels; None means the size on the network's card.

    >>> stage_shapes(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()), (3, 10, 10))
    {'0': (8, 8, 8), '1': (512,), '': (512,)}
    """
    return {row.path: row.shape for row in _run(model, input_size)}


def summary(model: nn.Module, input_size: Shape | None = None) -> Summary:
    """Table of the layers with output shape, parameters and MACs.

    Args:
        model: any module of images, on any device.
        input_size: `(C, H, W)` in pixels; None means the size on the network's card.

    >>> print(summary(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), (1, 5, 5)))
    Sequential, input 1x5x5
    ---------------------------------------
    layer  type    output  parameters  MACs
    ---------------------------------------
    0      Conv2d   2x3x3          20   162
    1      ReLU     2x3x3           0     0
    ---------------------------------------
    total                          20   162
    """
    rows = _run(model, input_size)
    leaves = tuple(row for row in rows if not any(model.get_submodule(row.path).children()))
    name = getattr(model, "builder", None) or type(model).__name__
    macs = sum(row.macs for row in rows)
    return Summary(name, input_size or _card_size(model), leaves, count_parameters(model), macs)


def _sized(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _card_size(model: nn.Module) -> Shape:
    builder = getattr(model, "builder", None)
    if builder not in BUILDERS:
        raise ValueError(f"{type(model).__name__} has no card: pass its input_size (C, H, W)")
    side = getattr(model, "min_input_size", 0) if getattr(model, "fixed_input_size", False) else 0
    own, height, width = facts_of(builder).forms[0].input_size
    return (getattr(model, "in_channels", own), side or height, side or width)


def _run(model: nn.Module, input_size: Shape | None) -> list[SummaryRow]:
    """Rows of all modules in the order they finish, for one image."""
    rows: list[SummaryRow] = []
    twin = without_memory(model)
    twin.train(model.training)  # auxiliary heads, where there are any, run in training alone
    image = torch.empty(2, *(input_size or _card_size(model)), device="meta")
    with _recorded(twin, rows), torch.no_grad():
        twin(image)
    return rows


@contextmanager
def _recorded(model: nn.Module, rows: list[SummaryRow]) -> Iterator[None]:
    """Append a row each time a module has run."""
    paths = {module: path for path, module in model.named_modules()}

    def record(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            own = [p.numel() for p in module.parameters(recurse=False) if p.requires_grad]
            shape, macs = tuple(output.shape[1:]), _macs(module, output)
            rows.append(SummaryRow(paths[module], type(module).__name__, shape, sum(own), macs))

    hooks = [module.register_forward_hook(record) for module in paths]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _macs(module: nn.Module, output: Tensor) -> int:
    """Each output value costs one multiply-add for each weight that it is a sum over."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        return output[0].numel() * module.weight[0].numel()
    return 0
