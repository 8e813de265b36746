"""The engines that can run a network, ordered from the cheapest to the most expensive to try."""

from cnnarch.inference.engines._engine import Engine, Parts, Workload
from cnnarch.inference.engines.cuda_graph import (
    AutotunedCUDAGraph,
    ContiguousCUDAGraph,
    CUDAGraph,
    InductorCUDAGraph,
)
from cnnarch.inference.engines.eager import ContiguousEager, Eager, PlainEager
from cnnarch.inference.engines.inductor import Inductor
from cnnarch.inference.engines.onnxruntime import ONNXRuntime
from cnnarch.inference.engines.openvino import OpenVINO

__all__ = ["ENGINES", "Engine", "Parts", "PlainEager", "Workload", "find_engine"]

_ALL: tuple[type[Engine], ...] = (
    *(Eager, ContiguousEager, CUDAGraph, ContiguousCUDAGraph),
    *(OpenVINO, ONNXRuntime),
    *(Inductor, InductorCUDAGraph, AutotunedCUDAGraph),
)
ENGINES: dict[str, type[Engine]] = {engine.name: engine for engine in _ALL}


def find_engine(name: str) -> type[Engine]:
    """Return the engine with this name, which may be "plain"; KeyError if there is none."""
    return PlainEager if name == PlainEager.name else ENGINES[name]
