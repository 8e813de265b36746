"""Find and decode image files, and read them in threads."""

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from cnnarch.folders import (
    counted,
    image_formats,
    image_suffixes,
    is_plot,
    printable,
    scan_folder,
)

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    ImageLike: TypeAlias = str | PathLike[str] | bytes | BinaryIO | Image | np.ndarray | Tensor

T = TypeVar("T")
R = TypeVar("R")

MAX_ASPECT_RATIO = 1000
"""Maximum aspect ratio; limits the longer side after the shorter side is resized."""
TWELVE_BITS = 4096  # 16-bit images whose values are all below would keep at most 16 gray levels

MANY_FILES = 2_000  # more files are checked with a progress bar
END_BYTES = 65_536
END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}

MULTIPAGE = {"AVIF", "DCX", "FLI", "GIF", "HEIF", "IM", "PNG", "SPIDER", "TIFF", "WEBP"}
"""Formats whose files may contain several pages or frames."""

log = logging.getLogger("cnnarch")


class Unreadable(NamedTuple):
    """An image that cannot be read: its name and the reason.

    Args:
        name: path of the file, or position in the list, such as "image 3".
        reason: the error that reading it raised.
    """

    name: str
    reason: str


def find_images(paths: Iterable[str | PathLike[str]]) -> list[Path]:
    """Return the given files, and the sorted images in the given folders and their subfolders.

    Hidden folders and the folders of training runs are skipped. Files with other suffixes than
    those of the formats that Pillow decodes are counted in a log message, as are files that contain
    several images.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: a folder contains no images, or a path is empty.
    """
    found: list[Path] = []
    for given in paths:
        path = Path(given)
        if not fspath(given):
            raise ValueError("a path is empty; pass '.' for the current folder")
        if path.is_dir():
            scan = scan_folder(path)
            name, skipped = printable(str(path)), scan.skipped_text()
            if not scan.images:
                suffixes = ", ".join(sorted(image_suffixes()))
                raise ValueError(f"{name} contains no images ({skipped or suffixes})")
            if skipped:
                log.warning("%s: %s", name, skipped)
            found += scan.images
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"there is no file or folder {printable(str(path))}")
    if text := multipage_text(found):
        log.warning(text)
    return found


def multipage_text(paths: Sequence[Path]) -> str:
    """Return how many files contain several pages or frames, or an empty string if none does."""
    from PIL import Image

    suffixes = {s for s, name in Image.registered_extensions().items() if name in MULTIPAGE}
    possible = [path for path in paths if path.suffix.lower() in suffixes]
    checked = zip(possible, read_ahead(possible, _is_multipage, ahead=64), strict=True)
    found = sorted(path for path, is_multipage in checked if is_multipage)
    if not found:
        return ""
    return (
        f"only the first page or frame is used of {counted(len(found), 'file')} with several, for "
        f"example {printable(str(found[0]))}"
    )


def plots_text(paths: Sequence[Path]) -> str:
    """Return how many files among photographs are plots, or an empty string if none or most are."""
    possible = [path for path in paths if path.suffix.lower() == ".png"]
    checked = zip(possible, read_ahead(possible, is_plot, ahead=64), strict=True)
    found = sorted(path for path, is_drawn in checked if is_drawn)
    if not 0 < len(found) < len(paths) / 2:
        return ""
    return (
        f"{counted(len(found), 'image')} drawn by Matplotlib, as by cnnarch draw, for example "
        f"{printable(str(found[0]))}: move them if they are not part of the data"
    )


def _is_multipage(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path, formats=image_formats()) as file:
            return file.format in MULTIPAGE and bool(getattr(file, "is_animated", False))
    except Exception:  # Pillow raises exceptions of many types; corrupted files are reported later
        return False


