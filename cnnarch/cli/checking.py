"""The `check` command: find out what a folder contains and which files cannot be read."""

import argparse
import sys
from collections.abc import Iterable
from hashlib import file_digest
from os import fspath
from pathlib import Path

from cnnarch.folders import check_folder, counted, printable, scan_folder, shortened
from cnnarch.images import find_unreadable, multipage_text, read_ahead
from cnnarch.splits import LabeledFolder, label_folder


def run_check(parsed: argparse.Namespace) -> int:
    """Print what a folder contains; return status 1 if any image cannot be read.

    All images are decoded. Byte-equal files in different splits or classes are listed.
    """
    folder = Path(str(parsed.folder).removeprefix("folder:")).expanduser()
    check_folder(folder)
    scan = scan_folder(folder)
    if not scan.images:
        raise ValueError(f"{printable(str(folder))} contains no images")
    unreadable = find_unreadable(scan.images, 3)
    for file in unreadable:
        print("cnnarch:", " ".join(file.reason.split()), file=sys.stderr)
    if any(path.parent != folder for path in scan.images):
        _print_splits(folder, {file.name for file in unreadable})
    elif text := scan.skipped_text():
        print(text)
    if text := multipage_text(scan.images):
        print(text)
    print(f"{counted(len(scan.images), 'image')}, {len(unreadable):,} of them cannot be read")
    return 1 if unreadable else 0


def _print_splits(folder: Path, unreadable: set[str]) -> None:
    """Print the classes and the number of images of each split, and what is not used."""
    labeled = label_folder(folder)
    for role, classes in labeled.splits.items():
        split = f"{role} split, in {printable(labeled.names[role])}: " if labeled.names else ""
        counts = shortened((f"{kind} {len(files):,}" for kind, files in classes.items()), 20)
        total = sum(map(len, classes.values()))
        number = counted(len(classes), "class", "classes")
        print(f"{split}{counted(total, 'image')} of {number} ({counts})")
    for note in labeled.notes:
        print(note)
    if why := _why_not_trainable(folder, labeled):
        print(f"cannot be trained on: {why}")
    for first, second in _duplicates(labeled, unreadable):
        print(f"byte-equal: {printable(str(first))} and {printable(str(second))}")


def _why_not_trainable(folder: Path, labeled: LabeledFolder) -> str:
    """Return why training would reject a folder, or an empty string."""
    try:
        from cnnarch.training.folders import check_trainable
    except ImportError:  # the `train` extra is not installed
        return ""
    try:
        check_trainable(folder, labeled)
    except ValueError as error:
        return str(error)
    return ""


def _duplicates(labeled: LabeledFolder, unreadable: set[str]) -> Iterable[tuple[Path, Path]]:
    """Yield pairs of byte-equal files that are in different splits or classes."""
    places: dict[Path, tuple[str, str]] = {
        path: (role, name)
        for role, classes in labeled.splits.items()
        for name, files in classes.items()
        for path in files
        if fspath(path) not in unreadable
    }
    first: dict[bytes, Path] = {}
    hashes = read_ahead(places, _hash, ahead=64)
    for (path, place), value in zip(places.items(), hashes, strict=True):
        other = first.setdefault(value, path)
        if places[other] != place:
            yield other, path


def _hash(path: Path) -> bytes:
    with path.open("rb") as file:
        return file_digest(file, "sha256").digest()
