"""Import the inference engines with their telemetry turned off, and create OpenVINO's Cores.

With telemetry off, an engine neither accesses the network nor writes to the home folder.
"""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from types import ModuleType
from typing import Any, TypeVar

Result = TypeVar("Result")

# OpenVINO's converter keeps a reference to the telemetry package in each of these modules.
_CONVERTER = "openvino.tools.ovc."
_TELEMETRY_USERS = ("convert_impl", "main", "telemetry_utils", "utils")


def why_missing(*packages: str) -> str | None:
    """Return a message that names the first missing package, or None if all are installed."""
    for package in packages:
        if find_spec(package) is None:
            return f"{package} is not installed: pip install 'cnnarch[export]'"
    return None


def import_openvino() -> Any:
    """Import `openvino` without its telemetry.

    OpenVINO and NNCF include a stub for machines without the package `openvino_telemetry`. In this
    process that package is made to look missing before anything imports it. If OpenVINO was
    imported earlier, its telemetry is replaced with the stub.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    modules.setdefault("openvino_telemetry", None)  # None makes an import raise ImportError
    import openvino

    if sys.modules.get("openvino_telemetry") is not None:
        from openvino.tools.ovc import telemetry_stub

        for name in _TELEMETRY_USERS:
            user = sys.modules.get(_CONVERTER + name)
            if user is not None:
                user.tm = telemetry_stub  # type: ignore[attr-defined]
    return openvino


def with_core(call: Callable[[Any], Result]) -> Result:
    """Pass a new `openvino.Core` to `call` in a thread that ends before the Core is deleted.

    A Core installs an alternate signal stack in the thread that creates it, and frees that stack
    when the last model that it compiled is deleted. If Cores are not deleted in the order in which
    they were created, a freed stack stays installed, and the next signal (Ctrl-C, the exit of a
    DataLoader worker) crashes the process (OpenVINO 2026.4). A single Core for the whole process
    does not work either: a forked process cannot compile while its parent's Core is alive.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    openvino = import_openvino()
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: call(openvino.Core())).result()


def import_nncf() -> Any:
    """Import `nncf` with its telemetry and OpenVINO's turned off.

    Raises:
        ImportError: NNCF or OpenVINO is not installed.
    """
    import_openvino()
    import nncf
    from nncf.telemetry.wrapper import telemetry

    if sys.modules.get("openvino_telemetry") is not None:
        telemetry._impl = None  # sending an event then fails, and NNCF ignores the failure
    return nncf


def import_onnxruntime() -> Any:
    """Import `onnxruntime` without its telemetry.

    From version 1.29, the Linux and macOS builds send events and write an identifier to the home
    folder unless ORT_DISABLE_TELEMETRY is set before they are loaded
    (https://github.com/microsoft/onnxruntime/pull/27379). If the package was imported earlier, only
    its events can be turned off.

    Raises:
        ImportError: ONNX Runtime is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime
