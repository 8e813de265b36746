"""Find the images in a folder and its subfolders, and count what is skipped."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from cnnarch.folders.names import counted, image_suffixes, is_hidden, printable, shortened

RUN_FILE = "recipe.yaml"
"""The file that marks the folder of a training run, whose pictures are not data."""
RUNS = "runs"
"""The folder in which training creates run folders by default."""


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
    """
    scan = FolderScan(root)
    _scan_into(scan, root, frozenset())
    around_runs = {folder for run in scan.runs for folder in run.parents}
    found = [path for path in scan.images if path.parent not in around_runs or not _is_plot(path)]
    scan.plots = len(scan.images) - len(found)
    scan.images = sorted(found)
    return scan


def _is_plot(path: Path) -> bool:
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
        if not entry.is_dir():
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


def check_folder(path: Path) -> None:
    """Raise ValueError unless a path is a folder."""
    if not path.is_dir():
        problem = "is not a folder" if path.exists() else "does not exist"
        raise ValueError(f"folder {printable(str(path))} {problem}")
