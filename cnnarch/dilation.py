"""Replace strides with dilated kernels to keep deep maps large (the "à trous" algorithm).

When a layer's stride is reduced by a factor of k, the kernels of all later layers are dilated by
k. The dilated network computes the pixels of the original map and new pixels between them, so
taking every k-th pixel of its map gives the original map.

Source: Chen et al., "Semantic Image Segmentation with Deep Convolutional Nets and Fully
Connected CRFs", arXiv 1412.7062, sec. 3.1.
"""

import torch
from torch import Tensor, nn

from cnnarch.analysis import stage_shapes
from cnnarch.blocks._wrappers import unwrapped
from cnnarch.blocks.pooling import AlignedMaxPool2d
from cnnarch.blocks.same_padding import SamePad2d
from cnnarch.blocks.shortcut import ZeroPadShortcut
from cnnarch.contract.trunk import Trunk, as_trunk

__all__ = ["DilatedPool2d", "dilate"]


def dilate(model: Trunk, output_stride: int) -> None:
    """Limit every map's stride to `output_stride` by dilating kernels, in place.

    The weights stay unchanged. Map sizes are exact for images whose sides are multiples of the
    network's stride, plus the pixels that an unpadded stem removes. If a map's stride shrinks by
    a factor of k, taking every k-th pixel of the new map gives the original map. In networks with
    attention, such as SE, or with GRN or GroupNorm, the maps match only approximately, because
    these also read the new pixels. In networks with unpadded layers after the stem, such as
    Inception v3 and AlexNet, pixels near the bottom and right borders differ.

    Args:
        model: a network or a backbone.
        output_stride: 8, 16 or 32.

    Raises:
        TypeError: `model` is neither a network nor a backbone.
        ValueError: `output_stride` is not 8, 16 or 32, or is below the stem's stride.
    """
    model = as_trunk(model)
    if not isinstance(output_stride, int) or output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride!r}")
    stem = model.feature_info[0].stride
    if stem > output_stride:
        raise ValueError(f"output_stride {output_stride} is below the stem's stride of {stem}")
    if model.feature_info[-1].stride <= output_stride:
        return
    for path, stride in _output_strides(model).items():
        if stride > output_stride:
            _limit_stride(model, path, stride, output_stride)
    model.conversions = (*model.conversions, ("dilate", output_stride))


def _output_strides(model: Trunk) -> dict[str, int]:
    """Return the output stride of each stem and stage layer, found by comparing two image sizes."""
    sides = (model.min_input_size + 256, model.min_input_size + 512)
    small, large = (stage_shapes(model, (model.in_channels, side, side)) for side in sides)
    strides = {}
    for path, shape in large.items():
        paths = path, path.rpartition(".")[0]
        layer, parent = (unwrapped(model.get_submodule(p)) for p in paths)
        in_trunk = path.partition(".")[0] in ("stem", "stages")
        if in_trunk and isinstance(layer, LAYERS) and not isinstance(parent, LAYERS):
            growth = shape[-1] - small[path][-1]
            if growth:  # SE's 1x1 maps do not grow with the image
                strides[path] = 256 // growth
    return strides


