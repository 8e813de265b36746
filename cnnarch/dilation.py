"""Give up strides for dilated kernels, so that deep maps stay large (the "à trous" algorithm).

Where a stride is given up, every kernel behind it reads pixels further apart by the same factor.
So each pixel that the network had is computed as before, and new ones in between: the map of
the dilated network, taken at every k-th pixel, is the map of the network.

Source: Chen et al., "Semantic Image Segmentation with Deep Convolutional Nets and Fully
Connected CRFs", arXiv 1412.7062, sec. 3.1.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cnnarch.blocks.conv import SamePad2d
from cnnarch.blocks.pooling import AlignedMaxPool2d
from cnnarch.blocks.shortcut import ZeroPadShortcut
from cnnarch.contract.meta import without_memory
from cnnarch.contract.trunk import Trunk, check_trunk

__all__ = ["DilatedPool2d", "dilate"]


class Density(NamedTuple):
    """How many times closer together pixels get, in what a layer reads and in what it gives."""

    before: int
    after: int


def dilate(model: Trunk, output_stride: int) -> None:
    """Keep every map's stride at `output_stride` at most, by dilation; changed in place.

    Weights stay as they are, and feature sizes are exact for images whose sides the network's
    stride divides. Taken at every k-th pixel, a map is the one that the network gave, where k is
    the factor that its stride is smaller by; with SE it is close to it, since SE averages over
    the new pixels too.

    Args:
        model: a network or a backbone.
        output_stride: 8, 16 or 32.

    Raises:
        TypeError: it is neither a network nor a backbone.
        ValueError: another stride, or one that the network cannot have.
    """
    check_trunk(model)
    if not isinstance(output_stride, int) or output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride!r}")
    stem = model.feature_info[0].stride
    if stem > output_stride:
        raise ValueError(f"output_stride {output_stride} is below the stem's, which is {stem}")
    if model.feature_info[-1].stride <= output_stride:
        return
    for path, (before, after) in _densities(model, output_stride).items():
        _change(model, path, gave_up=after // before, spread=before)
    del model.feature_info  # computed anew when it is next asked for


def _densities(model: Trunk, output_stride: int) -> dict[str, Density]:
    """What changes at each layer, from how maps grow with the input."""
    twin = without_memory(model)
    sizes: dict[str, list[tuple[int, int]]] = {}

    def watch(path: str, module: nn.Module) -> None:
        def record(_: nn.Module, x: tuple[Tensor, ...], y: Tensor) -> None:
            sizes.setdefault(path, []).append((x[0].shape[-1], y.shape[-1]))

        module.register_forward_hook(record)

    for path, module in twin.named_modules():
        parent = twin.get_submodule(path.rpartition(".")[0])
        if isinstance(module, LAYERS) and not isinstance(parent, LAYERS):
            watch(path, module)
    for side in (model.min_input_size + 256, model.min_input_size + 512):
        twin.forward_stages(torch.empty(1, model.in_channels, side, side, device="meta"))
    densities = {}
    for path, (small, large) in sizes.items():
        growth = [b - a for a, b in zip(small, large, strict=True)]
        if all(growth):  # what SE has pooled to one pixel does not grow, and has no stride
            density = Density(*(max(1, 256 // g // output_stride) for g in growth))
            if density.after > 1:
                densities[path] = density
    return densities


def _change(model: nn.Module, path: str, gave_up: int, spread: int) -> None:
    """Divide a layer's stride by `gave_up`; let it read pixels `spread` times further apart."""
    parent_path, _, name = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    layer = parent.get_submodule(name)
    if isinstance(layer, ZeroPadShortcut):
        layer.stride //= gave_up
    elif isinstance(layer, nn.Conv2d):
        _change_convolution(parent, layer, gave_up, spread)
    else:
        setattr(parent, name, DilatedPool2d.of(layer, spread))


def _change_convolution(parent: nn.Module, conv: nn.Conv2d, gave_up: int, spread: int) -> None:
    pad = getattr(parent, "pad", None)
    if isinstance(pad, SamePad2d):  # on sides that the stride divides, it pads this much
        left = (pad.kernel_size - pad.stride) // 2
        pad = nn.ZeroPad2d(2 * (left, pad.kernel_size - 1 - left))
    if isinstance(pad, nn.ZeroPad2d):
        left, right, top, bottom = pad.padding
        parent.pad = nn.ZeroPad2d((left * spread, right * spread, top * spread, bottom * spread))
    assert not isinstance(conv.padding, str)  # ConvNormAct pads by numbers
    conv.stride = (conv.stride[0] // gave_up, conv.stride[1] // gave_up)
    conv.dilation = (conv.dilation[0] * spread, conv.dilation[1] * spread)
    conv.padding = (conv.padding[0] * spread, conv.padding[1] * spread)


class DilatedPool2d(nn.Module):
    """A pool of stride 1 whose windows take every `dilation`-th pixel; the map keeps its size.

    Args:
        kernel_size: pixels on a side of the window.
        before: how many pixels above and left of its place a window begins.
        dilation: distance of the pixels that it takes.
        average: whether to average; else the largest is taken.

    Shape:
        (N, C, H, W) -> (N, C, H, W)
    """

    def __init__(self, kernel_size: int, before: int, dilation: int, *, average: bool) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.before = before
        self.dilation = dilation
        left, right = before * dilation, (kernel_size - 1 - before) * dilation
        # A window past the border: a maximum leaves it out, an average counts zeros there.
        self.pad = nn.ConstantPad2d((left, right, left, right), 0.0 if average else -torch.inf)
        self.pool = None if average else nn.MaxPool2d(kernel_size, 1, dilation=dilation)

    @classmethod
    def of(cls, pool: nn.Module, dilation: int) -> "DilatedPool2d":
        """The dilated form of a pool whose stride is given up, or was before."""
        if isinstance(pool, cls):
            average = pool.pool is None
            return cls(pool.kernel_size, pool.before, pool.dilation * dilation, average=average)
        if isinstance(pool, AlignedMaxPool2d):
            return cls(3, 0, dilation, average=False)
        kernel_size, padding = _side(pool.kernel_size), _side(pool.padding)
        return cls(kernel_size, padding, dilation, average=isinstance(pool, nn.AvgPool2d))

    def forward(self, x: Tensor) -> Tensor:
        """Pool around every pixel."""
        x = self.pad(x)
        if self.pool is not None:
            return self.pool(x)
        span = self.dilation * (self.kernel_size - 1)
        shifts = range(0, span + 1, self.dilation)
        height, width = x.shape[-2] - span, x.shape[-1] - span
        rows = torch.stack([x[:, :, i : i + height] for i in shifts]).mean(dim=0)
        return torch.stack([rows[..., i : i + width] for i in shifts]).mean(dim=0)


def _side(size: object) -> int:
    """A square pool's kernel or padding, which PyTorch keeps as a number or as a pair."""
    side = size[0] if isinstance(size, tuple) else size
    assert isinstance(side, int)
    return side


LAYERS = (
    nn.Conv2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    AlignedMaxPool2d,
    DilatedPool2d,
    ZeroPadShortcut,
)
"""What reads pixels around a pixel, or leaves pixels out."""
