"""A network as a graph that other engines read."""

import logging
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from cnnarch.blocks.conv import SamePad2d
from cnnarch.contract.trunk import Trunk
from cnnarch.inference.fuse import PixelConv

__all__ = ["converting", "example_for", "has_free_size", "quiet", "trace"]

_converting = threading.RLock()
_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def _new_lock() -> None:
    global _converting
    _converting = threading.RLock()


if hasattr(os, "register_at_fork"):  # a thread that holds the lock is not there in a child
    os.register_at_fork(after_in_child=_new_lock)


@contextmanager
def converting() -> Iterator[None]:
    """While exporters and compilers run: what they write goes when they are done.

    Torch makes its cache where these variables say. Loaded code stays after its file has gone.
    """
    with quiet(), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
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
    """The graph of a network for batches of any size, and images of any size if `free_size`.

    Args:
        model: in eval mode.
        example: images, (N, C, H, W), at least two, as one would be taken for a constant.
        free_size: whether height and width are free, too.

    Raises:
        ValueError: PyTorch cannot export the network, or not with sizes that are free.
    """
    axes = (0, 2, 3) if free_size else (0,)
    dynamic = (dict.fromkeys(axes, Dim.DYNAMIC),)
    # Obliviously: else a graph traced where maps have two pixels refuses maps of one pixel.
    with converting(), torch.no_grad(), _config.patch(backed_size_oblivious=free_size):  # type: ignore[attr-defined]
        try:
            return torch.export.export(model, (example,), dynamic_shapes=dynamic)
        except Exception as error:  # whatever the model's code and torch.export raise
            free = "batch, height and width" if free_size else "the batch"
            raise ValueError(
                f"torch.export cannot trace {type(model).__name__} at {tuple(example.shape)} with "
                f"{free} free: {error}"
            ) from error


def has_free_size(model: nn.Module) -> bool:
    """Whether a network says that it takes images of any size; others than cnnarch's do not.

    TensorFlow's padding depends on the size, and one such layer behind another makes terms that
    tracing does not come to the end of.
    """
    if not isinstance(model, Trunk) or model.fixed_input_size:
        return False
    return not any(isinstance(module, SamePad2d) for module in model.modules())


def example_for(model: nn.Module, free_size: bool) -> Tensor:
    """Two images of a size whose last map has at least 2x2 pixels, as tracing needs.

    Raises:
        TypeError: the model does not say what it takes, or takes more than one size and the graph
            will not.
    """
    if not isinstance(model, Trunk):
        raise TypeError(f"{type(model).__name__} does not say what images it takes: pass example")
    height = width = model.min_input_size
    if free_size:
        stride = model.feature_info[-1].stride
        height, width = height + stride, width + 2 * stride
    elif not model.fixed_input_size:
        raise TypeError("height and width are not free here: pass example, an image of that size")
    shape = (2, model.in_channels, height, width)
    like = next(model.parameters())
    if any(isinstance(module, PixelConv) for module in model.modules()):
        return torch.zeros(shape, dtype=torch.uint8, device=like.device)
    return torch.zeros(shape, dtype=like.dtype, device=like.device)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what exporters and converters warn of: users can do nothing about it.

    This and they themselves change the state of the whole process, so one runs at a time, and
    what other threads warn of or log meanwhile below errors is lost, too.
    """
    with _converting, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)
