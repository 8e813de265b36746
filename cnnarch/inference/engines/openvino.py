"""OpenVINO: Intel's CPU kernels in float32, bfloat16 and int8."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnnarch.inference._offline import import_openvino, why_missing, with_core
from cnnarch.inference._tracing import isolate_conversion
from cnnarch.inference.engines._engine import EngineBySize, Parts, Workload
from cnnarch.inference.quantize import quantize

_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}


class OpenVINO(EngineBySize):
    """The network as an OpenVINO graph, compiled for the example's shape and for others on demand.

    Batches of the example's shape run in a graph with all sizes fixed, which is up to 25% faster
    on small networks. Other batch sizes share a graph with a dynamic batch size. For a different
    height or width, the network is converted again.
    """

    name = "openvino"
    precisions = ("float32", "bfloat16", "int8")
    packages = ("torch", "openvino")
    devices = ("cpu",)
    build_seconds = (1.0, 0.015)
    files = ("model.xml", "model.bin")
    keeps_graph = True

    def __init__(self, workload: Workload, precision: str, parts: Parts | None = None) -> None:
        super().__init__(workload, precision)
        self._shape = workload.example.shape
        if parts:
            xml, weights = (parts[name] for name in self.files)
            self._graph = with_core(lambda core: core.read_model(xml, weights))
        elif precision == "int8":
            with isolate_conversion():
                self._graph = quantize(workload.model, workload.calibration)
        else:
            self._graph = self._convert(self._shape[1:])
        self._run = self._compile(self._graph, self._shape)

    @classmethod
    def why_unavailable(cls, precision: str, device: torch.device) -> str | None:
        """Return why OpenVINO cannot be used on this machine, or None."""
        if why := super().why_unavailable(precision, device):
            return why
        missing = why_missing("openvino", *(["nncf"] if precision == "int8" else []))
        if missing or precision != "bfloat16":
            return missing
        able = with_core(lambda core: core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        return None if "BF16" in able else "this processor does not support bfloat16"

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits for images of any size that the network accepts."""
        run = self._run if images.shape == self._shape else self._for_size(images.shape[1:])
        return run(images)

    def parts(self) -> dict[str, bytes]:
        """Return the graph as OpenVINO IR."""
        with tempfile.TemporaryDirectory() as folder:  # OpenVINO can only write to files
            graph = Path(folder, self.files[0])
            import_openvino().save_model(self._graph, graph, compress_to_fp16=False)
            return {name: Path(folder, name).read_bytes() for name in self.files}

    def _prepare(self, size: torch.Size) -> "_CompiledGraph":
        graph = self._graph if size == self._shape[1:] else self._convert(size)
        return self._compile(graph, (-1, *size))

    def _convert(self, size: torch.Size) -> Any:
        program = self.workload.program(size)
        with isolate_conversion():
            return import_openvino().convert_model(program)

    def _compile(self, graph: Any, shape: tuple[int, ...]) -> "_CompiledGraph":
        graph = graph.clone()
        graph.reshape({0: list(shape)})
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
            "INFERENCE_NUM_THREADS": self.workload.threads,
            "ENABLE_CPU_PINNING": False,  # would pin all worker processes to the same cores
        }
        return _CompiledGraph(with_core(lambda core: core.compile_model(graph, "CPU", config)))


class _CompiledGraph:
    """A compiled graph with a pool of inference requests, from which each call takes one."""

    def __init__(self, compiled: Any) -> None:
        self._compiled, self._idle_requests = compiled, list[Any]()
        self._tensor = import_openvino().Tensor

    def __call__(self, images: Tensor) -> Tensor:
        try:
            request = self._idle_requests.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        array = images.detach().contiguous().numpy()
        request.set_input_tensor(self._tensor(array, shared_memory=True))  # avoids a copy
        request.infer()
        logits = torch.from_numpy(request.get_output_tensor().data).clone()
        self._idle_requests.append(request)
        return logits
