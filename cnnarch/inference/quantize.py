"""int8: a network whose convolutions compute with 8-bit integers, by NNCF for OpenVINO."""

import contextlib
import io
import math
import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnnarch.inference._measure import has_vnni
from cnnarch.inference._offline import import_nncf
from cnnarch.inference._tracing import quiet
from cnnarch.inference.export import to_openvino

__all__ = ["quantize"]

_LEAST = 8
_WITH_WEIGHTS = {"Convolution", "GroupConvolution", "MatMul"}
_CORRECTION_LIMIT = 2**31  # bytes
_CORRECTION_SHARE = 0.2  # of the calibration images, which NNCF corrects biases by


def quantize(
    model: nn.Module,
    calibration: Tensor | Iterable[Tensor],
    *,
    dynamic_size: bool | None = None,
) -> Any:
    """A network in int8, as an `openvino.Model`: what `export` writes, at a quarter of the size.

    Weights and the maps between layers become 8-bit integers, each with a scale; weights have one
    for each output channel. The scales of maps come from what the network makes of the calibration
    images, which need no labels: some hundreds that look like those to come, pre-processed like
    them. The same images give the same model. Nothing is trained. Where the processor has no VNNI,
    weights take half the range, as sums would overflow: make the model where it is to run. NNCF
    corrects biases exactly where that collects at most 2 GiB, and in its quicker way elsewhere.

    `openvino.save_model` writes it, `openvino.compile_model` runs it, and
    `cnnarch.inference.optimize(..., precision="int8")` does all of it.

    Args:
        model: any module from images to logits; it stays as it is. With pre-processing folded
            (`fuse`) calibration images are uint8.
        calibration: images, (N, C, H, W), or batches of them; at least 8 in all.
        dynamic_size: as in `export`.

    Raises:
        TypeError: calibration has something else than batches of images.
        ValueError: too few images, or of several shapes; see also `export`.
        ImportError: NNCF or OpenVINO is missing.
    """
    images = _images(calibration)
    nncf = _nncf()
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    graph = to_openvino(model, images[:2], dynamic_size)
    dataset = nncf.Dataset([image.numpy()[None] for image in images])
    # Layer norms, and the matrix products beside them, lose less by the rules for transformers.
    has_layer_norms = any(isinstance(module, nn.LayerNorm) for module in model.modules())
    with quiet(), _silent(), _same_random_numbers():
        return nncf.quantize(
            graph,
            dataset,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            model_type=nncf.ModelType.TRANSFORMER if has_layer_norms else None,
            # NNCF's quicker correction of biases costs LeNet-5 half a point on Fashion-MNIST; in
            # ResNet-20 and DenseNet-BC-40-12 the two came out within 0.05 points.
            fast_bias_correction=_correction_bytes(graph, images) > _CORRECTION_LIMIT,
            advanced_parameters=AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                # Sums of two products overflow 16 bits where the processor has no VNNI; half the
                # range of the weights does not. Without it LeNet-5 lost half a point there.
                overflow_fix=OverflowFix.FIRST_LAYER if has_vnni() else OverflowFix.ENABLE,
            ),
        )


def _correction_bytes(graph: Any, images: Tensor) -> float:
    """What NNCF's exact correction of biases collects, at most; it drops some on the way.

    For each layer with a bias it keeps the input of all that read what that layer makes, up to
    the next such layer. Where every layer reads all before it that is much: 23 GB in
    DenseNet-121 for 512 images of 32 pixels.
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
    return [place.get_node() for output in op.outputs() for place in output.get_target_inputs()]


def _images(calibration: Tensor | Iterable[Tensor]) -> Tensor:
    """All images as one batch."""
    batches = [calibration] if isinstance(calibration, Tensor) else list(calibration)
    for batch in batches:
        if not isinstance(batch, Tensor) or batch.dim() != 4:
            found = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
            raise TypeError(f"calibration must be images of shape (N, C, H, W), got {found}")
    shapes = {tuple(batch.shape[1:]) for batch in batches}
    if len(shapes) > 1:
        listed = ", ".join(map(str, sorted(shapes)))
        raise ValueError(f"calibration images must have one shape, got {listed}")
    count = sum(map(len, batches))
    if count < _LEAST:
        raise ValueError(f"calibration needs at least {_LEAST} images, got {count}")
    return torch.cat(batches).detach().cpu()


def _nncf() -> Any:
    try:
        return import_nncf()
    except ImportError as error:
        raise ImportError("int8 needs NNCF and OpenVINO: pip install 'cnnarch[export]'") from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """NNCF draws progress bars."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _same_random_numbers() -> Iterator[None]:
    """NNCF draws from Python's and NumPy's; the user's sequences go on as if it had not."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(0)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
