"""Print tables as text, CSV or JSON, and keep running when nobody reads the output."""

import csv
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, NamedTuple, TextIO

from cnnarch.facts.text import show_table

FORMATS = ("table", "csv", "json")


class Column(NamedTuple):
    """A column of a table.

    Args:
        key: the name in CSV and JSON.
        title: the name in a text table.
        text: converts a value to text for a text table; CSV and JSON keep the value.
    """

    key: str
    title: str
    text: Callable[[Any], str] = str


def show(columns: Sequence[Column], rows: Iterable[Sequence[Any]], form: str = "table") -> None:
    """Print rows of values in one of `FORMATS`; None is an empty cell, or null in JSON."""
    if form == "table":
        cells = [
            [
                "" if value is None else column.text(value)
                for column, value in zip(columns, row, strict=True)
            ]
            for row in rows
        ]
        show_table([column.title for column in columns], cells)
        return
    keys = [column.key for column in columns]
    show_rows(keys, (dict(zip(keys, row, strict=True)) for row in rows), form)


def show_rows(keys: Sequence[str], rows: Iterable[Mapping[str, Any]], form: str) -> None:
    """Print each row as soon as it is computed: a line of CSV, or an object in a JSON array.

    The array is also closed if computing a row fails, so that the output remains valid.
    """
    if form == "csv":
        writer = csv.DictWriter(sys.stdout, keys, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _csv_value(value) for key, value in row.items()})
        return
    separator = ""  # at the start of a line, so that messages on stderr never interrupt a row
    try:
        print("[")
        for row in rows:
            print_line(separator + to_json(row))
            separator = ","
    finally:
        print("]")


def print_line(line: str, stream: TextIO | None = None) -> None:
    """Print a line to a stream or stdout with a single write, which no signal interrupts."""
    stream = stream or sys.stdout
    stream.write(f"{line}\n")
    stream.flush()


def to_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON, with null in place of NaN and infinity, which JSON lacks."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv_value(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list | tuple) else value


class LastingStream:
    """A text stream that discards its output after the first error instead of raising it.

    A write fails if the program that reads a pipe has exited, such as `head`, if the disk is full,
    or if the terminal was closed.

    Args:
        stream: the stream to write to.
        on_failure: called with the first error.
    """

    def __init__(self, stream: Any, on_failure: Callable[[OSError], object]) -> None:
        self._stream = stream
        self._on_failure = on_failure
        self._failed = False

    def write(self, text: str) -> int:
        """Write the text, or discard it."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream, or discard what it holds."""
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            action()
        except OSError as error:
            self._failed = True
            discard_output(self._stream)
            self._on_failure(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def discard_output(stream: Any) -> None:
    """Send a stream's output to the null device; otherwise Python fails to flush it at exit."""
    with suppress(OSError, ValueError):  # not every stream has a file descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def lasting_output(activity: str) -> Iterator[None]:
    """Discard output that cannot be written instead of raising, and say so once on stderr.

    Args:
        activity: what continues, such as "training".
    """

    def report(error: OSError) -> None:
        reason = error.strerror or str(error)
        print(f"cnnarch: cannot print ({reason}); {activity} continues", file=sys.stderr)

    stderr = _lasting(sys.stderr, lambda _: None)
    with redirect_stderr(stderr), redirect_stdout(_lasting(sys.stdout, report)):
        yield


def _lasting(stream: Any, on_failure: Callable[[OSError], object]) -> Any:
    """Return a lasting stream; None, which Python sets if the stream is closed, stays None."""
    is_lasting = stream is None or isinstance(stream, LastingStream)
    return stream if is_lasting else LastingStream(stream, on_failure)
