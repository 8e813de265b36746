"""The parsers of all commands except train and compare, which use jsonargparse."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

import cnnarch
from cnnarch.cli.cards import run_download, run_info, run_list, run_verify
from cnnarch.cli.checking import run_check
from cnnarch.cli.models import run_evaluate, run_export, run_predict
from cnnarch.cli.pictures import PICTURES, run_draw
from cnnarch.facts.output import FORMATS
from cnnarch.weights.selection import ORDERS

__all__ = ["amount", "build_parser", "parse", "positive_integer"]

UNITS = {"K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}


class _Parser(argparse.ArgumentParser):
    """Raise errors instead of printing them, because `main` prints all errors the same way."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def parse(args: Sequence[str]) -> argparse.Namespace:
    """Parse arguments; files may also follow the flags, which argparse does not support."""
    parser = build_parser()
    parsed, rest = parser.parse_known_args(args)
    unknown = [word for word in rest if word.startswith("-")] if hasattr(parsed, "files") else rest
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        parsed.files += rest
    return parsed


def build_parser() -> argparse.ArgumentParser:
    """Return the parser, whose only positional argument is the command."""
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
    command.add_argument("--max_params", type=amount, help="maximum number of parameters: 25M")
    command.add_argument(
        "--max_macs", type=amount, help="maximum number of multiply-adds for one image: 4.1G"
    )
    command.add_argument(
        "--min_top1", type=float, help="minimum published top-1 on ImageNet-1K in percent: 80"
    )
    command.add_argument(
        "--sort", default="name", help=f"one of {', '.join(ORDERS)}; default: name"
    )
    _add_format(command, "csv and json have more columns")

    command = commands.add_parser("download", help="download a checkpoint to a folder")
    command.set_defaults(run=run_download)
    command.add_argument("model", help="name of the network")
    command.add_argument("--to", required=True, help="folder for the checkpoint and its config")
    command.add_argument(
        "--weights", default="DEFAULT", help="name of the checkpoint; default: DEFAULT"
    )

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
    command.add_argument("--rows", type=positive_integer, help="rows of a grid")
    command.add_argument("--columns", type=positive_integer, help="columns of a grid")
    command.add_argument(
        "--layer", help="stage such as conv4_x, or module path, for gradcam and filters"
    )
    command.add_argument("--layers", nargs="+", help="stages or module paths, for feature_maps")
    command.add_argument("--method", help="method of embeddings: tsne, pca or umap")
    command.add_argument(
        "--num_samples", type=positive_integer, help="number of images for embeddings"
    )


def amount(word: str) -> float:
    """Convert a number with or without a unit, such as 25M."""
    unit = UNITS.get(word[-1:].upper())
    try:
        return float(word[:-1]) * unit if unit else float(word)
    except ValueError:
        message = f"must be a number such as 25M or 4.1e9, got {word!r}"
        raise argparse.ArgumentTypeError(message) from None


def positive_integer(word: str) -> int:
    """Convert a positive integer."""
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
