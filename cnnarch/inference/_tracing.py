"""Trace a network into a graph that other engines can read."""

import logging
import os
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from cnnarch.blocks.mixer import LayerNorm2d
from cnnarch.blocks.same_padding import SamePad2d
from cnnarch.contract.trunk import Trunk
from cnnarch.facts.builders import BUILDERS
from cnnarch.facts.sheets import facts_of
from cnnarch.inference.fuse import PixelConv

_conversion_lock = threading.RLock()
_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def _replace_lock() -> None:
    global _conversion_lock
    _conversion_lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # the thread holding the lock does not exist in a child process
    os.register_at_fork(after_in_child=_replace_lock)


@contextmanager
def default_device(device: torch.device) -> Iterator[None]:
    """Create tensors on this device, even if the caller has chosen another default device.

    PyTorch's exporters and compilers create tensors without specifying a device.
    """
    if torch.get_default_device() == device:
        yield  # entering the device's context would slow down every operation
    else:
        with device:
            yield


@contextmanager
def suppress_messages() -> Iterator[None]:
    """Suppress the warnings and logs of exporters and converters, which users cannot act on.

    These settings apply to the whole process, so only one thread converts at a time, and other
    threads' warnings and log messages below the error level are lost in the meantime.
    """
    with _conversion_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)


@contextmanager
def isolate_conversion() -> Iterator[None]:
    """Suppress the messages of exporters and compilers, and delete their files afterwards.

    PyTorch writes its caches to the folders named by the variables in `_CACHES`. Code that is
    already loaded still works after its file is deleted.
    """
    with suppress_messages(), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        before = {name: os.environ.get(name) for name in _CACHES}
        os.environ.update(dict.fromkeys(_CACHES, folder))
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def trace(model: nn.Module, example: Tensor, free_size: bool) -> ExportedProgram:
    """Return a network's graph with a dynamic batch size and, if `free_size`, any image size.

    Args:
        model: in eval mode.
        example: at least two images, (N, C, H, W): a batch size of 1 would become a constant.
        free_size: whether height and width are also dynamic.

    Raises:
        ValueError: PyTorch cannot export the network with these dynamic sizes.
    """
    axes = (0, 2, 3) if free_size else (0,)
    dynamic = (dict.fromkeys(axes, Dim.DYNAMIC),)
    # Without this option, a graph traced with two-pixel maps rejects one-pixel maps.
    option = _config.patch(backed_size_oblivious=free_size)  # type: ignore[attr-defined]
    norms = [m for m in model.modules() if isinstance(m, LayerNorm2d)] if free_size else []
    with isolate_conversion(), torch.no_grad(), option, _contiguous_outputs(norms):
        try:
            return torch.export.export(model, (example,), dynamic_shapes=dynamic)
        except Exception as error:  # anything that the model's code or torch.export raises
            sizes = "batch size, height and width" if free_size else "batch size"
            raise ValueError(
                f"torch.export cannot trace {type(model).__name__} at {tuple(example.shape)} with "
                f"dynamic {sizes}: {error}"
            ) from error


@contextmanager
def _contiguous_outputs(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Make the maps of layers contiguous.

    With dynamic sizes, a convolution of a map whose channels are adjacent in memory would make the
    graph reject batches of one image.
    """
    hooks = [layer.register_forward_hook(_contiguous) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _contiguous(_layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.contiguous()


def has_free_size(model: nn.Module) -> bool:
    """Return whether this is a cnnarch network whose graph can have a dynamic image size.

    TensorFlow's "same" padding depends on the image size. Several layers with it in sequence
    produce expressions so complex that tracing never finishes.
    """
    if not isinstance(model, Trunk) or model.fixed_input_size:
        return False
    return not any(isinstance(module, SamePad2d) for module in model.modules())


def example_for(model: nn.Module, free_size: bool) -> Tensor:
    """Return two images to trace with; if `free_size`, the last map has at least 2x2 pixels.

    Raises:
        TypeError: the model does not define its input size, or it was not created by a builder,
            accepts several sizes and `free_size` is False.
    """
    if not isinstance(model, Trunk):
        raise TypeError(f"{type(model).__name__} does not define its input size: pass example")
    height = width = model.min_input_size
    if free_size:
        stride = model.feature_info[-1].stride
        height, width = height + stride, width + 2 * stride
    elif not model.fixed_input_size:
        height, width = _usual_size(model)
    shape = (2, model.in_channels, height, width)
    like = next(model.parameters())
    dtype = torch.uint8 if reads_pixels(model) else like.dtype
    return torch.zeros(shape, dtype=dtype, device=like.device)


def reads_pixels(model: nn.Module) -> bool:
    """Return whether preprocessing is folded into the network, so that it accepts uint8 images."""
    return any(isinstance(module, PixelConv) for module in model.modules())


def _usual_size(model: Trunk) -> tuple[int, int]:
    """Return the image size of the network's preprocessing or, without one, of its paper."""
    preprocessing = getattr(model, "preprocessing", None)
    if preprocessing is not None:
        return preprocessing.crop_size, preprocessing.crop_size
    if model.builder not in BUILDERS:
        raise TypeError("height and width are fixed here: pass example, an image of that size")
    _, height, width = facts_of(model.builder).forms[0].input_size
    return height, width
