"""Record which images a run uses, by name and content, to recognize them wherever they are."""

import csv
import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch

from cnnarch.contents import CONTENT_LIMIT, ENDS, WHOLE, hash_files
from cnnarch.folders import printable, shortened
from cnnarch.training.data import ImageData, ImageSet
from cnnarch.training.file_pixels import FilePixels
from cnnarch.training.recipe import Recipe
from cnnarch.weights.files import atomic_write

FILES = "files.csv"
WEIGHTS = "weights"
HASH = re.compile(f"({WHOLE}|{ENDS}):[0-9a-f]{{64}}")
EXAMPLES = 3  # number of names in a message

log = logging.getLogger("cnnarch")


class FileEntry(NamedTuple):
    """An image of a run, or all images of a split that is not in files.

    Args:
        split: "train", "validation", "test", or "weights" for images that the initial weights were
            trained on.
        name: path relative to the data set's folder; empty for images in memory.
        size: size in bytes.
        hash: kind and value of the hash. In sets of more than 2 GiB, only the first and last 64 KiB
            of each file are hashed.
    """

    split: str
    name: str
    size: int
    hash: str


def split_images(data: ImageData, recipe: Recipe) -> dict[str, ImageSet]:
    """Return the images that a run trains, validates and tests on."""
    train, validation = data.hold_back(recipe.validation, recipe.seed)
    splits = {"train": train, "validation": validation, "test": data.test}
    return {role: images for role, images in splits.items() if images is not None}


def describe_images(splits: Mapping[str, ImageSet], kind: str | None = None) -> list[FileEntry]:
    """Return an entry for each image file.

    Args:
        splits: the images of each split.
        kind: what is hashed; None hashes whole files if they have at most 2 GiB in total.
    """
    if kind is None:
        files = [images.pixels for images in splits.values()]
        size = sum(pixels.size for pixels in files if isinstance(pixels, FilePixels))
        kind = WHOLE if size <= CONTENT_LIMIT else ENDS
    return [entry for role, images in splits.items() for entry in _entries(role, images, kind)]


def _entries(split: str, images: ImageSet, kind: str) -> list[FileEntry]:
    pixels = images.pixels
    if not isinstance(pixels, FilePixels):
        digest = hashlib.sha256(pixels.contiguous().numpy().data)
        digest.update(images.labels.to(torch.int64).contiguous().numpy().data)
        return [FileEntry(split, "", pixels.nbytes, f"{WHOLE}:{digest.hexdigest()}")]
    hashes = hash_files(pixels.paths, kind)
    return [
        FileEntry(split, name, size, value)
        for name, (size, value) in zip(pixels.names, hashes, strict=True)
    ]


def read_record(folder: str | PathLike[str]) -> list[FileEntry]:
    """Read the record of the images in a run's folder; return an empty list if there is none.

    Raises:
        ValueError: the file is corrupted.
    """
    path = Path(folder) / FILES
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = [
                FileEntry(row["split"], row["name"], int(row["size"]), row["hash"])
                for row in csv.DictReader(file)
            ]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} is corrupted: {error!r}") from error
    if broken := next((row for row in rows if not HASH.fullmatch(row.hash)), None):
        raise ValueError(f"{path} is corrupted: {broken.hash!r} is not a hash")
    for split in ("train", "test"):  # a truncated file lacks the test images, which are last
        if split not in {row.split for row in rows}:
            raise ValueError(f"{path} is corrupted: it names no {split} images")
    return rows


