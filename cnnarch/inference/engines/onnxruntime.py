"""ONNX Runtime: float32 on the CPU."""

from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO

import torch
from torch import Tensor

from cnnarch.inference._offline import import_onnxruntime, why_missing
from cnnarch.inference._tracing import isolate_conversion
from cnnarch.inference.engines._engine import EngineBySize, Parts, Workload


class ONNXRuntime(EngineBySize):
    """The network as an ONNX model with a dynamic batch size, re-exported for other image sizes.

    The model stays in memory and must be smaller than 2 GiB, ONNX's limit for a model without
    external data.
    """

    name = "onnxruntime"
    packages = ("torch", "onnxruntime", "onnxscript")
    devices = ("cpu",)
    build_seconds = (1.0, 0.03)
    files = ("model.onnx",)
    keeps_graph = True

    def __init__(self, workload: Workload, precision: str, parts: Parts | None = None) -> None:
        super().__init__(workload, precision, parts)
        self._size = workload.example.shape[1:]
        if not parts:
            self._parts = {self.files[0]: self._export(self._size)}
        self._run = self._start_session(self._parts[self.files[0]])

    @classmethod
    def why_unavailable(cls, precision: str, device: torch.device) -> str | None:
        """Return why ONNX Runtime cannot be used on this machine, or None."""
        if why := super().why_unavailable(precision, device):
            return why
        return why_missing("onnxruntime", "onnxscript")

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits for images of any size that the network accepts."""
        size = images.shape[1:]
        run = self._run if size == self._size else self._for_size(size)
        return run(images)

    def _prepare(self, size: torch.Size) -> Callable[[Tensor], Tensor]:
        return self._start_session(self._export(size))

    def _start_session(self, model: bytes) -> Callable[[Tensor], Tensor]:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.workload.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def run(images: Tensor) -> Tensor:
            array = images.detach().contiguous().numpy()
            return torch.from_numpy(session.run(None, {name: array})[0])

        return run

    def _export(self, size: torch.Size) -> bytes:
        program = self.workload.program(size)
        with isolate_conversion(), redirect_stdout(StringIO()):
            exported = torch.onnx.export(program, dynamo=True, verbose=False)
            assert exported is not None
            return exported.model_proto.SerializeToString()
