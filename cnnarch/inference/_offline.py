"""Import the engines with their telemetry off, and make OpenVINO's Cores.

With telemetry off, an engine uses no network and writes nothing to the home folder.
"""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any, TypeVar

__all__ = ["import_nncf", "import_onnxruntime", "import_openvino", "with_core"]

Result = TypeVar("Result")

# OpenVINO's converter keeps a reference to the telemetry package in each of these.
_CONVERTER = "openvino.tools.ovc."
_USERS = ("convert_impl", "main", "telemetry_utils", "utils")


def import_openvino() -> Any:
    """The module `openvino`, which will neither call home nor write there.

    Both libraries have a stub for machines without the package `openvino_telemetry`. So the
    package is made to look missing for this process, before it is imported. Where somebody has
    imported OpenVINO earlier, the stub is put in afterwards.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    _hide_telemetry()
    import openvino

    if sys.modules.get("openvino_telemetry") is not None:
        from openvino.tools.ovc import telemetry_stub

        for name in _USERS:
            user = sys.modules.get(_CONVERTER + name)
            if user is not None:
                user.tm = telemetry_stub  # type: ignore[attr-defined]
    return openvino


def with_core(call: Callable[[Any], Result]) -> Result:
    """Run `call` with a new `openvino.Core` in a thread that ends before the Core does.

    A Core gives the thread that makes it an alternate stack for signal handlers, and frees that
    stack when the last model compiled by it is deleted. Cores deleted in another order than made
    leave a freed stack in place, and the next signal (Ctrl-C, the exit of a DataLoader worker)
    crashes the process (OpenVINO 2026.4). One Core for the whole process is no alternative: a
    forked process cannot compile while its parent's Core is alive.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    openvino = import_openvino()
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: call(openvino.Core())).result()


def import_nncf() -> Any:
    """The module `nncf`, with its telemetry and OpenVINO's off.

    Raises:
        ImportError: NNCF or OpenVINO is not installed.
    """
    import_openvino()
    import nncf
    from nncf.telemetry.wrapper import telemetry

    if sys.modules.get("openvino_telemetry") is not None:
        telemetry._impl = None  # its events then fail, which NNCF passes over
    return nncf


def import_onnxruntime() -> Any:
    """The module `onnxruntime`, which will neither call home nor leave an identifier there.

    From 1.29 on its Linux and macOS builds do both, unless this variable is set before they are
    loaded (https://github.com/microsoft/onnxruntime/pull/27379). Where somebody has imported it
    earlier, its events are turned off, which is as much as can still be done.

    Raises:
        ImportError: ONNX Runtime is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


def _hide_telemetry() -> None:
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    modules.setdefault("openvino_telemetry", None)  # None makes an import raise ImportError
