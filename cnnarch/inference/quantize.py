"""int8: a network whose convolutions compute with 8-bit integers, by NNCF for OpenVINO."""

import contextlib
import io
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
from cnnarch.models.mlp_mixer import MLPMixer

__all__ = ["quantize"]

_LEAST = 8


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
    weights take half the range, as sums would overflow: make the model where it is to run.

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
    # The Mixer's matrix products and layer norms lose less by the rules for transformers.
    is_mixer = isinstance(model, MLPMixer)
    with quiet(), _silent(), _same_random_numbers():
        return nncf.quantize(
            graph,
            dataset,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            model_type=nncf.ModelType.TRANSFORMER if is_mixer else None,
            # NNCF's quicker correction of biases costs LeNet-5 half a point on Fashion-MNIST.
            fast_bias_correction=False,
            advanced_parameters=AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                # Sums of two products overflow 16 bits where the processor has no VNNI; half the
                # range of the weights does not. Without it LeNet-5 lost half a point there.
                overflow_fix=OverflowFix.FIRST_LAYER if has_vnni() else OverflowFix.ENABLE,
            ),
        )


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
