"""Find the splits and classes in a folder of images."""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from cnnarch.folders import (
    RUNS,
    FolderScan,
    check_folder,
    counted,
    normalized,
    printable,
    scan_folder,
    shortened,
)

SPLIT_NAMES = {
    "train": {"train", "training", "trainval", "trn"},
    "validation": {"val", "valid", "validation", "dev", "development", "eval", "evaluation"},
    "test": {"test", "testing", "tst", "holdout", "heldout"},
}
"""The usual names of split folders, in lowercase and without words such as "set" and "images"."""
NEUTRAL_WORDS = {"set", "data", "dataset", "images", "image", "imgs", "img", "split"}

NEGATIONS = ("in", "un", "non", "not", "no")
"""Prefixes by which a class such as invalid negates another class, which is then no split."""
IMAGE_WORDS = {"images", "image", "imgs", "img", "jpegimages"}
TARGET_WORDS = {"labels", "label", "annotations", "annotation", "masks", "mask", "segmentation"}
"""Names of the folders next to images in data sets of boxes (YOLO, VOC) or masks."""

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
        names: the folder of each split, relative to the folder.
        notes: what was skipped or not used, and why.
    """

    splits: dict[str, Classes]
    names: dict[str, str]
    notes: list[str]


class _Top(NamedTuple):
    """A subfolder: the images directly in it, and those in its own subfolders.

    If it contains nothing but a folder of the same name, `folder` is that folder.
    """

    folder: Path
    direct: list[Path]
    nested: list[Path]

    @property
    def total(self) -> int:
        return len(self.direct) + len(self.nested)


def label_folder(root: Path) -> LabeledFolder:
    """Find the splits and classes in a folder.

    Split folders have usual names such as Training or val, and one subfolder for each class.

    Raises:
        ValueError: the folder is missing, or its subfolders contradict each other.
    """
    check_folder(root)
    scan = scan_folder(root)
    notes = [text] if (text := scan.skipped_text()) else []
    notes += _drop_images_of_runs(scan, root)
    if loose := sum(path.parent == root for path in scan.images):
        notes.append(f"not used: {counted(loose, 'image')} directly in the folder")
    base = root if loose else _base(scan, root)
    _check_targets(scan, base)
    tops = _tops(scan, base)
    chosen = _choose_splits(base, tops)
    if not chosen:
        notes += _suspicions(tops)
        return LabeledFolder({"all": _classes(scan, base, notes)}, {}, notes)
    splits, names = {}, {}
    for role, name in chosen.items():
        top = tops[name]
        place = top.folder.relative_to(root).as_posix()
        if top.nested:
            _check_split(scan, top)
            notes += _drop_images_of_runs(scan, top.folder)
            splits[role], names[role] = _classes(scan, top.folder, notes), place
        if top.direct:
            images = counted(len(top.direct), "image")
            notes.append(f"not used: {images} without a class in {printable(place)}")
    for name in sorted(tops.keys() - chosen.values()):
        if tops[name].total:
            notes.append(f"not used: {counted(tops[name].total, 'image')} in {printable(name)}")
    notes += [
        f"{printable(name)} contains no images"
        for name in sorted(tops)
        if split_role(name) and not tops[name].total
    ]
    return LabeledFolder(splits, names, notes)


def _base(scan: FolderScan, root: Path) -> Path:
    """Return the folder of the splits or classes: the root, or the only folder in it.

    The latter is used if it has the same name, as after unpacking an archive, or contains splits.
    """
    folder = root
    while len(names := _subfolders(scan, folder)) == 1:
        inner = folder / names[0]
        below = _subfolders(scan, inner)
        roles = {split_role(name) for name in below}
        has_splits = "train" in roles and (len(roles - {None}) > 1 or None not in roles)
        if not below or not (has_splits or _same(inner.name, folder.resolve().name)):
            break
        folder = inner
    return folder


def _tops(scan: FolderScan, base: Path) -> dict[str, _Top]:
    """Return the subfolders of a folder."""
    images: dict[str, list[Path]] = {name: [] for name in _subfolders(scan, base)}
    for path in scan.images:
        parts = _below(path, base)
        if len(parts) > 1:
            images[parts[0]].append(path)
    return {name: _top(scan, base / name, found) for name, found in images.items()}


def _top(scan: FolderScan, folder: Path, images: list[Path]) -> _Top:
    """Return the images in a subfolder, or in the folder of the same name that is all it contains.

    Two names of the same split, such as val/valid, are also regarded as the same.
    """
    while True:
        parts = [(path, _below(path, folder)) for path in images]
        direct = [path for path, below in parts if len(below) == 1]
        nested = [path for path, below in parts if len(below) > 1]
        inside = {below[0] for _, below in parts}
        is_wrapper = not direct and len(inside) == 1 and _same(min(inside), folder.name)
        if not is_wrapper or len(_subfolders(scan, folder)) > 1:
            return _Top(folder, direct, nested)
        folder = folder / min(inside)


def _same(first: str, second: str) -> bool:
    """Return whether two folders have the same name or are the same split."""
    role = split_role(first) or first.casefold()
    return role == (split_role(second) or second.casefold())


def _subfolders(scan: FolderScan, parent: Path) -> list[str]:
    """Return the subfolders of a folder, except those that contain only run folders."""
    with_images = set(_counts(scan, parent))
    with_runs = _with_runs(scan, parent)
    names = [folder.name for folder in scan.folders if folder.parent == parent]
    return sorted(name for name in names if name in with_images or name not in with_runs)


def _counts(scan: FolderScan, parent: Path) -> Counter[str]:
    """Return the number of images in each subfolder that contains any."""
    return Counter(parts[0] for path in scan.images if len(parts := _below(path, parent)) > 1)


def _with_runs(scan: FolderScan, parent: Path) -> set[str]:
    """Return the subfolders that contain run folders."""
    return {parts[0] for run in scan.runs if len(parts := _below(run, parent)) > 1}


def _below(path: Path, parent: Path) -> tuple[str, ...]:
    """Return the parts of a path after a parent folder, or nothing if it is not in that folder."""
    depth = len(parent.parts)
    return path.parts[depth:] if path.parts[:depth] == parent.parts else ()


def _drop_images_of_runs(scan: FolderScan, parent: Path) -> list[str]:
    """Remove the images next to run folders in `runs`, and return notes on them.

    `runs` is a class if it contains no runs.

    Raises:
        ValueError: a folder contains runs and images, and it is unclear whether it is a class.
    """
    counts, with_runs = _counts(scan, parent), _with_runs(scan, parent)
    fewest = min((counts[name] for name in counts.keys() - with_runs), default=0)
    notes = []
    for name in sorted(counts.keys() & with_runs):
        is_default, folder, images = name == RUNS, parent / name, counted(counts[name], "image")
        if is_default and counts[name] < fewest:
            scan.images = [path for path in scan.images if not _below(path, folder)]
            notes.append(f"not used: {images} next to run folders in {name}")
        elif is_default or counts[name] < fewest:
            runs = [run for run in scan.runs if _below(run, folder)]
            listed = shortened(printable(str(run.relative_to(scan.root))) for run in runs)
            raise ValueError(
                f"{printable(str(folder))} contains {images} and "
                f"{counted(len(runs), 'run folder')} ({listed}); if it is a class, move the runs "
                "out of it; otherwise, move it out of the data folder"
            )
    return notes


def _check_split(scan: FolderScan, top: _Top) -> None:
    """Raise ValueError if the subfolders of a split folder are not classes."""
    _check_targets(scan, top.folder)
    found = {below[0] for path in top.nested if len(below := _below(path, top.folder)) > 2}
    if inner := sorted(name for name in found if split_role(name)):
        raise ValueError(
            f"{printable(str(top.folder))} contains another split folder ({', '.join(inner)}); "
            f"move it next to {printable(top.folder.name)}"
        )


def _check_targets(scan: FolderScan, parent: Path) -> None:
    """Raise ValueError if a folder contains images and their boxes or masks instead of classes."""
    names = [folder.name for folder in scan.folders if folder.parent == parent]
    images = [name for name in names if name.casefold() in IMAGE_WORDS]
    targets = [name for name in names if name.casefold() in TARGET_WORDS]
    if images and targets:
        place, found = printable(str(parent)), " and ".join((*images, *targets))
        raise ValueError(
            f"{place} contains {found}, like a data set of boxes or masks; sort the images into "
            f"one subfolder per class. If {images[0]} contains these, use "
            f"folder:{place}/{images[0]}"
        )


def _roles(tops: dict[str, _Top]) -> dict[str, list[str]]:
    """Return the folders of each split, with images if any of them contains images."""
    lower = {re.sub(r"[\W_]+", "", name.casefold()) for name in tops}
    roles: dict[str, list[str]] = {}
    for name in tops:
        word = re.sub(r"[\W_]+", "", name.casefold())
        is_negated = any(prefix + word in lower for prefix in NEGATIONS)
        if (role := split_role(name)) and not (is_negated and tops[name].direct):
            roles.setdefault(role, []).append(name)
    return {
        role: [name for name in names if tops[name].total] or names[:1]
        for role, names in roles.items()
    }


def _choose_splits(root: Path, tops: dict[str, _Top]) -> dict[str, str]:
    """Return the folder of each split, or an empty dict if the subfolders are classes.

    Raises:
        ValueError: the subfolders contradict each other; the message says what to do.
    """
    roles = _roles(tops)
    listed = [name for names in roles.values() for name in names]
    others = [name for name in tops if name not in listed and tops[name].total]
    labeled = {role for role, names in roles.items() if any(tops[name].nested for name in names)}
    if not roles or (others and not labeled and set(roles) == {"train"}):
        _check_classes(root, tops)  # among other classes, `train` is a class too
        return {}
    _check_others(root, tops, listed, others, labeled)
    for role, names in roles.items():
        if len(names) > 1:
            place, found = printable(str(root)), ", ".join(map(printable, names))
            raise ValueError(
                f"{place} contains several folders for the {role} split: {found}; merge them, or "
                "move one of them elsewhere"
            )
    unlabeled = [names[0] for role, names in roles.items() if role not in labeled]
    if not labeled or any(split_role(name) == "train" and tops[name].direct for name in unlabeled):
        raise ValueError(
            f"{printable(str(root))}: {', '.join(map(printable, unlabeled))} must contain one "
            "subfolder of images per class"
        )
    return {role: roles[role][0] for role in SPLIT_NAMES if role in roles}


def _check_others(
    root: Path, tops: dict[str, _Top], splits: list[str], others: list[str], labeled: set[str]
) -> None:
    """Raise ValueError if other folders with images next to split folders may be used."""
    trained = {
        below
        for name in splits
        if split_role(name) == "train"
        for path in tops[name].nested
        for below in _below(path, tops[name].folder)[:1]
    }
    is_clear = not trained & set(others) and not any(tops[name].nested for name in others)
    if not others or ("train" in labeled and (len(labeled) > 1 or is_clear)):
        return
    advice = "move the classes into train and test, or move the split folders elsewhere"
    if "train" in labeled:
        advice = (
            "rename the folders that are splits to train, val or test, and move the others away"
        )
    raise ValueError(
        f"{printable(str(root))} contains both split folders ({shortened(map(printable, splits))}) "
        f"and other folders of images ({shortened(map(printable, others))}); {advice}. If all of "
        "them are classes, put them below a folder called train"
    )


def _check_classes(root: Path, tops: dict[str, _Top]) -> None:
    """Raise ValueError if splits are in the classes or in their names.

    That is so if classes contain folders of several splits, or if names such as cats_train and
    cats_test differ in the split alone, or if classes called fold_train and the like all contain
    the same subfolders.
    """
    place = printable(str(root))
    inside = {_below(path, top.folder)[0] for top in tops.values() for path in top.nested}
    mixed = {role: name for name in sorted(inside) if (role := split_role(name))}
    roles: dict[tuple[str, ...], dict[str, str]] = {}
    for name in (name for name in tops if tops[name].total):
        parts = re.split(r"[\W_]+", name.casefold())
        role = next((role for part in parts if (role := split_role(part))), None)
        if role and len(parts) > 1:
            rest = tuple(part for part in parts if not split_role(part))
            roles.setdefault(rest, {})[role] = name
    alike = next((found for found in roles.values() if len(found) > 1), {})
    are_splits = any(tops[name].nested for name in alike.values())
    mixed = mixed if len(mixed) > 1 else {} if are_splits else alike
    if mixed:
        raise ValueError(
            f"{place} mixes classes and splits ({shortened(map(printable, mixed.values()))}); "
            "move the images to train/CLASS and test/CLASS"
        )
    splits = set().union(*SPLIT_NAMES.values())
    words = {word for name in tops for word in re.split(r"[\W\d_]+", name.casefold())}
    if are_splits or (words & splits and _suspicions(tops)):
        raise ValueError(
            f"{place}: {shortened(map(printable, alike.values() or tops))} contain classes and "
            "seem to be splits; rename them to train, val and test"
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
