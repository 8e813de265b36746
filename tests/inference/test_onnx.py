"""ONNX files: PyTorch's older exporter, float16 and opsets, run by ONNX Runtime."""

import io
import warnings
from collections.abc import Iterable

import onnxruntime
import pytest
import torch
from torch import Tensor

from cnnarch.testing import assert_close, example_images
from tests.small_forms import MODULES, calibrated, small_forms


def first_forms() -> Iterable[str]:
    """Return the name of one small form of each family."""
    families = [module.removeprefix("test_") for module in MODULES]
    return [next(name for name in small_forms() if name.split("-")[0] == f) for f in families]


def run_onnx(content: bytes, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


@pytest.mark.parametrize("form", first_forms())
def test_the_exporter_without_dynamo_supports_every_family(form: str) -> None:
    model = calibrated(small_forms()[form])
    images = example_images(model)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is deprecated
        torch.onnx.export(model, (images,), file, dynamo=False)
    with torch.no_grad():
        assert_close(run_onnx(file.getvalue(), images), model(images), 1e-4)
