"""The signals that stop training, and how a run waits for the end of a step before it stops."""

import signal
import threading
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
"""Ctrl-C, a request to end, the warning that clusters send before a job's time limit, and the
closing of a terminal."""


class TrainingStopped(InterruptedError):  # noqa: N818 (not an error)
    """Raised when Ctrl-C or another signal stops training, after the step and its checkpoint.

    Args:
        number: signal number.
        epoch: the current epoch, counted from 1.
        step: the last batch that was trained on, counted from 1.
    """

    def __init__(self, number: int, epoch: int, step: int) -> None:
        name = signal.Signals(number).name
        super().__init__(
            f"stopped by {name} in epoch {epoch} after step {step}; resume to continue"
        )
        self.status = 128 + number


class StopSignals:
    """A context manager that records the signals that stop training instead of obeying them.

    A second Ctrl-C stops immediately. Python allows handlers only in the main thread; in others,
    nothing is recorded.
    """

    def __init__(self) -> None:
        self.received = 0
        """The number of the last signal; 0 if there was none."""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in stopping_signals():
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _receive(self, number: int, _frame: Any) -> None:
        self.received = number
        signal.signal(signal.SIGINT, signal.default_int_handler)


def stopping_signals() -> list[signal.Signals]:
    """Return the signals that stop training, without SIGHUP if it is ignored, as under nohup.

    Windows lacks some of the signals.
    """
    known = [signal.Signals[name] for name in NAMES if name in signal.Signals.__members__]
    return [n for n in known if n.name != "SIGHUP" or signal.getsignal(n) is not signal.SIG_IGN]


def ignore_signals(_worker: int) -> None:
    """Ignore the signals in a worker process; the training process ends its workers itself.

    Terminals and clusters send a signal to all processes of a run. A worker that it stopped would
    make the current step fail.
    """
    for number in stopping_signals():
        signal.signal(number, signal.SIG_IGN)
