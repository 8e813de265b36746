"""A process that imports libraries once and runs code in its own forks.

Tests of signals and of distributed runs need their own processes. Forking avoids importing torch
and Lightning again, which would take most of the time.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import cnnarch

ROOT = Path(cnnarch.__file__).parents[1]

SERVER = """
import json, os, sys, traceback
leave = os._exit  # skips the cleanup of imported libraries, which takes a second
exec(sys.argv[1])
for line in sys.stdin:
    children = []
    for order in json.loads(line):
        if child := os.fork():
            children.append(child)
            continue
        for descriptor, path in ((1, order["out"]), (2, order["err"])):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
        os.chdir(order["folder"])
        os.environ.update(order["environment"])
        status = 0
        try:
            exec(order["code"], {"__name__": "__main__"})
        except SystemExit as stop:
            status = stop.code
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        leave(status)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(statuses), flush=True)
leave(0)
"""


class ForkResult(NamedTuple):
    """The result of a process."""

    status: int
    out: str
    err: str


class Forks:
    """Run code in forks of a process.

    Args:
        folder: folder for the output files of the forks.
        before: code that the process runs once. The forks inherit its imports.
    """

    def __init__(self, folder: Path, before: str) -> None:
        self.folder, self.count = folder, 0
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER, before],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str, *environments: dict[str, str], cwd: Path = ROOT) -> list[ForkResult]:
        """Run code in one process per environment at the same time, and wait for all of them.

        Args:
            code: Python code.
            *environments: environment variables, one dict per process. If none are given, a single
                process is run.
            cwd: working directory.
        """
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        orders: list[dict[str, Any]] = []
        for environment in environments or ({},):
            self.count += 1
            out, err = (str(self.folder / f"{self.count}.{end}") for end in ("out", "err"))
            order = {"code": code, "environment": environment, "folder": str(cwd)}
            orders.append({**order, "out": out, "err": err})
        self.server.stdin.write(json.dumps(orders) + "\n")
        self.server.stdin.flush()
        statuses = json.loads(self.server.stdout.readline())
        return [
            ForkResult(status, Path(order["out"]).read_text(), Path(order["err"]).read_text())
            for status, order in zip(statuses, orders, strict=True)
        ]

    def close(self) -> None:
        """Stop the server process."""
        self.server.communicate(timeout=60)