def read_image(path: str | PathLike[str], channels: int = 3) -> Tensor:
    """Decode an image file and apply the rotation in its EXIF data.

    Of several pages or frames, the first is read. 16-bit channels are reduced to 8 bits, unless all
    their values fit in 8 bits. Those that reach only 256 to 4095 are rejected. Transparency is
    dropped and the stored colors are kept. Images with more than twice Pillow's
    `Image.MAX_IMAGE_PIXELS` are rejected.

    Args:
        path: a file in a format that Pillow reads.
        channels: 1 for grayscale, 3 for RGB.

    Shape:
        (channels, H, W), uint8

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: `channels` is neither 1 nor 3, or the file is corrupted or not an image. The
            message contains the file name.
    """
    return decode_image(path, channels).contiguous()


def decode_image(source: "ImageLike", channels: int = 3, name: str | None = None) -> Tensor:
    """Decode an image of any kind that `name_images` yields, keeping Pillow's memory layout.

    The channels of each pixel are adjacent in memory, which halves the resizing time. Arrays and
    tensors keep their channels.

    Args:
        source: the image, which is not changed.
        channels: 1 or 3.
        name: name of the image to show in error messages; None uses the path.

    Shape:
        (channels, H, W), uint8, a view of (H, W, channels)
    """
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(source, np.ndarray | Tensor):
        return _from_pixels(source, name or "the image")
    check_file_channels(channels)
    shown = printable(name or (f"{source}" if isinstance(source, str | PathLike) else "the image"))
    if isinstance(source, bytes):
        source = BytesIO(source)
    try:
        if isinstance(source, Image.Image):
            pixels = np.array(_upright(ImageOps.exif_transpose(source), channels))
        else:
            with Image.open(source, formats=image_formats()) as file:
                pixels = np.array(_upright(file, channels))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {shown}") from None
    except UnidentifiedImageError:
        raise ValueError(f"{shown} is not a readable image: unknown format") from None
    except Exception as error:  # Pillow raises exceptions of many types for corrupted files
        raise ValueError(f"{shown} is not a readable image: {error}") from error
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1)


def _from_pixels(image: "np.ndarray | Tensor", name: str) -> Tensor:
    """Return an array or tensor of pixels as a tensor of shape (C, H, W)."""
    if str(image.dtype).removeprefix("torch.") != "uint8":
        hint = "; pass network inputs as one tensor (N, C, H, W) to the network, embed or a figure"
        is_float = "float" in str(image.dtype)
        raise TypeError(
            f"the pixels of {name} must be uint8, got {image.dtype}{hint if is_float else ''}"
        )
    if isinstance(image, Tensor):
        pixels, order = image.cpu(), "(C, H, W)"
    else:  # copied, because it may be read-only; gray images may have two dimensions
        rows = image[..., None] if image.ndim == 2 else image
        pixels, order = torch.from_numpy(rows.copy()), "(H, W, C)"
        pixels = pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels
    if pixels.ndim != 3 or not pixels.numel():
        raise ValueError(f"{name} must have shape {order}, got {tuple(image.shape)}")
    return pixels


def check_file_channels(channels: int) -> None:
    """Raise ValueError unless image files can have this number of channels."""
    if channels not in (1, 3):
        raise ValueError(f"image files have 1 or 3 channels, but {channels} are needed")


def try_decode(source: "ImageLike", channels: int, name: str) -> Tensor | Unreadable:
    """Return the result of `decode_image`, or the reason the image cannot be read."""
    import numpy as np

    if isinstance(source, np.ndarray | Tensor):
        return _from_pixels(source, name)
    check_file_channels(channels)
    try:
        return decode_image(source, channels, name)
    except (OSError, ValueError) as error:
        return Unreadable(name, str(error))


def find_unreadable(
    paths: Sequence[Path], channels: int, *, thorough: bool = True
) -> list[Unreadable]:
    """Return the files that cannot be read, with the reasons.

    Args:
        paths: image files.
        channels: 1 or 3.
        thorough: whether to decode each file. False reads only the headers, and the ends of JPEG
            and PNG files, which truncated files lack.
    """

    def check(path: Path) -> Unreadable | None:
        if not thorough:
            return _check_ends(path)
        result = try_decode(path, channels, fspath(path))
        return result if isinstance(result, Unreadable) else None

    visible = None if len(paths) > MANY_FILES else False
    found = []
    with progress_bar("checking images", len(paths), visible) as advance:
        for result in read_ahead(paths, check, ahead=64):
            advance(1)
            if result:
                found.append(result)
    return found


