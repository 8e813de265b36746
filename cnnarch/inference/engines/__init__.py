"""The engines that can run a network, the cheapest to try first."""

from cnnarch.inference.engines._engine import Engine, Runner, Source
from cnnarch.inference.engines.eager import Eager, Plain
from cnnarch.inference.engines.inductor import Inductor
from cnnarch.inference.engines.onnxruntime import ONNXRuntime
from cnnarch.inference.engines.openvino import OpenVINO

__all__ = ["ENGINES", "PLAIN", "Engine", "Runner", "Source"]

PLAIN: Engine = Plain()
_ALL: tuple[Engine, ...] = (Eager(), OpenVINO(), ONNXRuntime(), Inductor())
ENGINES: dict[str, Engine] = {engine.name: engine for engine in _ALL}
