"""The `check` command: find out what a folder contains and which files cannot be read."""

import argparse
import logging
import sys
from pathlib import Path

from cnnarch.folders import label_folder, printable, scan_folder, shortened
from cnnarch.images import find_unreadable

log = logging.getLogger("cnnarch")


def run_check(parsed: argparse.Namespace) -> int:
    """Print what a folder contains; return status 1 if any image cannot be read.

    All images are decoded. Files with the same contents in the training and the test split are
    counted.
    """
    folder = Path(str(parsed.folder).removeprefix("folder:")).expanduser()
    if not folder.is_dir():
        raise ValueError(f"folder {printable(str(folder))} does not exist")
    scan = scan_folder(folder)
    if not scan.images:
        raise ValueError(f"{printable(str(folder))} contains no images")
    unreadable = find_unreadable(scan.images, 3)
    for file in unreadable:
        print("cnnarch:", " ".join(file.reason.split()), file=sys.stderr)
    if any(path.parent != folder for path in scan.images):
        _print_splits(folder)
    elif text := scan.skipped_text():
        print(text)
    print(f"{len(scan.images):,} images, {len(unreadable):,} of them cannot be read")
    return 1 if unreadable else 0


def _print_splits(folder: Path) -> None:
    """Print the classes and the number of images of each split, and what is not used."""
    labeled = label_folder(folder)
    for role, classes in labeled.splits.items():
        name = printable(labeled.names.get(role, "."))
        counts = shortened((f"{kind} {len(files):,}" for kind, files in classes.items()), 20)
        total = sum(map(len, classes.values()))
        print(f"{role} split, in {name}: {total:,} images of {len(classes):,} classes ({counts})")
    for note in labeled.notes:
        print(note)
