"""Scan folders: which files are images, and which files and folders are skipped."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

RUN_FILE = "recipe.yaml"
"""The file that marks the folder of a training run, whose pictures are not data."""
RUNS = "runs"
"""The folder in which training creates run folders by default."""
SYSTEM_NAMES = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
"""Names that are treated as hidden, like those that start with a dot."""

NOT_DECODED = {"EPS", "IPTC", "MPEG"}
"""Formats that Pillow identifies but does not decode by itself.

EPS runs Ghostscript, IPTC opens an embedded file of any format, and MPEG has no decoder.
"""


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


def shortened(names: Iterable[str], limit: int = 10) -> str:
    """Join names with commas; only the first `limit` are listed."""
    listed = list(names)
    rest = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + rest


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with a noun, such as 1 image or 2,000 images."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {plural or noun + 's'}"


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
        plots: number of plots in folders that contain run folders.
    """

    root: Path
    suffixes: frozenset[str] = field(default_factory=image_suffixes)
    images: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    runs: list[Path] = field(default_factory=list)
    plots: int = 0

    def skipped_text(self) -> str:
        """Return what was skipped and why, or an empty string."""
        parts = [", ".join(f"{count} {kind}" for kind, count in self.skipped.most_common())]
        if self.hidden:
            parts.append(counted(self.hidden, "hidden item"))
        if self.runs:
            names = shortened(printable(str(run.relative_to(self.root))) for run in self.runs)
            parts.append(f"{counted(len(self.runs), 'run folder')} ({names})")
        if self.plots:
            parts.append(f"{counted(self.plots, 'plot')} next to run folders")
        text = ", ".join(filter(None, parts))
        return text and f"skipped {text}"


def scan_folder(root: Path) -> FolderScan:
    """Find the images in a folder and its subfolders, and count what is skipped.

    Hidden folders, the folders of training runs and plots next to them are skipped. Links to
    folders are followed.

    Raises:
        ValueError: a folder cannot be read.
    """
    scan = FolderScan(root)
    _scan_into(scan, root, frozenset())
    around_runs = {folder for run in scan.runs for folder in run.parents}
    found = [path for path in scan.images if path.parent not in around_runs or not is_plot(path)]
    scan.plots = len(scan.images) - len(found)
    scan.images = sorted(found)
    return scan


def is_plot(path: Path) -> bool:
    """Return whether a file was drawn by matplotlib, as by `cnnarch draw` and `cnnarch compare`."""
    from PIL import Image

    if path.suffix.lower() != ".png":
        return False
    try:
        with Image.open(path, formats=["PNG"]) as file:
            return str(file.info.get("Software", "")).startswith("Matplotlib")
    except Exception:  # Pillow raises exceptions of many types; corrupted files are reported later
        return False


def _scan_into(scan: FolderScan, folder: Path, above: frozenset[tuple[int, int]]) -> None:
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ValueError(
            f"folder {printable(str(folder))} cannot be read: permission denied; change its "
            "permissions, or move it elsewhere"
        )
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
        if not _is_folder(entry):
            continue
        if is_hidden(entry.name):
            scan.hidden += 1
        else:
            (runs if os.path.isfile(path / RUN_FILE) else below).append(path)
    for entry in entries:
        if not _is_folder(entry):
            _add_file(scan, folder / entry.name, entry)
    scan.runs += runs
    for path in below:
        scan.folders.append(path)
        _scan_into(scan, path, above | {identity})


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _add_file(scan: FolderScan, path: Path, entry: "os.DirEntry[str]") -> None:
    is_image = path.suffix.lower() in scan.suffixes
    if is_hidden(entry.name):
        scan.hidden += is_image
    elif not is_image:
        scan.skipped[printable(path.suffix.lower()) or "without a suffix"] += 1
    elif path.is_file() or not path.exists():  # a missing target is reported when it is read
        scan.images.append(path)
    else:
        scan.skipped["special files"] += 1


def check_folder(path: Path) -> None:
    """Raise ValueError unless a path is a folder."""
    if not path.is_dir():
        problem = "is not a folder" if path.exists() else "does not exist"
        raise ValueError(f"folder {printable(str(path))} {problem}")