def write_record(folder: Path, entries: Iterable[FileEntry]) -> None:
    """Write the record to a run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        atomic_write(folder / FILES) as part,
        part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(FileEntry._fields)
        writer.writerows(entries)


def record_images(folder: Path, data: ImageData, recipe: Recipe, resume: bool) -> None:
    """Record the images of a new run, or check that a resumed run has the same images and splits.

    Raises:
        ValueError: the images or splits differ, or the run has no record.
    """
    if resume and check_record(folder, data, recipe):
        return
    if resume and any(folder.glob("checkpoints/*.ckpt")):
        raise ValueError(
            f"{folder} contains checkpoints but no {FILES}, which earlier versions did not write; "
            "the validation images of the run are unknown, so start a new run"
        )
    if resume:
        log.warning(_why_new(folder))
    splits = split_images(data, recipe)
    entries = describe_images(splits)
    seen = _seen_by_weights(recipe)
    if entries[0].name:
        labels = [label for images in splits.values() for label in images.labels.tolist()]
        _report_duplicates(entries, labels, seen)
    write_record(folder, [*entries, *seen])


def _why_new(folder: Path) -> str:
    """Return a message that there is no run to resume, with the unfinished runs next to it."""
    names = {path.parents[1].name for path in folder.parent.glob("*/checkpoints/*.ckpt")}
    found = f" (in {folder.parent}: {shortened(map(printable, sorted(names)))})" if names else ""
    return (
        f"there is no run to resume in {printable(str(folder))}, so a new run starts there; to "
        f"resume an unfinished run{found}, stop this one and pass its folder with --output"
    )


def check_record(folder: Path, data: ImageData, recipe: Recipe) -> bool:
    """Check that a run was trained on the same images; return False if it has no record.

    Raises:
        ValueError: the images or splits differ.
    """
    old = [entry for entry in read_record(folder) if entry.split != WEIGHTS]
    if old and (
        difference := _difference(old, describe_images(split_images(data, recipe), _kind(old)))
    ):
        raise ValueError(
            f"the run in {printable(str(folder))} has other images than {printable(data.name)}: "
            f"{difference}; restore them, or start a new run"
        )
    return bool(old)


def _seen_by_weights(recipe: Recipe) -> list[FileEntry]:
    """Return the training images of the run that a recipe's initial weights come from, if any."""
    if not recipe.weights:
        return []
    path = Path(recipe.weights).expanduser().absolute()
    record = read_record(run_of(path)) if path.exists() else []
    trained = [entry for entry in record if entry.split in ("train", WEIGHTS)]
    return [entry._replace(split=WEIGHTS) for entry in trained]


def run_of(path: str | PathLike[str]) -> Path:
    """Return the folder of the run that a file belongs to, or the path itself."""
    place = Path(path)
    above = [*place.absolute().parents][:2] if place.is_file() else []
    return next((folder for folder in above if (folder / FILES).is_file()), place)


def _kind(entries: Sequence[FileEntry]) -> str:
    return entries[0].hash.partition(":")[0]


def _difference(old: Sequence[FileEntry], new: Sequence[FileEntry]) -> str:
    """Return what differs between two records, or an empty string."""
    # Two names may be the same after normalization, so entries are counted.
    missing, added = Counter(old) - Counter(new), Counter(new) - Counter(old)
    if not missing and not added:
        return ""
    if not all(entry.name for entry in (*old, *new)):
        return "their pixels or labels differ"
    before, after = ({entry.name: entry for entry in found} for found in (missing, added))
    both = sorted(before.keys() & after.keys())
    changed = [name for name in both if before[name][2:] != after[name][2:]]
    kinds = {
        "missing": sorted(before.keys() - after.keys()),
        "new": sorted(after.keys() - before.keys()),
        "changed": changed,
        "in another split": [name for name in both if name not in changed],
    }
    return ", ".join(
        f"{len(names)} {kind}{_examples(names)}" for kind, names in kinds.items() if names
    )


def _examples(names: Sequence[str]) -> str:
    rest = ", ..." if len(names) > EXAMPLES else ""
    return f" ({', '.join(map(printable, names[:EXAMPLES]))}{rest})"


def _report_duplicates(
    entries: Sequence[FileEntry], labels: Sequence[int], seen: Sequence[FileEntry]
) -> None:
    """Log each kind of byte-equal images that makes metrics doubtful, with its number of images.

    Args:
        entries: the images of all splits.
        labels: their class indices.
        seen: the images that the initial weights were trained on.
    """
    of_split = {
        split: [entry for entry in entries if entry.split == split]
        for split in ("train", "validation", "test")
    }
    trained, known = of_split["train"], {entry.hash for entry in of_split["train"]}
    for split in ("validation", "test"):
        found = of_split[split]
        rest = [entry for entry in found if entry.hash not in known]
        _report("training images", f"{split} images", found, trained)
        _report("images that the initial weights were trained on", f"{split} images", rest, seen)
    _report("validation images", "test images", of_split["test"], of_split["validation"])
    labels_of: dict[str, set[int]] = {}
    for entry, label in zip(entries, labels, strict=True):
        labels_of.setdefault(entry.hash, set()).add(label)
    labeled = [
        each for each in zip(entries, labels, strict=True) if len(labels_of[each[0].hash]) > 1
    ]
    if labeled:
        first, label = labeled[0]
        second = next(e for e, other in labeled if e.hash == first.hash and other != label)
        log.warning(
            "byte-equal, but of different classes: %d of %d images, for example %s and %s",
            *(len(labeled), len(entries), printable(first.name), printable(second.name)),
        )


