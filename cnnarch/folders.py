"""Scan folders of images: which files are images, and which splits and classes they belong to."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

RUN_FILE = "recipe.yaml"
"""The file that marks the folder of a training run, whose pictures are not data."""
COMPARISON = "comparison.png"
"""The picture that `cnnarch compare` writes next to its run folders."""
SYSTEM_NAMES = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
"""Names that are treated as hidden, like those that start with a dot."""

SPLIT_NAMES = {
    "train": {"train", "training", "trainval", "trn"},
    "validation": {"val", "valid", "validation", "dev", "development", "eval", "evaluation"},
    "test": {"test", "testing", "tst", "holdout", "heldout"},
}
"""The usual names of split folders, in lowercase and without words such as "set" and "images"."""
NEUTRAL_WORDS = {"set", "data", "dataset", "images", "image", "imgs", "img", "split"}

NOT_DECODED = {"EPS", "IPTC", "MPEG"}
"""Formats that Pillow identifies but does not decode by itself.

EPS runs Ghostscript, IPTC opens an embedded file of any format, and MPEG has no decoder.
"""

Classes = dict[str, list[Path]]


def image_formats() -> tuple[str, ...]:
    """Return the names of the formats that Pillow decodes without running another program.

    Formats that a plugin registers, such as HEIF, are included.
    """
    from PIL import Image

    Image.init()
    return _decoded(tuple(Image.ID))


@cache
def _decoded(formats: tuple[str, ...]) -> tuple[str, ...]:
    from PIL import Image, ImageFile

    def decodes(name: str) -> bool:
        factory = Image.OPEN[name][0]
        is_stub = isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
        return name not in NOT_DECODED and not is_stub

    return tuple(filter(decodes, formats))


def image_suffixes() -> frozenset[str]:
    """Return the suffixes, in lowercase, of the files in folders that are treated as images."""
    from PIL import Image

    formats = {*image_formats(), "MPO"}  # opened as JPEG
    return frozenset(s for s, name in Image.registered_extensions().items() if name in formats)


def printable(name: str) -> str:
    r"""Return a name with escapes for bytes that are not UTF-8 and for control characters.

    >>> printable("K\udce4fer.jpg")
    'K\\xe4fer.jpg'
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def normalized(name: str) -> str:
    """Return a name in Unicode's composed form, so that copies between systems keep their names."""
    return unicodedata.normalize("NFC", name)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is not part of the data."""
    return name.startswith(".") or name in SYSTEM_NAMES


def split_role(name: str) -> str | None:
    """Return "train", "validation" or "test" if a folder has a usual name of such a split.

    >>> split_role("Training"), split_role("test_images"), split_role("trains")
    ('train', 'test', None)
    """
    words = re.split(r"[\W\d_]+", name.casefold())
    word = "".join(word for word in words if word not in NEUTRAL_WORDS).removesuffix("set")
    return next((role for role, names in SPLIT_NAMES.items() if word in names), None)


@dataclass
class FolderScan:
    """The contents of a folder and its subfolders.

    Args:
        root: the folder.
        suffixes: the suffixes of images.
        images: the image files, sorted. Links to missing files are included.
        folders: the subfolders at any depth, without hidden folders and run folders.
        skipped: number of other files for each suffix.
        hidden: number of hidden folders and hidden images.
        runs: the folders of training runs.
    """

    root: Path
    suffixes: frozenset[str] = field(default_factory=image_suffixes)
    images: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    runs: list[Path] = field(default_factory=list)

    def skipped_text(self) -> str:
        """Return what was skipped and why, or an empty string."""
        parts = [", ".join(f"{count} {kind}" for kind, count in self.skipped.most_common())]
        if self.hidden:
            parts.append(_count(self.hidden, "hidden item"))
        if self.runs:
            names = shortened(printable(str(run.relative_to(self.root))) for run in self.runs)
            parts.append(f"{_count(len(self.runs), 'run folder')} ({names})")
        text = ", ".join(filter(None, parts))
        return text and f"skipped {text}"


def scan_folder(root: Path) -> FolderScan:
    """Find the images in a folder and its subfolders, and count what is skipped.

    Hidden folders and the folders of training runs are skipped. Links to folders are followed.
    """
    scan = FolderScan(root)
    _scan_into(scan, root, frozenset())
    scan.images.sort()
    return scan


def _scan_into(scan: FolderScan, folder: Path, above: frozenset[tuple[int, int]]) -> None:
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:  # a link to a parent folder
        return
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    below: list[Path] = []
    runs: list[Path] = []
    for entry in entries:
        path = folder / entry.name
        if not entry.is_dir():
            continue
        if is_hidden(entry.name):
            scan.hidden += 1
        else:
            (runs if (path / RUN_FILE).is_file() else below).append(path)
    for entry in entries:
        if not entry.is_dir() and not (runs and entry.name == COMPARISON):
            _add_file(scan, folder / entry.name, entry)
    scan.runs += runs
    for path in below:
        scan.folders.append(path)
        _scan_into(scan, path, above | {identity})


def _add_file(scan: FolderScan, path: Path, entry: "os.DirEntry[str]") -> None:
    is_image = path.suffix.lower() in scan.suffixes
    if is_hidden(entry.name):
        scan.hidden += is_image
    elif not is_image:
        scan.skipped[printable(path.suffix.lower()) or "without a suffix"] += 1
    elif entry.is_file() or not path.exists():  # a missing target is reported when it is read
        scan.images.append(path)
    else:
        scan.skipped["special files"] += 1


class LabeledFolder(NamedTuple):
    """The images of a folder by split and class.

    Args:
        splits: the files of each class for "train", "validation" and "test", or for "all" if the
            folder has no split folders. A class may have no files.
        names: the folder of each split.
        notes: what was skipped or not used, and why.
    """

    splits: dict[str, Classes]
    names: dict[str, str]
    notes: list[str]


class _Top(NamedTuple):
    """A subfolder of the root: the images directly in it, and those in its own subfolders."""

    direct: list[Path]
    nested: list[Path]


def label_folder(root: Path) -> LabeledFolder:
    """Find the splits and classes in a folder.

    Split folders have usual names such as Training or val, and one subfolder for each class.

    Raises:
        ValueError: the folder is missing, or its subfolders contradict each other.
    """
    check_folder(root)
    scan = scan_folder(root)
    tops = _top_folders(scan)
    names = _choose_splits(root, tops)
    notes = [text] if (text := scan.skipped_text()) else []
    if loose := sum(path.parent == root for path in scan.images):
        notes.append(f"not used: {_count(loose, 'image')} directly in the folder")
    if not names:
        notes += _suspicions(tops)
        return LabeledFolder({"all": _classes(scan, root, notes)}, {}, notes)
    splits = {}
    for role, name in list(names.items()):
        direct, nested = tops[name]
        if nested:
            splits[role] = _classes(scan, root / name, notes)
        else:
            del names[role]
        if direct:
            notes.append(f"not used: {_count(len(direct), 'image')} without a class in {name}")
        elif not nested:
            notes.append(f"{name} contains no images")
    for name in tops:
        if not split_role(name) and (count := sum(map(len, tops[name]))):
            notes.append(f"not used: {_count(count, 'image')} in {printable(name)}")
    return LabeledFolder(splits, names, notes)


def check_folder(path: Path) -> None:
    """Raise ValueError unless a path is a folder."""
    if not path.is_dir():
        problem = "is not a folder" if path.exists() else "does not exist"
        raise ValueError(f"folder {printable(str(path))} {problem}")


def _top_folders(scan: FolderScan) -> dict[str, _Top]:
    tops = {name: _Top([], []) for name in _subfolders(scan, scan.root)}
    for path in scan.images:
        parts = _below(path, scan.root)
        if len(parts) > 1:
            tops[parts[0]][len(parts) > 2].append(path)
    return tops


def _subfolders(scan: FolderScan, parent: Path) -> list[str]:
    """Return the subfolders of a folder, except those that contain only run folders."""
    with_images = {parts[0] for path in scan.images if len(parts := _below(path, parent)) > 1}
    with_runs = {parts[0] for run in scan.runs if (parts := _below(run, parent))}
    names = [folder.name for folder in scan.folders if folder.parent == parent]
    return sorted(name for name in names if name in with_images or name not in with_runs)


def _below(path: Path, parent: Path) -> tuple[str, ...]:
    """Return the parts of a path after a parent folder, or nothing if it is not in that folder."""
    depth = len(parent.parts)
    return path.parts[depth:] if path.parts[:depth] == parent.parts else ()


def _choose_splits(root: Path, tops: dict[str, _Top]) -> dict[str, str]:
    """Return the folder of each split, or an empty dict if the subfolders are classes.

    Raises:
        ValueError: the subfolders contradict each other; the message says what to do.
    """
    place = printable(str(root))
    names: dict[str, list[str]] = {}
    for name in tops:
        if role := split_role(name):
            names.setdefault(role, []).append(name)
    others = [name for name in tops if not split_role(name) and any(tops[name])]
    labeled = {role for role, found in names.items() if any(tops[name].nested for name in found)}
    found = ", ".join(name for group in names.values() for name in group)
    if not names or (others and not labeled and set(names) == {"train"}):
        _check_classes(place, tops)  # among other classes, `train` is a class too
        return {}
    if others and not ("train" in labeled and len(labeled) > 1):
        raise ValueError(
            f"{place} contains both split folders ({found}) and other folders of images "
            f"({shortened(map(printable, others))}); move the classes into train and test, or "
            "move the split folders elsewhere"
        )
    for role, group in names.items():
        if len(group) > 1:
            raise ValueError(f"{place} contains several folders for the {role} split: {found}")
    unlabeled = [name for role, (name,) in names.items() if role not in labeled]
    train = [tops[name] for name in names.get("train", []) if "train" not in labeled]
    if not labeled or any(top.direct for top in train):
        raise ValueError(
            f"{place}: {', '.join(unlabeled)} must contain one subfolder of images per class"
        )
    return {role: names[role][0] for role in SPLIT_NAMES if role in names}


def _check_classes(place: str, tops: dict[str, _Top]) -> None:
    """Raise ValueError if classes with names such as seg_train all contain the same subfolders."""
    splits = set().union(*SPLIT_NAMES.values())
    words = {word for name in tops for word in re.split(r"[\W\d_]+", name.casefold())}
    if words & splits and _suspicions(tops):
        raise ValueError(
            f"{place}: {shortened(map(printable, tops))} contain the same subfolders and seem to "
            "be splits; rename them to train, val and test"
        )


def _suspicions(tops: dict[str, _Top]) -> list[str]:
    """Return a note if all classes contain the same subfolders, as splits or folds do."""
    below = {frozenset(path.parent.name for path in top.nested) for top in tops.values()}
    if len(tops) < 2 or len(below) > 1 or len(*below) < 2:
        return []
    return [
        f"all classes contain the same subfolders ({shortened(map(printable, sorted(*below)))})"
    ]


def _classes(scan: FolderScan, parent: Path, notes: list[str]) -> Classes:
    """Return the images of each class; folder names that differ only in their encoding are one."""
    folders: dict[str, str] = {
        name: normalized(printable(name)) for name in _subfolders(scan, parent)
    }
    classes: Classes = {name: [] for name in sorted(folders.values())}
    for name, count in Counter(folders.values()).items():
        if count > 1:
            notes.append(f"{count} folders are named {name} in different encodings")
    for path in scan.images:
        parts = _below(path, parent)
        if len(parts) > 1:
            classes[folders[parts[0]]].append(path)
    return classes


def shortened(names: Iterable[str], limit: int = 10) -> str:
    """Join names with commas; only the first `limit` are listed."""
    listed = list(names)
    rest = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + rest


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"
