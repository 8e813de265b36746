"""Quantize a network's layers to 8-bit integers with NNCF, for OpenVINO."""

import io
import math
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnnarch.inference._measure import has_vnni
from cnnarch.inference._offline import import_nncf, why_missing
from cnnarch.inference._tracing import default_device, suppress_messages
from cnnarch.inference.export import to_openvino

__all__ = ["quantize"]

_MIN_IMAGES = 8
_WITH_WEIGHTS = {"Convolution", "GroupConvolution", "MatMul"}
_CORRECTION_LIMIT = 2**31  # bytes
_CORRECTION_SHARE = 0.2  # fraction of the calibration images that NNCF uses for bias correction


def quantize(
    model: nn.Module,
    calibration: Tensor | Iterable[Tensor],
    *,
    dynamic_size: bool | None = None,
) -> Any:
    """Return a network in int8 as an `openvino.Model`, a quarter of its float32 size.

    Weights and the maps between layers become 8-bit integers with a scale; weights have one scale
    per output channel. The scales of the maps are computed from calibration images, which need no
    labels: a few hundred that resemble the images to classify, preprocessed in the same way. The
    same images always yield the same model. Nothing is trained. On a processor without VNNI, the
    weights use only half the range because sums would otherwise overflow, so quantize on the
    machine that will run the model. NNCF uses accurate bias correction if it needs at most 2 GiB
    of memory, and fast bias correction otherwise.

    OpenVINO's int8 kernels run on CPUs. A network on a GPU is copied to the CPU first.

    `openvino.save_model` writes the model and `openvino.compile_model` prepares it to run.
    `cnnarch.inference.optimize(..., precision="int8")` also compiles and checks it.

    Args:
        model: any module that maps images to logits; left unchanged. If preprocessing is folded
            into it (`fuse`), the calibration images are uint8.
        calibration: images, (N, C, H, W), or batches of them; at least 8 in total.
        dynamic_size: as in `export`.

    Raises:
        TypeError: calibration contains something other than batches of images.
        ValueError: there are too few images, or their shapes differ; see also `export`.
        ImportError: NNCF or OpenVINO is not installed.
    """
    images = _concatenate(calibration)
    if missing := why_missing("nncf", "openvino"):
        raise ImportError(f"int8 needs NNCF and OpenVINO: {missing}")
    nncf = import_nncf()
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    graph = to_openvino(model, images[:2], dynamic_size)
    dataset = nncf.Dataset([image.numpy()[None] for image in images])
    # NNCF's transformer settings lose less accuracy around layer norms and matrix products.
    has_layer_norms = any(isinstance(module, nn.LayerNorm) for module in model.modules())
    progress_bars = io.StringIO()
    with (
        default_device(torch.device("cpu")),
        suppress_messages(),
        redirect_stdout(progress_bars),
        redirect_stderr(progress_bars),
        _fixed_seed(),
    ):
        return nncf.quantize(
            graph,
            dataset,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            model_type=nncf.ModelType.TRANSFORMER if has_layer_norms else None,
            # NNCF's fast bias correction costs LeNet-5 half a point on Fashion-MNIST. For ResNet-20
            # and DenseNet-BC-40-12 the two methods differ by at most 0.05 points.
            fast_bias_correction=_correction_bytes(graph, images) > _CORRECTION_LIMIT,
            advanced_parameters=AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                # Without VNNI, sums of two products overflow 16 bits unless the weights use half
                # the range. The overflow cost LeNet-5 half a point.
                overflow_fix=OverflowFix.FIRST_LAYER if has_vnni() else OverflowFix.ENABLE,
            ),
        )


def _correction_bytes(graph: Any, images: Tensor) -> float:
    """Return an upper bound on the memory that NNCF's accurate bias correction needs, in bytes.

    For each layer with a bias, NNCF stores the inputs of the next layers with a bias along all
    paths from its output. If every layer reads the outputs of all earlier layers, the total is
    large: 23 GB for DenseNet-121 and 512 images of 32 x 32 pixels.
    """
    graph = graph.clone()
    graph.reshape([1, *images.shape[1:]])
    layers = {op.get_friendly_name(): op for op in graph.get_ops() if _has_bias(op)}
    values = 0
    for layer in layers.values():
        seen: set[str] = set()
        ahead = _readers(layer)
        while ahead:
            op = ahead.pop()
            name = op.get_friendly_name()
            if name not in seen and name in layers:
                values += math.prod(op.input(0).get_shape())
            elif name not in seen:
                ahead += _readers(op)
            seen.add(name)
    return 4 * values * _CORRECTION_SHARE * len(images)


def _has_bias(op: Any) -> bool:
    if op.get_type_name() not in _WITH_WEIGHTS:
        return False
    added = [reader for reader in _readers(op) if reader.get_type_name() == "Add"]
    terms = [value.get_node().get_type_name() for op in added for value in op.input_values()]
    return "Constant" in terms


def _readers(op: Any) -> list[Any]:
    return [target.get_node() for output in op.outputs() for target in output.get_target_inputs()]


def _concatenate(calibration: Tensor | Iterable[Tensor]) -> Tensor:
    """Return all images as one batch."""
    batches = [calibration] if isinstance(calibration, Tensor) else list(calibration)
    for batch in batches:
        if not isinstance(batch, Tensor) or batch.dim() != 4:
            found = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
            raise TypeError(f"calibration must be images of shape (N, C, H, W), got {found}")
    shapes = sorted({tuple(batch.shape[1:]) for batch in batches})
    if len(shapes) > 1:
        listed = ", ".join(map(str, shapes))
        raise ValueError(f"calibration images must have the same shape, got {listed}")
    count = sum(map(len, batches))
    if count < _MIN_IMAGES:
        raise ValueError(f"calibration needs at least {_MIN_IMAGES} images, got {count}")
    return torch.cat([batch.detach().cpu() for batch in batches])


@contextmanager
def _fixed_seed() -> Iterator[None]:
    """Seed Python's and NumPy's random generators, which NNCF uses, then restore them."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(0)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