def _check_ends(path: Path) -> Unreadable | None:
    from PIL import Image

    try:
        with Image.open(path, formats=image_formats()) as file:
            end = END_MARKERS.get(str(file.format))
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - END_BYTES))
            if end is None or end in stream.read():
                return None
        reason = "the file is truncated"
    except Exception as error:  # Pillow raises exceptions of many types for corrupted files
        reason = str(error)
    return Unreadable(fspath(path), f"{printable(str(path))} is not a readable image: {reason}")


def _upright(image: "Image", channels: int) -> "Image":
    """Apply the EXIF rotation and convert to gray or color, copying only if needed."""
    import numpy as np
    from PIL import Image, ImageOps

    if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
        raise ValueError("{} by {} pixels is too elongated".format(*image.size))
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        image = Image.fromarray(_to_8_bits(np.asarray(image)))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no defined white level")
    if image.mode in ("P", "PA") and "transparency" in image.info:
        image = image.convert("RGBA")  # otherwise Pillow warns about dropped transparency
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _to_8_bits(values: "np.ndarray") -> "np.ndarray":
    """Reduce 16-bit values to 8 bits; Pillow would clip every value above 255 to white.

    Raises:
        ValueError: the white level is probably neither 255 nor 65,535.
    """
    largest = int(values.max(initial=0))
    if 255 < largest < TWELVE_BITS:
        raise ValueError(
            f"its 16-bit values reach only {largest}, so at most {largest // 256 + 1} gray levels "
            "would remain in 8 bits; scale the values to 65535, or convert them to 8 bits"
        )
    return (values if largest < 256 else values >> 8).astype("uint8")


def reading_threads() -> int:
    """Return the default number of reading threads: one per available CPU, at most 8."""
    try:
        return min(8, len(os.sched_getaffinity(0)))
    except AttributeError:  # not available on every platform
        return min(8, os.cpu_count() or 1)


def read_ahead(
    items: Iterable[T], read: Callable[[T], R], *, ahead: int, num_threads: int | None = None
) -> Generator[R, None, None]:
    """Yield the result of `read` for each item, in order, while threads read the next items.

    Args:
        items: items to read; at most `ahead` of them are consumed in advance.
        read: called in the threads; its exceptions are raised in place of the result.
        ahead: maximum number of items being read or waiting to be yielded.
        num_threads: number of threads; None uses `reading_threads()`.
    """
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(num_threads or reading_threads(), "cnnarch-read")
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also runs if the caller stops early
        pool.shutdown(cancel_futures=True)


def read_together(items: Iterable[T], read: Callable[[T], R]) -> list[R]:
    """Return the result of `read` for each item, using threads that are kept for the next call.

    `read` must not call this function: the threads would deadlock.
    """
    return list(_shared_pool(os.getpid()).map(read, items))


@cache
def _shared_pool(_process: int) -> ThreadPoolExecutor:
    """Return the process's thread pool. A forked process does not inherit its parent's threads."""
    return ThreadPoolExecutor(reading_threads(), "cnnarch-read")


@contextmanager
def progress_bar(
    label: str, total: int | None, visible: bool | None
) -> Iterator[Callable[[int], object]]:
    """Show a progress bar, and yield a function that advances it by a number of images.

    Args:
        label: text before the bar.
        total: number of images, or None if it is unknown.
        visible: whether to show the bar; None shows it only in a terminal. The bar requires rich.
    """
    if not (sys.stderr.isatty() if visible is None else visible) or not find_spec("rich"):
        yield lambda _count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Otherwise, rich would send what is printed to a redirected stdout to the terminal.
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as progress:
        task = progress.add_task(label, total=total)
        yield lambda count: progress.advance(task, count)
