"""The `cnnarch` command, whose subcommands train, check, evaluate, export, draw and others.

train and compare parse their arguments with jsonargparse, which is installed by the `train` extra.
The other commands use argparse so that list, info, verify and download work without that extra.
"""

import argparse
import io
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import NoReturn

import torch

import cnnarch
from cnnarch.cli.cards import run_download, run_info, run_list, run_verify
from cnnarch.cli.checking import run_check
from cnnarch.cli.models import run_evaluate, run_export, run_predict
from cnnarch.cli.pictures import PICTURES, run_draw
from cnnarch.cli.training import run_compare, run_train
from cnnarch.facts.output import FORMATS, discard_output, lasting_output

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
        parsed = _parse(args or ["--help"])
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


class _Parser(argparse.ArgumentParser):
    """Raise errors instead of printing them, because `main` prints all errors the same way."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _parse(args: Sequence[str]) -> argparse.Namespace:
    """Parse arguments; files may also follow the flags, which argparse does not support."""
    parser = _parser()
    parsed, rest = parser.parse_known_args(args)
    unknown = [word for word in rest if word.startswith("-")] if hasattr(parsed, "files") else rest
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        parsed.files += rest
    return parsed


def _parser() -> _Parser:
    parser = _Parser(prog="cnnarch", description="Convolutional image classifiers.")
    parser.add_argument("--version", action="version", version=f"cnnarch {cnnarch.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("train", help="train a network and save it to a folder")
    commands.add_parser("compare", help="train several networks and plot their curves")

    command = commands.add_parser("evaluate", help="evaluate a network on test images")
    command.set_defaults(run=run_evaluate)
    _add_model(command, "model")
    _add_data(command, None)
    command.add_argument("--predictions", help="CSV file for the prediction for each image")
    _add_format(command, "csv prints the prediction for each image, json all metrics")

    _add_predict(commands)
    _add_export(commands)
    _add_draw(commands)

    _add_lists(commands)
    return parser


def _add_lists(commands: "argparse._SubParsersAction[_Parser]") -> None:
    """Add the commands that describe folders and networks."""
    command = commands.add_parser("check", help="check a folder of images before training")
    command.set_defaults(run=run_check)
    command.add_argument("folder", help="folder of images, with or without classes")

    command = commands.add_parser("list", help="list the networks")
    command.set_defaults(run=run_list)
    command.add_argument("pattern", nargs="?", help="name pattern, such as 'resnet*'")
    command.add_argument("--family", help="list only this family")
    command.add_argument("--weights", action="store_true", help="list only networks with weights")
    _add_format(command)

    command = commands.add_parser("download", help="download a checkpoint to a folder")
    command.set_defaults(run=run_download)
    command.add_argument("model", help="name of the network")
    command.add_argument("--to", required=True, help="folder for the checkpoint and its config")
    command.add_argument("--weights", default="DEFAULT", help="name of the checkpoint")

    command = commands.add_parser("info", help="print a network's card and its measured values")
    command.set_defaults(run=run_info)
    command.add_argument("model", help="name of the network")
    _add_format(command)

    command = commands.add_parser("verify", help="check cards against their networks")
    command.set_defaults(run=run_verify)
    command.add_argument("models", nargs="*", help="names of networks; default: all")


def _add_predict(commands: "argparse._SubParsersAction[_Parser]") -> None:
    command = commands.add_parser("predict", help="classify image files")
    command.set_defaults(run=run_predict)
    command.add_argument("files", nargs="*", help="image files or folders of images")
    _add_model(command, "--model")
    _add_data(command, "classify the first ten test images of this data set instead of files")
    command.add_argument(
        "--multi_label", action="store_true", help="print every class above the threshold"
    )
    command.add_argument("--threshold", type=float, help="for --multi_label; default: 0.5")
    command.add_argument("--top", type=int, help="number of classes to print per image; default: 3")
    command.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1; default: cpu")
    _add_format(command)


def _add_export(commands: "argparse._SubParsersAction[_Parser]") -> None:
    command = commands.add_parser("export", help="write a network to a file for other programs")
    command.set_defaults(run=run_export)
    _add_model(command, "model")
    command.add_argument("--output", required=True, help="file that ends in .onnx, .xml or .pt2")
    command.add_argument("--half", action="store_true", help="ONNX: weights and layers in float16")
    command.add_argument("--opset", type=int, help="ONNX: version of the operators, from 18")
    command.add_argument("--tolerance", type=float, help="largest allowed relative difference")


def _add_draw(commands: "argparse._SubParsersAction[_Parser]") -> None:
    command = commands.add_parser("draw", help="draw a picture of a network or a data set")
    command.set_defaults(run=run_draw)
    command.add_argument("picture", choices=PICTURES, help="what to draw")
    files_help = "image files or folders to show instead of the images of a data set"
    command.add_argument("files", nargs="*", help=files_help)
    _add_model(command, "--model")
    _add_data(command, None)
    command.add_argument("--split", choices=("test", "train"), help="default: test")
    command.add_argument("--output", help="output file; default: PICTURE.png")
    command.add_argument("--rows", type=_positive, help="rows of a grid")
    command.add_argument("--columns", type=_positive, help="columns of a grid")
    command.add_argument(
        "--layer", help="stage such as conv4_x, or module path, for gradcam and filters"
    )
    command.add_argument("--layers", nargs="+", help="stages or module paths, for feature_maps")
    command.add_argument("--method", help="method of embeddings: tsne, pca or umap")
    command.add_argument("--num_samples", type=_positive, help="number of images for embeddings")


def _positive(word: str) -> int:
    if not word.isdecimal() or int(word) == 0:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {word!r}")
    return int(word)


def _add_model(command: argparse.ArgumentParser, name: str) -> None:
    help_text = "run folder, file or Hub repository of a saved network, or name of a network"
    command.add_argument(name, help=help_text)
    command.add_argument("--weights", help="name of a checkpoint of a network; default: DEFAULT")


def _add_format(command: argparse.ArgumentParser, more: str = "") -> None:
    help_text = f"format of the output; default: table{more and f'; {more}'}"
    command.add_argument("--format", choices=FORMATS, default="table", help=help_text)


def _add_data(command: argparse.ArgumentParser, help_text: str | None) -> None:
    default = (
        "data set; default: the run's data set. In a folder without test images, all images are "
        "used. Images that the network was trained on are left out"
    )
    command.add_argument("--data", help=help_text or default)
    command.add_argument("--data_root", help="folder that contains the data set's files")
    command.add_argument(
        "--skip_unreadable",
        action="store_true",
        help="skip image files that cannot be read",
    )
