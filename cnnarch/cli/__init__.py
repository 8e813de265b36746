"""The `cnnarch` command, whose subcommands train, check, evaluate, export, draw and others.

train and compare parse their arguments with jsonargparse, which is installed by the `train` extra.
The other commands use argparse so that list, info, verify and download work without that extra.
"""

import io
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress

import torch

from cnnarch.cli.parser import parse
from cnnarch.cli.training import run_compare, run_train
from cnnarch.facts.output import discard_output, lasting_output

__all__ = ["main"]

USER_ERRORS = (ArithmeticError, ImportError, OSError, ValueError, torch.OutOfMemoryError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    The status is 0 for success, 1 for an incorrect card or an unreadable image, and 2 for an error,
    which is printed on one line. If a signal stopped training, the status is 128 plus the signal
    number. If the environment variable CNNARCH_TRACEBACK is set, exceptions are raised instead.
    """
    with _streams(), _messages():
        return _run(sys.argv[1:] if arguments is None else list(arguments))


@contextmanager
def _streams() -> Iterator[None]:
    """Discard what is written to stdout and stderr if they are closed; Python sets them to None."""
    with ExitStack() as stack:
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if stream is None:
                null = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(redirect(null))
        yield


@contextmanager
def _messages() -> Iterator[None]:
    """Print log messages to stderr, and escape names that the terminal cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # the stream is closed
                stream.reconfigure(errors="backslashreplace", line_buffering=True)
    log, handler = logging.getLogger("cnnarch"), logging.StreamHandler()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _run(args: list[str]) -> int:
    try:
        _check_flags(args)
        if args[:1] == ["train"]:
            with lasting_output("training"):
                return run_train(args[1:])
        if args[:1] == ["compare"]:
            with lasting_output("training"):
                return run_compare(args[1:])
        parsed = parse(args or ["--help"])
        return parsed.run(parsed)
    except BrokenPipeError:  # the program reading the output, such as `head`, has exited
        discard_output(sys.stdout)
        return 0
    except KeyboardInterrupt:
        _print_error("stopped")
        return 128 + signal.SIGINT
    except USER_ERRORS as error:
        if os.environ.get("CNNARCH_TRACEBACK"):
            raise
        _print_error(" ".join(str(error).split()))
        return getattr(error, "status", 2)


def _check_flags(words: Sequence[str]) -> None:
    """Raise ValueError for a flag with hyphens, such as --num-epochs, before the first "--"."""
    end = words.index("--") if "--" in words else len(words)
    for word in words[:end]:
        flag = word.partition("=")[0]
        if flag.startswith("--") and "-" in flag[2:]:
            name = flag[2:].replace("-", "_")
            raise ValueError(f"flags contain underscores instead of hyphens: --{name}, not {flag}")


def _print_error(message: str) -> None:
    with suppress(OSError):  # the terminal may have been closed
        print("cnnarch:", message, file=sys.stderr)
