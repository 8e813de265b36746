"""The signals that stop training."""

import signal

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
"""Ctrl-C, a request to end, the warning that clusters send before a job's time limit, and the
closing of a terminal."""


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
