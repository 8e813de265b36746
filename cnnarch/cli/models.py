"""The evaluate, predict and export commands, for trained networks."""

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import cnnarch
from cnnarch.facts.builders import BUILDERS
from cnnarch.facts.sheets import aliases
from cnnarch.facts.text import show_table

if TYPE_CHECKING:
    from cnnarch.contract.classifier import ImageClassifier
    from cnnarch.training import ImageSet

log = logging.getLogger("cnnarch")


def run_evaluate(parsed: argparse.Namespace) -> int:
    """Print accuracy, calibration error and loss on the test images of a data set.

    In a folder without test images, all images are used. Images that the network was trained on are
    left out.
    """
    from cnnarch.training import evaluate

    model = load_model(parsed)
    images = load_test_data(model, parsed)
    show_evaluation(evaluate(model, images)._asdict())
    return 0


def run_predict(parsed: argparse.Namespace) -> int:
    """Print the most likely classes for image files, or for a data set's first test images.

    Files that cannot be read are listed at the end, and the exit status is then 1.
    """
    from cnnarch.images import find_images
    from cnnarch.inference.predictor import Predictor

    if bool(parsed.files) == bool(parsed.data):
        raise ValueError("specify image files, or a data set with --data")
    model = load_model(parsed).eval()
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
        images = load_test_data(model, parsed)
        indices = torch.arange(min(10, len(images)))
        found = predictor(images.pixels[indices])
        names = [f"test image {i + 1}: {images.classes[images.labels[i]]}" for i in indices]
    else:
        found = predictor(find_images(parsed.files))
        names = [prediction.name for prediction in found]
    rows = [
        (name, *(f"{c} {share:.1%}" for c, share in zip(p.classes, p.probabilities, strict=True)))
        for name, p in zip(names, found, strict=True)
    ]
    columns = max(map(len, rows), default=0)
    if rows:
        padded = [(*row, *[""] * (columns - len(row))) for row in rows]
        show_table(("image", "most likely", *[""] * columns)[:columns], padded)
    for unreadable in found.unreadable:
        print("cnnarch:", " ".join(unreadable.reason.split()), file=sys.stderr)
    return 1 if found.unreadable else 0


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
        return cnnarch.get_model(name, weights=parsed.weights)
    folder = Path(parsed.model)
    if (folder / "recipe.yaml").exists() and not (folder / "config.json").exists():
        raise ValueError(f"the run in {folder} is not finished; resume it with train --resume")
    return cnnarch.from_pretrained(parsed.model)


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


def show_evaluation(metrics: Mapping[str, Any]) -> None:
    """Print a table of evaluation metrics."""
    shares = metrics["per_class"].items()
    # The accuracy for a class without images is nan, or None in results.json.
    rows = [(f"accuracy, {k}", "" if v is None or v != v else f"{v:.2%}") for k, v in shares]
    rows += [
        ("accuracy, all classes", f"{metrics['top1']:.2%}"),
        ("top-5 accuracy", f"{metrics['top5']:.2%}"),
        ("calibration error", f"{metrics['calibration_error']:.2%}"),
        ("loss", f"{metrics['loss']:.4f}"),
    ]
    count = int(torch.as_tensor(metrics["confusion"]).sum())
    show_table((f"{count:,} test images", ""), rows)
