"""Read a folder of labeled images: check the files, and hold out test images."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cnnarch.folders import counted, normalized, printable, shortened
from cnnarch.images import Unreadable, multipage_text, plots_text
from cnnarch.preprocessing import Preprocessing
from cnnarch.splits import Classes, LabeledFolder, label_folder
from cnnarch.training.data import RawImages, share_of
from cnnarch.training.file_pixels import FilePixels
from cnnarch.training.machine import is_first_process

HELD_OUT = 0.2

log = logging.getLogger("cnnarch")


def read_folder(
    folder: Path,
    size: int,
    channels: int,
    *,
    hold_out: bool = True,
    classes: Sequence[str] | None = None,
    skip_unreadable: bool = False,
) -> RawImages:
    """Read a folder of images with one subfolder per class, or with split folders of these.

    Split folders have usual names, such as `train`, `val` and `test`. Without a test folder, the
    validation folder is used for testing. Without either, a fifth of each class is held out,
    selected by a hash of the file names. If `hold_out` is False, all images are in both splits
    instead.

    Args:
        folder: the folder.
        size: length to which the shorter side of each image is resized, in pixels.
        channels: 1 or 3.
        hold_out: whether to hold out test images if there are none.
        classes: the classes of a network, of which the folder may lack some; None means that the
            training images define the classes.
        skip_unreadable: whether to skip files that cannot be read.

    Raises:
        ValueError: the folder is missing or contradictory, a class has too few images, files
            cannot be read, or a class is unknown. The message names all unreadable files.
    """
    labeled = label_folder(folder)
    splits, source = _assign_splits(folder, labeled, hold_out)
    names = _class_names(folder, labeled, splits, source, classes)
    files = {
        role: [(path, i) for i, name in enumerate(names) for path in found.get(name, ())]
        for role, found in splits.items()
        if role != "test" or found is not splits["train"]
    }
    read, unreadable = _read_splits(files, folder, names, channels, Preprocessing(size, size))
    if unreadable:
        _report_unreadable(unreadable, sum(map(len, files.values())), skip_unreadable)
    train = read["train"]
    if classes is None and (empty := set(range(len(names))) - set(train[1].tolist())):
        raise ValueError(f"no training image of class {names[min(empty)]} can be read")
    for role, (_, labels) in read.items():
        if not len(labels):
            raise ValueError(f"no {role} image in {printable(str(folder))} can be read")
    validation, test = read.get("validation"), read.get("test", train)
    notes = [*labeled.notes, *([f"{len(unreadable)} unreadable"] if unreadable else [])]
    paths = [path for pixels, _ in read.values() for path in pixels.paths]
    notes += filter(None, [multipage_text(paths), plots_text(paths)])
    if classes is None:
        notes += _absent(read, names)
    counts = f"{counted(len(test[1]), 'image')}{source['test']}"
    if test is not train:
        counts = f"{counted(len(train[1]), 'training image')}{source['train']}, "
        counts += counted(len(test[1]), "test image")
        counts += source["test"]
    if validation is not None:
        counts += f", {counted(len(validation[1]), 'validation image')}{source['validation']}"
    used = sorted({*train[1].tolist(), *test[1].tolist()})
    number = f"{len(names)}" if len(used) == len(names) else f"{len(used)} of {len(names)}"
    listed = f"{number} classes ({shortened(names[i] for i in used)}): {counts}"
    found = "; ".join([f"{printable(str(folder))}: {listed}", *notes])
    return RawImages(train, test, names, validation, found, bool(notes))


def check_trainable(folder: Path, labeled: LabeledFolder) -> None:
    """Check the splits and classes of a folder.

    Raises:
        ValueError: a class has too few images or is unknown, or there are no training images.
    """
    splits, source = _assign_splits(folder, labeled, hold_out=True)
    _class_names(folder, labeled, splits, source, None)


def _assign_splits(
    folder: Path, labeled: LabeledFolder, hold_out: bool
) -> tuple[dict[str, Classes], dict[str, str]]:
    """Return the files of each split, and where each split comes from, for messages."""
    found = dict(labeled.splits)
    source = {role: f" (in {printable(name)})" for role, name in labeled.names.items()}
    if "test" not in found and "validation" in found:
        found["test"], source["test"] = found.pop("validation"), source["validation"]
    if "all" in found:
        found["train"], source["train"] = found.pop("all"), ""
    if "train" not in found:
        if hold_out:
            names = ", ".join(labeled.names.values())
            message = f"{printable(str(folder))} contains no training images, only {names}"
            raise ValueError("; ".join([message, *labeled.notes]))
        found["train"], source["train"] = found["test"], source["test"]
    if "test" not in found and hold_out:
        found["train"], found["test"] = _hold_out(folder, found["train"])
        source["test"] = " (held out)"
    elif "test" not in found:
        found["test"], source["test"] = found["train"], ""
    return found, source


def _class_names(
    folder: Path,
    labeled: LabeledFolder,
    splits: dict[str, Classes],
    source: dict[str, str],
    classes: Sequence[str] | None,
) -> list[str]:
    """Return the names of the classes; with `classes`, rename those in `splits` to match."""
    place = printable(str(folder))
    if classes is not None:
        return _use_classes(place, splits, classes)
    train = splits["train"]
    if len(train) < 2:
        message = f"{place} must contain one subfolder per class, found {list(train)}"
        if "all" in labeled.splits:
            message += "".join(
                f"; if the classes are in {name}, use folder:{place}/{name}"
                for name, files in train.items()
                if any(path.parent.parent != folder for path in files)
            )
        raise ValueError("; ".join([message, *labeled.notes]))
    if empty := [name for name, files in train.items() if not files]:
        raise ValueError(
            "; ".join([f"{place}: {shortened(empty)} contains no images", *labeled.notes])
        )
    for role in sorted(splits.keys() - {"train"}):
        used = {name for name, files in splits[role].items() if files}
        if extra := sorted(used - train.keys()):
            raise ValueError(
                f"{place} contains {role} images{source[role]} of classes without training images: "
                f"{shortened(extra)}; the training images are of {shortened(train)}. Rename or "
                "remove these classes, or add training images"
            )
    return list(train)


def _use_classes(place: str, splits: dict[str, Classes], classes: Sequence[str]) -> list[str]:
    """Rename the classes in each split to those of a network, some of which may be missing."""
    known: dict[str, list[str]] = {}
    for name in classes:
        known.setdefault(normalized(printable(name)), []).append(name)
    is_same = splits["test"] is splits["train"]
    for role, found in splits.items():
        used = [name for name, files in found.items() if files]
        if unknown := [name for name in used if len(known.get(name, ())) != 1]:
            raise ValueError(
                f"{place} contains classes that are not, or more than once, among the network's "
                f"classes: {shortened(unknown)}; these are {shortened(classes)}"
            )
        if not used:
            raise ValueError(f"{place} must contain one subfolder of images per class")
        splits[role] = {known[name][0]: found[name] for name in used}
    if is_same:
        splits["test"] = splits["train"]
    return list(classes)


def _hold_out(folder: Path, classes: Classes) -> tuple[Classes, Classes]:
    """Hold out a fraction of each class for testing."""
    train: Classes = {}
    test: Classes = {}
    for name, files in classes.items():
        if len(files) == 1:
            raise ValueError(
                f"{printable(str(files[0].parent))} must contain at least two images, because one "
                "is held out"
            )
        count = share_of(len(files), HELD_OUT, minimum=1)
        depth = len(folder.parts)
        keys = {file: _hash("/".join(file.parts[depth + 1 :])) for file in files}
        shuffled = sorted(files, key=keys.__getitem__)
        test[name], train[name] = sorted(shuffled[:count]), sorted(shuffled[count:])
    return train, test


def _hash(name: str) -> bytes:
    """Return a pseudorandom sort key that does not depend on other files."""
    return hashlib.sha256(normalized(name).encode(errors="surrogateescape")).digest()


def _read_splits(
    files: dict[str, list[tuple[Path, int]]],
    folder: Path,
    classes: Sequence[str],
    channels: int,
    preprocessing: Preprocessing,
) -> tuple[dict[str, tuple[FilePixels, Tensor]], list[Unreadable]]:
    """Read or check the files of all splits; return the readable ones and the others."""
    read, unreadable = {}, []
    for role, found in files.items():
        # Shuffle the files so that plots of the first few images show all classes.
        found.sort(key=lambda each: _hash(f"{classes[each[1]]}/{each[0].name}"))
        paths, labels = [path for path, _ in found], dict(found)
        pixels, wrong = FilePixels.read_valid(
            paths, channels, preprocessing, folder, thorough=role != "train"
        )
        unreadable += wrong
        read[role] = pixels, torch.tensor([labels[path] for path in pixels.paths]).long()
    return read, unreadable


def _absent(read: dict[str, tuple[FilePixels, Tensor]], names: Sequence[str]) -> list[str]:
    """Return notes on the classes of which a split for evaluation contains no images."""
    notes = []
    for role in sorted(read.keys() - {"train"}):
        present = set(read[role][1].tolist())
        if absent := [name for i, name in enumerate(names) if i not in present]:
            notes.append(f"no {role} images of {shortened(absent)}")
    return notes


def _report_unreadable(unreadable: Iterable[Unreadable], total: int, skip: bool) -> None:
    """Name all files that cannot be read, in a log message or an error."""
    reasons = sorted(file.reason for file in unreadable)
    listed, count = "; ".join(reasons), f"{len(reasons)} of {total:,} files"
    if not skip:
        raise ValueError(
            f"{count} cannot be read; repair or remove them, or skip them with --skip_unreadable "
            f"(skip_unreadable=True): {listed}"
        )
    if is_first_process():
        log.warning("skipped %s that cannot be read: %s", count, listed)
