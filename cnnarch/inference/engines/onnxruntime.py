"""ONNX Runtime: float32 on the CPU."""

from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from typing import Any

import torch
from torch import Tensor

from cnnarch.inference._offline import import_onnxruntime
from cnnarch.inference._tracing import converting
from cnnarch.inference.engines._engine import BySize, Engine, Runner, Source

__all__ = ["ONNXRuntime"]

_ONNX = "model.onnx"


class ONNXRuntime(Engine):
    """The network as an ONNX model with an open batch; another height or width is exported anew.

    The model stays in memory and must be smaller than 2 GiB, which is what its format can hold
    in one piece.
    """

    name = "onnxruntime"
    packages = ("torch", "onnxruntime", "onnxscript")
    whole = True

    def missing(self, precision: str, device: torch.device) -> str | None:  # noqa: ARG002
        """Not installed or not for this device."""
        if device.type != "cpu":
            return f"runs on the CPU, the example is on {device.type}"
        try:
            import_onnxruntime()
            import_module("onnxscript")  # which the exporter needs
        except ImportError as error:
            return f"{error}: pip install 'cnnarch[export]'"
        return None

    def seconds(self, layers: int) -> float:
        """Exporting, and the exporter's own passes."""
        return 1 + 0.03 * layers

    def build(self, source: Source, precision: str) -> Runner:  # noqa: ARG002
        """Export and start a session."""
        return _Runner(source, _export(source, source.example.shape[1:]))

    def restore(
        self,
        source: Source,
        precision: str,  # noqa: ARG002
        parts: Mapping[str, bytes],
    ) -> Runner:
        """Start a session for the model that was kept."""
        return _Runner(source, parts[_ONNX])


class _Runner:
    def __init__(self, source: Source, model: bytes) -> None:
        self._source, self._model = source, model
        self._size = source.example.shape[1:]
        self._session = self._start(model)
        self._name = self._session.get_inputs()[0].name
        self._others = BySize(source, lambda size: self._start(_export(source, size)))

    def __call__(self, images: Tensor) -> Tensor:
        size = images.shape[1:]
        session = self._session if size == self._size else self._others[size]
        array = images.detach().contiguous().numpy()
        return torch.from_numpy(session.run(None, {self._name: array})[0])

    def parts(self) -> dict[str, bytes]:
        return {_ONNX: self._model}

    def trim(self) -> None:
        self._others.clear()

    def close(self) -> None:
        self._others.clear()
        del self._session, self._model

    def _start(self, model: bytes) -> Any:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._source.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _export(source: Source, size: torch.Size) -> bytes:
    program = source.program(size)
    with converting(), redirect_stdout(StringIO()):
        exported = torch.onnx.export(program, dynamo=True, verbose=False)
        assert exported is not None
        return exported.model_proto.SerializeToString()
