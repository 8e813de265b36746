"""The evaluate, predict and export commands, for trained networks."""

import argparse
import logging
from collections.abc import Mapping
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import cnnarch
from cnnarch.facts.builders import BUILDERS
from cnnarch.facts.output import show_rows, to_json
from cnnarch.facts.sheets import aliases
from cnnarch.facts.text import show_table

if TYPE_CHECKING:
    from cnnarch.contract.classifier import ImageClassifier
    from cnnarch.training import ImageSet

log = logging.getLogger("cnnarch")


def run_evaluate(parsed: argparse.Namespace) -> int:
    """Print the metrics on the test images of a data set; in CSV, the prediction for each image.

    In a folder without test images, all images are used. Images that the network was trained on are
    left out.
    """
    from cnnarch.cli.predictions import EVALUATION_KEYS, evaluated_rows, write_evaluated
    from cnnarch.training import evaluate

    file = None if parsed.predictions is None else Path(parsed.predictions)
    if file is not None and (file.is_dir() or not file.parent.is_dir()):
        raise ValueError(f"cannot write --predictions to {file}: choose a file in a folder")
    model = load_model(parsed)
    images = load_test_data(model, parsed)
    found = evaluate(model, images)
    if file is not None:
        write_evaluated(file, found, images)
    if parsed.format == "csv":
        show_rows(EVALUATION_KEYS, evaluated_rows(found, images), "csv")
    elif parsed.format == "json":
        print(to_json(found.figures(), indent=2))
    else:
        show_evaluation(found.figures())
    return 0


def run_predict(parsed: argparse.Namespace) -> int:
    """Print the most likely classes for image files, or for a data set's first test images.

    Rows are printed as they are computed. Files that cannot be read are listed on stderr, and the
    exit status is then 1, unless `--skip_unreadable` is given.
    """
    from cnnarch.cli.predictions import NamedImages, image_name, print_predictions
    from cnnarch.devices import available_device
    from cnnarch.images import find_images
    from cnnarch.inference.predictor import Predictor

    if bool(parsed.files) == bool(parsed.data):
        raise ValueError("specify image files, or a data set with --data")
    if parsed.files:
        reject_flags(parsed, "image files are not looked up in a folder of data sets", "data_root")
    device = available_device(parsed.device)
    model = load_model(parsed).eval().to(device)
    _preprocessing(model)
    if parsed.top is not None and not 1 <= parsed.top <= model.num_classes:
        raise ValueError(
            f"--top must be from 1 to {model.num_classes}, the number of classes, got {parsed.top}"
        )
    top = parsed.top or (None if parsed.multi_label else min(3, model.num_classes))
    predictor = Predictor(
        model, top=top, multi_label=parsed.multi_label, threshold=parsed.threshold
    )
    if parsed.data:
        test = load_test_data(model, parsed)
        indices = torch.arange(min(10, len(test)))
        labels = [test.classes[test.labels[i]] for i in indices]
        names = [image_name(test, int(i)) for i in indices]
        images = NamedImages(test.pixels[indices], names, labels)
    else:
        paths = find_images(parsed.files)
        images = NamedImages(paths, [fspath(path) for path in paths])
    unreadable = print_predictions(predictor, images, parsed.format, top or model.num_classes)
    return 1 if unreadable and not parsed.skip_unreadable else 0


def run_export(parsed: argparse.Namespace) -> int:
    """Write a network to a file for other programs, and print the path."""
    from cnnarch.inference.export import ExportError, export

    model = load_model(parsed)
    options = {"half": parsed.half, "opset": parsed.opset, "tolerance": parsed.tolerance}
    try:
        print(export(model, parsed.output, **options))
    except (ExportError, TypeError) as error:
        raise ValueError(str(error)) from error
    return 0


def load_model(parsed: argparse.Namespace) -> "ImageClassifier":
    """Load a saved network, or a network from the library with weights from the catalog."""
    if not parsed.model:
        raise ValueError("specify the network with --model, for example the folder of a run")
    name = aliases().get(parsed.model, parsed.model)
    if name in BUILDERS and not Path(name).exists():
        return cnnarch.get_model(name, weights=parsed.weights or "DEFAULT")
    if parsed.weights:
        raise ValueError(
            f"--weights selects a checkpoint of a network such as resnet18, but {parsed.model} is "
            "a saved network with its own weights"
        )
    folder = Path(parsed.model)
    if (folder / "recipe.yaml").exists() and not (folder / "config.json").exists():
        raise ValueError(f"the run in {folder} is not finished; resume it with train --resume")
    return cnnarch.from_pretrained(parsed.model)


