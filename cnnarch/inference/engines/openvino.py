"""OpenVINO: Intel's kernels for processors, in float32, bfloat16 and int8."""

import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnnarch.inference._offline import import_openvino, with_core
from cnnarch.inference._tracing import converting
from cnnarch.inference.engines._engine import BySize, Engine, Runner, Source
from cnnarch.inference.quantize import quantize

__all__ = ["OpenVINO"]

_IR = ("model.xml", "model.bin")
_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}


class OpenVINO(Engine):
    """The network as OpenVINO's graph, compiled for the example's shape, and for others on demand.

    Images of the example's shape run in a graph with all sizes fixed, which is up to a quarter
    faster on small networks; other batch sizes share a graph that leaves the batch open. Another
    height or width is converted anew.
    """

    name = "openvino"
    precisions = ("float32", "bfloat16", "int8")
    packages = ("torch", "openvino")
    whole = True

    def missing(self, precision: str, device: torch.device) -> str | None:
        """Not installed, not for this device, or the processor lacks the precision."""
        if device.type != "cpu":
            return f"runs on the CPU, the example is on {device.type}"
        try:
            able = with_core(lambda core: core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        except ImportError as error:
            return f"{error}: pip install 'cnnarch[export]'"
        if precision == "int8" and find_spec("nncf") is None:
            return "NNCF is not installed: pip install 'cnnarch[export]'"
        if precision == "bfloat16" and "BF16" not in able:
            return "this processor has no bfloat16"
        return None

    def seconds(self, layers: int) -> float:
        """Exporting and converting."""
        return 1 + 0.015 * layers

    def build(self, source: Source, precision: str) -> Runner:
        """Convert, or quantise, and compile for the example's shape."""
        if precision == "int8":
            with converting():
                graph = quantize(source.model, source.calibration)
        else:
            graph = _convert(source, source.example.shape[1:])
        return _Runner(source, precision, graph)

    def restore(self, source: Source, precision: str, parts: Mapping[str, bytes]) -> Runner:
        """Compile the graph that was kept."""
        xml, weights = (parts[name] for name in _IR)
        graph = with_core(lambda core: core.read_model(xml, weights))
        return _Runner(source, precision, graph)


class _Runner:
    def __init__(self, source: Source, precision: str, graph: Any) -> None:
        self._ov = import_openvino()
        self._source, self._precision, self._graph = source, precision, graph
        self._open = BySize(source, self._with_open_batch)
        self._shape = tuple(source.example.shape)
        self._fixed = self._compile(graph, self._shape)

    def __call__(self, images: Tensor) -> Tensor:
        shape = images.shape
        compiled = self._fixed if shape == self._shape else self._open[shape[1:]]
        return compiled(images)

    def parts(self) -> dict[str, bytes]:
        with tempfile.TemporaryDirectory() as folder:  # it writes to files only
            self._ov.save_model(self._graph, Path(folder, _IR[0]), compress_to_fp16=False)
            return {name: Path(folder, name).read_bytes() for name in _IR}

    def trim(self) -> None:
        self._open.clear()

    def close(self) -> None:
        self._open.clear()
        del self._fixed, self._graph

    def _with_open_batch(self, size: torch.Size) -> "_Compiled":
        return self._compile(self._graph_for(size), (-1, *size))

    def _graph_for(self, size: torch.Size) -> Any:
        if self._precision == "int8":
            self._source.check_calibrated(size)
        mine = size == self._source.example.shape[1:]
        return self._graph if mine else _convert(self._source, size)

    def _compile(self, graph: Any, shape: tuple[int, ...]) -> "_Compiled":
        graph = graph.clone()
        graph.reshape({0: list(shape)})
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _HINTS[self._precision],
            "INFERENCE_NUM_THREADS": self._source.threads,
            "ENABLE_CPU_PINNING": False,  # workers would all sit on the same cores
        }
        compiled = with_core(lambda core: core.compile_model(graph, "CPU", config))
        return _Compiled(self._ov, compiled)


class _Compiled:
    """A compiled graph and its idle requests; each thread that computes has one of its own."""

    def __init__(self, ov: Any, compiled: Any) -> None:
        self._ov, self._compiled = ov, compiled
        self._idle: list[Any] = []

    def __call__(self, images: Tensor) -> Tensor:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        array = images.detach().contiguous().numpy()
        request.set_input_tensor(self._ov.Tensor(array, shared_memory=True))  # without a copy
        request.infer()
        logits = torch.from_numpy(request.get_output_tensor().data).clone()
        self._idle.append(request)
        return logits


def _convert(source: Source, size: torch.Size) -> Any:
    program = source.program(size)
    with converting():
        return import_openvino().convert_model(program)
