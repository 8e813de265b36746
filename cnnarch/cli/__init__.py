"""The `cnnarch` command: train, evaluate, predict, draw, compare, list, download, info, verify."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import cnnarch
from cnnarch.cli.cards import run_info, run_list, run_verify
from cnnarch.cli.models import run_evaluate, run_predict
from cnnarch.cli.pictures import PICTURES, run_draw
from cnnarch.cli.training import run_compare, run_train
from cnnarch.cli.weights import run_download

__all__ = ["main"]

MISTAKES = (ArithmeticError, ImportError, OSError, ValueError)  # what users cause


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0 is success, 1 a card that does not hold or an image that cannot be read, 2 a mistake, which
    is told in one line, and 128 and a signal's number where that signal stopped training. With
    CNNARCH_TRACEBACK set in the environment mistakes are raised, to see where they come from.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["train"]:
            return run_train(words[1:])
        if words[:1] == ["compare"]:
            return run_compare(words[1:])
        parsed = _parser().parse_args(words or ["--help"])
        status: int = parsed.run(parsed)
        return status
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("cnnarch: stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except MISTAKES as error:
        if os.environ.get("CNNARCH_TRACEBACK"):
            raise
        print("cnnarch:", " ".join(str(error).split()), file=sys.stderr)
        return getattr(error, "status", 2)


class _Parser(argparse.ArgumentParser):
    """Mistakes are raised, so that all are told in the same way."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _parser() -> _Parser:
    parser = _Parser(prog="cnnarch", description="Convolutional image classifiers.")
    parser.add_argument("--version", action="version", version=f"cnnarch {cnnarch.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("train", help="train a network and keep what came of it in a folder")
    commands.add_parser("compare", help="train several networks and draw their curves together")

    command = commands.add_parser("evaluate", help="measure a network on a data set's test images")
    command.set_defaults(run=run_evaluate)
    _add_model(command, "model")
    _add_data(command, None)

    command = commands.add_parser("predict", help="classify image files")
    command.set_defaults(run=run_predict)
    command.add_argument("files", nargs="*", help="image files, or folders of them")
    _add_model(command, "--model")
    _add_data(command, "classify the test images of this data set instead of files")
    command.add_argument("--top", type=int, help="classes to show for each image; 3 if not given")

    _add_draw(commands)

    command = commands.add_parser("list", help="networks by name")
    command.set_defaults(run=run_list)
    command.add_argument("pattern", nargs="?", help="wildcard on the name, such as 'resnet*'")
    command.add_argument("--family", help="only this family")
    command.add_argument("--weights", action="store_true", help="only networks with a checkpoint")

    command = commands.add_parser("download", help="fetch a checkpoint into a folder")
    command.set_defaults(run=run_download)
    command.add_argument("model", help="a network's name")
    command.add_argument("--to", required=True, help="folder for the file and its config")
    command.add_argument("--weights", default="DEFAULT", help="tag of the checkpoint")

    command = commands.add_parser("info", help="a network's card beside what is measured")
    command.set_defaults(run=run_info)
    command.add_argument("model", help="a network's name")

    command = commands.add_parser("verify", help="hold cards to their networks; status 1 if not")
    command.set_defaults(run=run_verify)
    command.add_argument("models", nargs="*", help="networks; all of them if none is named")
    return parser


def _add_draw(commands: "argparse._SubParsersAction[_Parser]") -> None:
    command = commands.add_parser("draw", help="one picture of a network or of data, in a file")
    command.set_defaults(run=run_draw)
    command.add_argument("picture", choices=PICTURES, help="what to draw")
    _add_model(command, "--model")
    _add_data(command, None)
    command.add_argument("--split", choices=("test", "train"), default="test", help="its images")
    command.add_argument("--output", help="file; PICTURE.png if not named")
    command.add_argument("--rows", type=_positive, help="of a grid")
    command.add_argument("--columns", type=_positive, help="of a grid")
    command.add_argument(
        "--layer", help="stage such as conv4_x, or module path, for gradcam and filters"
    )
    command.add_argument("--layers", nargs="+", help="stages or module paths, for feature_maps")
    command.add_argument("--method", help="of embeddings: tsne, pca or umap")
    command.add_argument("--num-samples", type=_positive, help="images in embeddings")


def _positive(word: str) -> int:
    if not word.isdecimal() or int(word) == 0:
        raise argparse.ArgumentTypeError(f"must be a positive whole number, got {word!r}")
    return int(word)


def _add_model(command: argparse.ArgumentParser, name: str) -> None:
    help_text = "folder of a run, file or hub repository of a saved network, or a network's name"
    command.add_argument(name, help=help_text)
    command.add_argument("--weights", default="DEFAULT", help="checkpoint of a network by name")


def _add_data(command: argparse.ArgumentParser, help_text: str | None) -> None:
    own = (
        "data set; that of the run if not named. Of a folder that was not trained on and has no "
        "test images of its own, all images are taken"
    )
    command.add_argument("--data", help=help_text or own)
    command.add_argument("--data-root", help="folder of the data set's files")