def _limit_stride(model: nn.Module, path: str, stride: int, output_stride: int) -> None:
    """Dilate a layer to reduce its output stride from `stride` to `output_stride`."""
    parent_path, _, name = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    layer = unwrapped(parent.get_submodule(name))  # it may be compiled
    dilation = max(1, stride // _stride_of(layer) // output_stride)
    stride_factor = stride // output_stride // dilation
    if isinstance(layer, ZeroPadShortcut):
        layer.stride //= stride_factor
    elif isinstance(layer, nn.Conv2d):
        _dilate_convolution(parent, layer, stride_factor, dilation)
    else:
        setattr(parent, name, DilatedPool2d.of(layer, dilation).train(layer.training))


def _stride_of(layer: nn.Module) -> int:
    if isinstance(layer, DilatedPool2d):
        return 1
    return _side(layer.pool.stride if isinstance(layer, AlignedMaxPool2d) else layer.stride)


def _dilate_convolution(
    parent: nn.Module, conv: nn.Conv2d, stride_factor: int, dilation: int
) -> None:
    pad = unwrapped(getattr(parent, "pad", None))
    if isinstance(pad, SamePad2d):  # equivalent if the stride divides the map's side
        left = (pad.kernel_size - pad.stride) // 2
        pad = nn.ZeroPad2d(2 * (left, pad.kernel_size - 1 - left))
    if isinstance(pad, nn.ZeroPad2d):
        left, right, top, bottom = (dilation * side for side in pad.padding)
        parent.pad = nn.ZeroPad2d((left, right, top, bottom))
    assert not isinstance(conv.padding, str)  # ConvNormAct uses numeric padding
    span = conv.dilation[0] * (conv.kernel_size[0] - 1)
    missing = (span - 2 * conv.padding[0]) * dilation
    if pad is None and stride_factor > 1 and missing:  # with stride 1, the map would lose pixels
        _insert_before(parent, conv, nn.ZeroPad2d((0, missing, 0, missing)))
    conv.stride = (conv.stride[0] // stride_factor, conv.stride[1] // stride_factor)
    conv.dilation = (conv.dilation[0] * dilation, conv.dilation[1] * dilation)
    conv.padding = (conv.padding[0] * dilation, conv.padding[1] * dilation)


def _insert_before(parent: nn.Module, layer: nn.Module, pad: nn.Module) -> None:
    """Add `pad` to an `nn.Sequential`, immediately before `layer`."""
    assert isinstance(parent, nn.Sequential)  # its children run in order
    for name, module in list(parent.named_children()):
        if module is layer:
            parent.pad = pad
        parent._modules[name] = parent._modules.pop(name)


class DilatedPool2d(nn.Module):
    """A stride-1 pool whose windows read every `dilation`-th pixel, preserving the map's size.

    Args:
        kernel_size: number of pixels read along each side of the window.
        before: number of pixels read above and to the left of the output pixel.
        dilation: distance between the pixels read.
        average: whether to return the average instead of the maximum.
        count_include_pad: whether averages count the padding as zeros.

    Shape:
        (N, C, H, W) -> (N, C, H, W)
    """

    def __init__(
        self,
        kernel_size: int,
        before: int,
        dilation: int,
        *,
        average: bool,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.before = before
        self.dilation = dilation
        self.count_include_pad = count_include_pad
        left, right = before * dilation, (kernel_size - 1 - before) * dilation
        # Averages count padding pixels as zeros, unless they are corrected; maxima ignore them.
        self.pad = nn.ConstantPad2d((left, right, left, right), 0.0 if average else -torch.inf)
        self.pool = None if average else nn.MaxPool2d(kernel_size, 1, dilation=dilation)

    @classmethod
    def of(cls, pool: nn.Module, dilation: int) -> "DilatedPool2d":
        """Return a stride-1 version of `pool` that reads pixels `dilation` times as far apart."""
        if isinstance(pool, cls):
            return cls(
                pool.kernel_size,
                pool.before,
                pool.dilation * dilation,
                average=pool.pool is None,
                count_include_pad=pool.count_include_pad,
            )
        if isinstance(pool, AlignedMaxPool2d):
            return cls(3, 0, dilation, average=False)
        kernel_size, padding = _side(pool.kernel_size), _side(pool.padding)
        average = isinstance(pool, nn.AvgPool2d)
        counts = bool(getattr(pool, "count_include_pad", True))
        return cls(kernel_size, padding, dilation, average=average, count_include_pad=counts)

    def forward(self, x: Tensor) -> Tensor:
        """Pool around every pixel."""
        if self.pool is not None:
            return self.pool(self.pad(x))
        average = self._average(self.pad(x))
        if self.count_include_pad:
            return average
        return average / self._average(self.pad(torch.ones_like(x[:1, :1])))  # share of the image

    def _average(self, x: Tensor) -> Tensor:
        span = self.dilation * (self.kernel_size - 1)
        shifts = range(0, span + 1, self.dilation)
        height, width = x.shape[-2] - span, x.shape[-1] - span
        rows = torch.stack([x[:, :, i : i + height] for i in shifts]).mean(dim=0)
        return torch.stack([rows[..., i : i + width] for i in shifts]).mean(dim=0)


def _side(size: object) -> int:
    """Return the side length of a square, which PyTorch stores as an integer or a pair."""
    side = size[0] if isinstance(size, tuple) else size
    assert isinstance(side, int)
    return side


POOLS = (nn.MaxPool2d, nn.AvgPool2d, AlignedMaxPool2d, DilatedPool2d)
LAYERS = (*POOLS, nn.Conv2d, ZeroPadShortcut)
"""Layer types that `dilate` modifies."""
