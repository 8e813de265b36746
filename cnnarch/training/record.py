"""Record which images a run uses, by name and content, to recognize them wherever they are."""

import csv
import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch

from cnnarch.contents import CONTENT_LIMIT, ENDS, WHOLE, hash_files
from cnnarch.folders import printable
from cnnarch.training.data import ImageData, ImageSet
from cnnarch.training.file_pixels import FilePixels
from cnnarch.training.recipe import Recipe
from cnnarch.weights.files import atomic_write

FILES = "files.csv"
WEIGHTS = "weights"
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


def describe_images(data: ImageData, recipe: Recipe, kind: str | None = None) -> list[FileEntry]:
    """Return an entry for each image file that a run trains, validates and tests on.

    Args:
        data: the data set.
        recipe: determines the validation split.
        kind: what is hashed; None hashes whole files if they have at most 2 GiB in total.
    """
    train, validation = data.hold_back(recipe.validation, recipe.seed)
    splits = {"train": train, "validation": validation, "test": data.test}
    sets = {role: images for role, images in splits.items() if images is not None}
    if kind is None:
        files = [images.pixels for images in sets.values()]
        size = sum(pixels.size for pixels in files if isinstance(pixels, FilePixels))
        kind = WHOLE if size <= CONTENT_LIMIT else ENDS
    return [entry for role, images in sets.items() for entry in _entries(role, images, kind)]


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
    if not rows:
        raise ValueError(f"{path} is corrupted: it names no images")
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
    entries = [*describe_images(data, recipe), *_seen_by_weights(recipe)]
    _report_duplicates(entries)
    write_record(folder, entries)


def check_record(folder: Path, data: ImageData, recipe: Recipe) -> bool:
    """Check that a run was trained on the same images; return False if it has no record.

    Raises:
        ValueError: the images or splits differ.
    """
    old = [entry for entry in read_record(folder) if entry.split != WEIGHTS]
    if old and (difference := _difference(old, describe_images(data, recipe, _kind(old)))):
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


def _report_duplicates(entries: Sequence[FileEntry]) -> None:
    """Log how many test and validation images are byte-equal to training images."""
    trained = {entry.hash: entry.name for entry in entries if entry.split in (WEIGHTS, "train")}
    for split in ("validation", "test"):
        found = [entry for entry in entries if entry.split == split and entry.name]
        same = [entry for entry in found if entry.hash in trained]
        if same:
            log.warning(
                "byte-equal to training images: %d of %d %s images, for example %s and %s",
                *(len(same), len(found), split),
                *map(printable, (same[0].name, trained[same[0].hash])),
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
