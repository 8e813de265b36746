"""Count parameters and multiply-adds, and list shapes, without running the network.

A copy of the network runs on the meta device, where tensors hold no data. This uses no memory,
takes less than a second even for ResNet-152, and leaves the network unchanged.
"""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import ParametrizationList

from cnnarch.blocks._wrappers import unwrapped
from cnnarch.contract.meta import without_memory
from cnnarch.facts.builders import BUILDERS
from cnnarch.facts.sheets import facts_of
from cnnarch.facts.text import shape_text, table_lines

__all__ = ["Summary", "SummaryRow", "count_macs", "count_parameters", "stage_shapes", "summary"]

Shape = tuple[int, ...]


_BATCH = 2  # BatchNorm1d in training mode requires more than one image
KNOWN = (
    *(_ConvNd, nn.Linear, _NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
    *(nn.PReLU, nn.Embedding, ParametrizationList),
)
"""Layers whose multiply-adds are counted, or which have none by convention."""


class SummaryRow(NamedTuple):
    """One layer: its module path, type, output shape, parameter count and multiply-adds.

    Args:
        path: module path, such as "stages.0.1.conv".
        layer: type of the layer.
        shape: output shape without the batch dimension.
        params: number of trainable parameters.
        macs: number of multiply-adds for one image.
    """

    path: str
    layer: str
    shape: Shape
    params: int
    macs: int


class Summary(NamedTuple):
    """The layers of a network in the order they run; `print` shows them as a table.

    Args:
        name: name of the network's class or builder.
        input_size: (C, H, W) of the image.
        rows: the layers without children.
        params: number of trainable parameters of the network.
        macs: number of multiply-adds for one image.
        shapes: output shape of every module by path, as `stage_shapes` returns them.
    """

    name: str
    input_size: Shape
    rows: tuple[SummaryRow, ...]
    params: int
    macs: int
    shapes: Mapping[str, Shape]

    def __str__(self) -> str:
        """Return the table as text."""
        cells = [("layer", "type", "output", "parameters", "MACs")]
        cells += [
            (r.path, r.layer, shape_text(r.shape), f"{r.params:,}", f"{r.macs:,}")
            for r in self.rows
        ]
        cells += [("total", "", "", f"{self.params:,}", f"{self.macs:,}")]
        lines = table_lines(cells)
        rule = "-" * len(lines[0])
        title = f"{self.name}, input {shape_text(self.input_size)}"
        return "\n".join([title, rule, lines[0], rule, *lines[1:-1], rule, lines[-1]])


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters, counting shared parameters once.

    >>> count_parameters(nn.Linear(10, 5))
    55
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def count_macs(model: nn.Module, input_size: Shape | None = None) -> int:
    """Return the number of multiply-adds in convolutions and linear layers for one image.

    Convolutions may be transposed and have one to three dimensions. As is customary in papers,
    biases, normalization, activations and pooling are not counted. A warning names layers with
    weights of any other kind, whose multiply-adds are missing.

    Args:
        model: any module that accepts images, on any device.
        input_size: `(C, H, W)`; None uses the input size on the network's card.

    Raises:
        ValueError: no size is given and the network has no card.

    >>> count_macs(nn.Conv2d(3, 8, 3), (3, 10, 10))
    13824
    """
    model = unwrapped(model)
    rows = _run(model, input_size)
    _warn_about_uncounted(model, rows)
    return sum(row.macs for row in rows)


def stage_shapes(model: nn.Module, input_size: Shape | None = None) -> dict[str, Shape]:
    """Return every module's output shape without the batch dimension, by path ("stages.0.1").

    Args:
        model: any module that accepts images, on any device.
        input_size: `(C, H, W)`; None uses the input size on the network's card.

    >>> stage_shapes(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()), (3, 10, 10))
    {'0': (8, 8, 8), '1': (512,), '': (512,)}
    """
    return {row.path: row.shape for row in _run(unwrapped(model), input_size)}


def summary(model: nn.Module, input_size: Shape | None = None) -> Summary:
    """Return a table of the layers with output shapes, parameters and multiply-adds.

    Args:
        model: any module that accepts images, on any device.
        input_size: `(C, H, W)`; None uses the input size on the network's card.

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
    model = unwrapped(model)
    rows = _run(model, input_size)
    _warn_about_uncounted(model, rows)
    leaves = tuple(row for row in rows if _is_leaf(unwrapped(model.get_submodule(row.path))))
    name = getattr(model, "builder", None) or type(model).__name__
    macs, shapes = sum(row.macs for row in rows), {row.path: row.shape for row in rows}
    size = input_size or _card_size(model)
    return Summary(name, size, leaves, count_parameters(model), macs, shapes)


def _card_size(model: nn.Module) -> Shape:
    builder = getattr(model, "builder", None) or getattr(model, "fused_from", None)
    if builder not in BUILDERS:
        raise ValueError(f"{type(model).__name__} has no card: pass input_size (C, H, W)")
    side = getattr(model, "min_input_size", 0) if getattr(model, "fixed_input_size", False) else 0
    channels, height, width = facts_of(builder).forms[0].input_size
    return (getattr(model, "in_channels", channels), side or height, side or width)


def _run(model: nn.Module, input_size: Shape | None) -> list[SummaryRow]:
    """Run a forward pass and return a row for each module called, in the order the calls finish."""
    rows: list[SummaryRow] = []
    copy = without_memory(model)
    copy.train(model.training)  # auxiliary heads run only in training mode
    paths = {module: path for path, module in copy.named_modules()}

    def record(module: nn.Module, inputs: Any, named: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            inputs = (*inputs, *named.values())
            own = module.parameters(recurse=_is_leaf(module))
            sizes = [p.numel() for p in own if p.requires_grad]
            shape, macs = tuple(output.shape[1:]), _macs(module, inputs, output)
            rows.append(SummaryRow(paths[module], type(module).__name__, shape, sum(sizes), macs))

    lists = (m for m in paths if isinstance(m, ParametrizationList))
    for module in paths.keys() - {inside for each in lists for inside in each.modules()}:
        module.register_forward_hook(record, with_kwargs=True)
    image = torch.empty(_BATCH, *(input_size or _card_size(model)), device="meta")
    with torch.no_grad():
        copy(image)
    return rows


def _is_leaf(module: nn.Module) -> bool:
    """Return whether a module has no children except the parametrizations of its tensors."""
    return all(name == "parametrizations" for name, _ in module.named_children())


def _macs(module: nn.Module, inputs: Any, output: Tensor) -> int:
    """Count one multiply-add for each weight that contributes to each output value."""
    if isinstance(module, _ConvTransposeNd):  # each input value is spread over outputs
        image = next(value for value in inputs if isinstance(value, Tensor))
        return image.numel() // _BATCH * module.weight[0].numel()
    if isinstance(module, _ConvNd | nn.Linear):
        return output.numel() // _BATCH * module.weight[0].numel()
    return 0


def _is_matrix(parameter: Tensor) -> bool:
    """Return whether a parameter has several dimensions, unlike the factors of norms and scales."""
    return parameter.numel() > max(parameter.shape, default=1)


def _warn_about_uncounted(model: nn.Module, rows: list[SummaryRow]) -> None:
    """Warn about layers of unknown kinds, and known ones whose weights another module used."""
    called = {row.path for row in rows}
    unknown = {
        type(module).__name__: path or "the network"
        for path, module in model.named_modules()
        if any(_is_matrix(parameter) for parameter in module.parameters(recurse=False))
        and not type(module).__module__.startswith("cnnarch.")
        and (not isinstance(module, KNOWN) or _is_bypassed(path, module, called))
    }
    if unknown:
        listed = ", ".join(f"{kind} ({path})" for kind, path in unknown.items())
        warnings.warn(f"the multiply-adds of these layers are not counted: {listed}", stacklevel=3)


def _is_bypassed(path: str, module: nn.Module, called: set[str]) -> bool:
    """Return whether a layer's parent ran, but the layer itself was not called for a tensor."""
    parent, _, name = path.rpartition(".")
    is_expected = isinstance(module, _ConvNd | nn.Linear) and name != "_orig_mod"  # torch.compile
    return is_expected and path not in called and parent in called