def reject_flags(parsed: argparse.Namespace, why: str, *names: str) -> None:
    """Raise ValueError if flags are given that have no effect.

    Args:
        parsed: the arguments.
        why: the reason, to which the flag is added.
        names: the flags without dashes.
    """
    if given := [f"--{name}" for name in names if getattr(parsed, name)]:
        raise ValueError(f"{why}, so {' and '.join(given)} cannot be used")


def _preprocessing(model: Any) -> Any:
    if getattr(model, "preprocessing", None) is None:
        raise ValueError("the checkpoint does not specify how to preprocess images")
    return model.preprocessing


def load_test_data(
    model: "ImageClassifier", parsed: argparse.Namespace, split: str = "test"
) -> "ImageSet":
    """Load a split of the data set in --data, or of the run's data set.

    Images that the run has trained or validated on are left out of the test split. They are the
    training split, if there are any.
    """
    from cnnarch.training import load_data, read_results
    from cnnarch.training.datasets import folder_of
    from cnnarch.training.record import find_overlap, read_record, run_of

    run = run_of(parsed.model)
    results = read_results(run)
    name = parsed.data or _data_of_run(results)
    folder, record = folder_of(name), read_record(run)
    same_folder = folder is not None and str(folder.resolve()) == results.get("data_folder")
    categories = getattr(model, "categories", None)
    data = load_data(
        name,
        root=parsed.data_root,
        image_resolution=_preprocessing(model).resize_size,
        grayscale=model.in_channels == 1,
        # Earlier versions did not record the files that were trained on.
        hold_out=not record and (same_folder or name == results.get("data")),
        classes=categories,
        skip_unreadable=parsed.skip_unreadable,
    )
    if categories and tuple(categories) != data.classes:
        raise ValueError(f"{name} does not have the network's classes: {', '.join(categories)}")
    if split == "train":
        used = find_overlap(data.train, run).used
        images = data.train.subset(torch.tensor(used)) if used else data.train
    else:
        images = _evaluated(data.test, str(run), bool(results and folder and not record))
    return images.prepared(_preprocessing(model))


def _evaluated(images: "ImageSet", run: str, is_old: bool) -> "ImageSet":
    """Return the images that a run was not trained on, or all if there are no others."""
    from cnnarch.training import leave_out_trained
    from cnnarch.training.record import find_overlap

    if is_old:
        log.warning("%s does not record the images that it was trained on, so they may count", run)
    if find_overlap(images, run).others:
        return leave_out_trained(images, run)
    log.warning(
        "all %d images were used for training or validation by the run in %s, so the metrics do "
        "not measure how well the network generalizes",
        len(images),
        run,
    )
    return images


def _data_of_run(results: Mapping[str, Any]) -> str:
    """Return the name of the data set that a run was trained on, wherever the command runs."""
    from cnnarch.training.datasets import folder_of

    name = results.get("data")
    if not name:
        raise ValueError("specify a data set with --data")
    if (folder := folder_of(name)) is None:
        return str(name)
    places = [Path(results.get("data_folder") or folder), folder]
    if found := next((place for place in places if place.is_dir()), None):
        return f"folder:{found}"
    raise ValueError(
        f"the run's data folder {places[0]} does not exist; if it has moved, pass its new path "
        "with --data folder:PATH"
    )


def show_evaluation(figures: Mapping[str, Any]) -> None:
    """Print a table of the metrics in `Evaluation.figures`."""
    # A class without images has no accuracy.
    shares = figures["per_class"].items()
    rows = [(f"accuracy, {k}", "" if v is None else f"{v:.2%}") for k, v in shares]
    names = {
        "top1": "accuracy, all classes",
        "top5": "top-5 accuracy",
        "macro_f1": "F1, mean over classes",
        "calibration_error": "calibration error",
    }
    # Runs of earlier versions lack the F1 score.
    rows += [(text, f"{figures[key]:.2%}") for key, text in names.items() if key in figures]
    rows.append(("loss", f"{figures['loss']:.4f}"))
    count = int(torch.as_tensor(figures["confusion"]).sum())
    show_table((f"{count:,} test image{'s' * (count != 1)}", ""), rows)
