"""Find the splits and classes in a folder of images."""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from cnnarch.folders.names import counted, normalized, printable, shortened
from cnnarch.folders.scan import FolderScan, check_folder, scan_folder

SPLIT_NAMES = {
    "train": {"train", "training", "trainval", "trn"},
    "validation": {"val", "valid", "validation", "dev", "development", "eval", "evaluation"},
    "test": {"test", "testing", "tst", "holdout", "heldout"},
}
"""The usual names of split folders, in lowercase and without words such as "set" and "images"."""
NEUTRAL_WORDS = {"set", "data", "dataset", "images", "image", "imgs", "img", "split"}


Classes = dict[str, list[Path]]


def split_role(name: str) -> str | None:
    """Return "train", "validation" or "test" if a folder has a usual name of such a split.

    >>> split_role("Training"), split_role("test_images"), split_role("trains")
    ('train', 'test', None)
    """
    words = re.split(r"[\W\d_]+", name.casefold())
    word = "".join(word for word in words if word not in NEUTRAL_WORDS).removesuffix("set")
    return next((role for role, names in SPLIT_NAMES.items() if word in names), None)


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
        notes.append(f"not used: {counted(loose, 'image')} directly in the folder")
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
            notes.append(f"not used: {counted(len(direct), 'image')} without a class in {name}")
        elif not nested:
            notes.append(f"{name} contains no images")
    for name in tops:
        if not split_role(name) and (count := sum(map(len, tops[name]))):
            notes.append(f"not used: {counted(count, 'image')} in {printable(name)}")
    return LabeledFolder(splits, names, notes)


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
        _check_classes(root, tops)  # among other classes, `train` is a class too
        return {}
    if others and not ("train" in labeled and len(labeled) > 1):
        raise ValueError(
            f"{place} contains both split folders ({found}) and other folders of images "
            f"({shortened(map(printable, others))}); move the classes into train and test, or "
            "move the split folders elsewhere. If all of them are classes, put them below a folder "
            "called train"
        )
    for role, group in names.items():
        if len(group) > 1:
            listed = ", ".join(group)
            raise ValueError(f"{place} contains several folders for the {role} split: {listed}")
    unlabeled = [name for role, (name,) in names.items() if role not in labeled]
    train = [tops[name] for name in names.get("train", []) if "train" not in labeled]
    if not labeled or any(top.direct for top in train):
        raise ValueError(
            f"{place}: {', '.join(unlabeled)} must contain one subfolder of images per class"
        )
    return {role: names[role][0] for role in SPLIT_NAMES if role in names}


def _check_classes(root: Path, tops: dict[str, _Top]) -> None:
    """Raise ValueError if splits are in the classes or in their names.

    That is so if classes contain folders of several splits, if names such as cats_train and
    cats_test differ in the split alone, or if classes called seg_train and the like all contain the
    same subfolders.
    """
    place = printable(str(root))
    inside = {_below(path, root)[1] for top in tops.values() for path in top.nested}
    mixed = {role: name for name in sorted(inside) if (role := split_role(name))}
    roles: dict[tuple[str, ...], dict[str, str]] = {}
    for name in (name for name in tops if tops[name].direct):
        parts = re.split(r"[\W_]+", name.casefold())
        role = next((role for part in parts if (role := split_role(part))), None)
        if role and len(parts) > 1:
            rest = tuple(part for part in parts if not split_role(part))
            roles.setdefault(rest, {})[role] = name
    mixed = mixed if len(mixed) > 1 else next((r for r in roles.values() if len(r) > 1), {})
    if mixed:
        raise ValueError(
            f"{place} mixes classes and splits ({shortened(map(printable, mixed.values()))}); "
            "move the images to train/CLASS and test/CLASS"
        )
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
