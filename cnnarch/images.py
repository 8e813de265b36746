"""Find, decode and resize image files, ahead of who reads them."""

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "IMAGE_SUFFIXES",
    "Unreadable",
    "decode_image",
    "find_images",
    "progress_bar",
    "read_ahead",
    "read_image",
    "reading_threads",
]

T = TypeVar("T")
R = TypeVar("R")

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings, in lower case, of the files that `find_images` looks for in folders."""

MOST_ELONGATED = 1000
"""How much longer than wide an image may be, as scaling its shorter side up scales the other."""


class Unreadable(NamedTuple):
    """An image that could not be read: what it is called, and why."""

    name: str
    reason: str


def find_images(paths: Iterable[str | PathLike[str]]) -> list[Path]:
    """The files among `paths`, and the images anywhere below the folders among them, sorted.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a folder without images.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            named = (p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
            below = [p for p in named if not p.is_dir()]
            if not below:
                raise ValueError(f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)})")
            found += sorted(below)
        else:
            raise FileNotFoundError(f"there is no file or folder {path}")
    return found


def read_image(path: str | PathLike[str], channels: int = 3) -> Tensor:
    """Decode an image file, turned upright as its EXIF data says.

    16 bits a channel become 8. Transparency is left out: the colours are those stored below it.
    Pillow's `Image.MAX_IMAGE_PIXELS` holds: what claims to have more than twice that is refused.

    Args:
        path: a file that Pillow reads.
        channels: 1 for gray, 3 for red, green and blue.

    Shape:
        (channels, H, W), uint8

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a number of channels that files do not have, or a file that is not an image or
            is damaged; the message names it.
    """
    return decode_image(path, channels).contiguous()


def decode_image(
    source: "str | PathLike[str] | BinaryIO | Image", channels: int = 3, name: str | None = None
) -> Tensor:
    """`read_image` for open files and Pillow images too, in the order of rows that files have.

    The channels of a pixel lie side by side in memory, which resizing takes half the time for.

    Args:
        source: a path, an open file or a Pillow image, which stays as it is.
        channels: 1 or 3.
        name: what an error calls it; None takes the path.

    Shape:
        (channels, H, W), uint8, a view of (H, W, channels)
    """
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    if channels not in (1, 3):
        raise ValueError(f"image files give 1 or 3 channels, not {channels}")
    try:
        if isinstance(source, Image.Image):
            pixels = np.array(_upright(ImageOps.exif_transpose(source), channels))
        else:
            with Image.open(source) as file:
                pixels = np.array(_upright(file, channels))
    except FileNotFoundError:
        raise
    except UnidentifiedImageError:
        raise ValueError(f"{name or source} is not a readable image: no format fits") from None
    except Exception as error:  # on damaged files Pillow's readers raise almost anything
        raise ValueError(f"{name or source} is not a readable image: {error}") from error
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1)


def _upright(image: "Image", channels: int) -> "Image":
    """In gray or in colour, turned as EXIF says; what needs no change is not copied."""
    import numpy as np
    from PIL import Image, ImageOps

    if max(image.size) > MOST_ELONGATED * min(image.size):
        raise ValueError("{} by {} pixels are too elongated".format(*image.size))
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} do not say how bright white is")
    if image.mode.startswith("I;16"):  # Pillow would make all from 255 up white
        image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
    if image.mode in ("P", "PA") and "transparency" in image.info:
        image = image.convert("RGBA")  # else Pillow warns of what it leaves out
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def reading_threads() -> int:
    """Threads that read images: one for each processor that this process may use, at most 8."""
    try:
        return min(8, len(os.sched_getaffinity(0)))
    except AttributeError:  # not on every system
        return min(8, os.cpu_count() or 1)


def read_ahead(
    items: Iterable[T], read: Callable[[T], R], *, num_threads: int, ahead: int
) -> Generator[R, None, None]:
    """What `read` makes of each item, in order, while threads read the next ones.

    Args:
        items: taken one by one, never more than `ahead` before they are asked for.
        read: called in the threads; what it raises is raised where its item would come.
        num_threads: that read.
        ahead: how many items may be read ahead or wait.
    """
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(num_threads, "cnnarch-read")
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also where the reader stops early
        pool.shutdown(cancel_futures=True)


@contextmanager
def progress_bar(
    what: str, total: int | None, shown: bool | None
) -> Iterator[Callable[[int], object]]:
    """A function to call with each number of images done, which moves a bar.

    Args:
        what: text before the bar.
        total: images there are; None if that is not known.
        shown: None shows the bar where someone looks on, in a terminal. Without rich there is none.
    """
    if not (sys.stderr.isatty() if shown is None else shown) or not find_spec("rich"):
        yield lambda _count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)
