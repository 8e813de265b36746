"""The engines with their telemetry off: no network, nothing written to the home folder."""

import os
import sys
from functools import cache
from types import ModuleType
from typing import Any

__all__ = ["import_nncf", "import_onnxruntime", "import_openvino", "openvino_core"]

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


@cache
def openvino_core() -> Any:
    """The `openvino.Core` of this process, which is never taken down.

    A core gives its thread a stack for signal handlers, and frees it when it goes (OpenVINO
    2026.4). Where several go in another order than they came, the stack of one that is gone is
    put back, and the next signal ends the process: Ctrl-C, or the exit of a DataLoader's worker.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    return import_openvino().Core()


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