def _report(
    others_text: str, text: str, found: Sequence[FileEntry], others: Sequence[FileEntry]
) -> None:
    """Log how many images are byte-equal to one of the others."""
    names = {entry.hash: entry.name for entry in others}
    same = [entry for entry in found if entry.hash in names]
    if same:
        pair = dict.fromkeys((same[0].name, names[same[0].hash]))  # of another run, maybe one name
        log.warning(
            "byte-equal to %s: %d of %d %s, for example %s",
            *(others_text, len(same), len(found), text, " and ".join(map(printable, pair))),
        )


class Overlap(NamedTuple):
    """The images of a set by their use in a run.

    Args:
        used: indices of the images that the run trained or validated on.
        others: indices of the other images.
        tested: number of the other files that are test images of the run.
        recorded: number of files that are test images of the run.
        uncompared: what could not be compared, as a sentence, or an empty string.
    """

    used: list[int]
    others: list[int]
    tested: int
    recorded: int
    uncompared: str = ""


def find_overlap(images: ImageSet, run: str | PathLike[str]) -> Overlap:
    """Compare the contents of images with those that a run, or the run of its weights, used.

    Files are compared with files. Images in memory are compared with other images in memory, and
    only as a whole.

    Raises:
        ValueError: the run's record is corrupted.
    """
    record = read_record(run_of(run))
    everything = list(range(len(images)))
    trained = {entry.hash for entry in record if entry.split != "test"}
    tested = {entry.hash for entry in record if entry.split == "test"}
    if not isinstance(images.pixels, FilePixels):
        return _compare_in_memory(images, record, trained, tested)
    used, of_run = set(), set()
    for kind in {entry.hash.partition(":")[0] for entry in record if entry.name}:
        for i, (_, value) in enumerate(hash_files(images.pixels.paths, kind)):
            used |= {i} if value in trained else set()
            of_run |= {i} if value in tested else set()
    others = [i for i in everything if i not in used]
    count = sum(entry.split == "test" for entry in record if entry.name)
    in_memory = any(not entry.name for entry in record)
    reason = "files cannot be compared with the images in memory that it used" if in_memory else ""
    return Overlap(sorted(used), others, len(of_run - used), count, reason)


def _compare_in_memory(
    images: ImageSet, record: Sequence[FileEntry], trained: set[str], tested: set[str]
) -> Overlap:
    """Compare a set in memory with the sets in memory that a run used."""
    (entry,) = _entries("", images, WHOLE) if record else (None,)
    everything = list(range(len(images)))
    is_trained = entry is not None and entry.hash in trained
    is_tested = entry is not None and entry.hash in tested
    reasons = []
    if any(other.name for other in record):
        reasons.append("images in memory cannot be compared with the files that it used")
    if any(not other.name for other in record) and not (is_trained or is_tested):
        reasons.append("images in memory are compared only as a whole, and it used other sets")
    reason = "; ".join(reasons)
    used, others = (everything, []) if is_trained else ([], everything)
    return Overlap(used, others, 0, 0, reason)


def leave_out_trained(images: ImageSet, run: str | PathLike[str]) -> ImageSet:
    """Return the images that a run has neither trained nor validated on, to evaluate its network.

    Images are recognized by the contents of their files, wherever the files are now; images in
    memory, only if they are all the images of a split. The numbers of images are logged, and what
    cannot be compared.

    Args:
        images: the images.
        run: the run's folder, or a file in it.

    Raises:
        ValueError: no image is left, or the run's record is corrupted.
    """
    used, others, tested, recorded, uncompared = find_overlap(images, run)
    place, total = printable(str(run)), len(images)
    if uncompared:
        log.warning("images that the run in %s used may be among these: %s", place, uncompared)
    if not used and not tested:
        return images
    if not others:
        raise ValueError(
            f"all {total:,} images were used for training or validation by the run in {place}, so "
            "none is left to evaluate the network on"
        )
    of_run = f"{tested:,} of them are among the {recorded:,} test images of the run in {place}"
    if not used:
        log.info("%s images; %s", f"{total:,}", of_run)
        return images
    log.warning(
        "left out %s of %s images, which were used for training or validation; %s remain; %s",
        *(f"{count:,}" for count in (len(used), total, len(others))),
        of_run,
    )
    return images.subset(torch.tensor(others))
