"""Batches of images that are files or in a list, decoded in threads while the network runs."""

import logging
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from cnnarch.contents import CONTENT_LIMIT, ENDS, WHOLE, hash_file, hash_pixels
from cnnarch.embedding.batches import InputBatch, MissingImagesError, Origin, Preparation
from cnnarch.folders import printable
from cnnarch.images import Unreadable, check_file_channels, read_ahead, try_decode
from cnnarch.inputs import NamedImage, name_images

log = logging.getLogger("cnnarch")


class _Read(NamedTuple):
    """An image that was read: its prepared pixels, and a hash of its content."""

    image: Tensor | Unreadable
    content: str


class ImageListSource:
    """Images, prefetched while the network runs.

    An image is identified by its content, wherever it is: by a hash of its file, or of its pixels
    if it is not a file. In sets of files of more than 2 GiB, only the size and the first and last
    64 KiB of each file are hashed.

    Args:
        images: images of any kind that `name_images` accepts.
        prepare: converts pixels to network inputs.
        channels: 1 or 3.
        batch_size: number of images per batch.
        skip_unreadable: whether to skip images that cannot be read instead of raising an error.

    Raises:
        ValueError: a folder contains no images.
        FileNotFoundError: a file or folder does not exist.
        TypeError: an image is of another kind.
    """

    def __init__(
        self,
        images: Any,
        prepare: Preparation,
        channels: int,
        batch_size: int,
        skip_unreadable: bool,
    ) -> None:
        self.prepare, self.channels = prepare, channels
        self.batch_size, self.skip_unreadable = batch_size, skip_unreadable
        self.images = list(name_images(images))
        paths = [Path(image) for _, image in self.images if isinstance(image, str | PathLike)]
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(f"there is no file or folder {printable(str(path))}")
        if paths:
            check_file_channels(channels)
        size = sum(path.stat().st_size for path in paths)
        self.kind = WHOLE if size <= CONTENT_LIMIT else ENDS
        self.total: int | None = len(self.images)
        self.contents: list[str | None] = [None] * len(self.images)
        """The hash of each image's content; None if it is unreadable or was not read yet."""
        self.remaining: Sequence[int] = range(len(self.images))

    def skip(self, saved: Origin) -> Iterator[bytes]:
        """Return the identities of the saved images."""
        return map(str.encode, saved.contents)

    def match(self, saved: Origin) -> None:
        """Find the saved images, in any order and place, so that they are not computed again.

        If an image with a saved name has a different content, it has changed and is computed again.

        Raises:
            MissingImagesError: some of the saved images are not among the images.
        """
        if not saved.contents:
            return
        self.kind = saved.contents[0].partition(":")[0]
        counts, remaining = Counter(saved.contents), []
        found = read_ahead(self.images, self._content, ahead=2 * self.batch_size)
        for i, content in enumerate(found):
            if content is not None and counts[content]:
                counts[content] -= 1
                self.contents[i] = content
            else:
                remaining.append(i)
        names = {self.images[i].name for i in remaining}
        gone = []
        for name, content in zip(saved.names, saved.contents, strict=True):
            if counts[content]:
                counts[content] -= 1
                gone.append(name)
        if missing := [name for name in gone if name not in names]:
            raise MissingImagesError(len(missing), missing[0])
        if gone:
            log.warning(
                "%d of %d images have changed since they were saved, such as %s; their features "
                "are computed again",
                *(len(gone), len(saved.names), printable(gone[0])),
            )
        self.remaining = remaining

    def _content(self, named: NamedImage) -> str | None:
        """Return the hash of an image's content, or None if it cannot be read."""
        name, image = named
        if isinstance(image, bytes):
            return hash_file(BytesIO(image), self.kind)[1]
        if isinstance(image, str | PathLike):
            try:
                with Path(image).open("rb") as file:
                    return hash_file(file, self.kind)[1]
            except OSError:
                return None
        pixels = try_decode(image, self.channels, name)
        return None if isinstance(pixels, Unreadable) else self._pixel_content(pixels)

    def _pixel_content(self, pixels: Tensor) -> str:
        return f"{self.kind}:{hash_pixels(pixels).hex()}"

    def arrange(self, origin: Origin) -> tuple[list[int] | None, Origin]:
        """Return the order of the rows, None for the same order, and the origin in this order.

        Rows of images that have changed are not in the order.
        """
        rows: dict[str, deque[int]] = defaultdict(deque)
        for row, content in enumerate(origin.contents):
            rows[content].append(row)
        found = [(i, content) for i, content in enumerate(self.contents) if content is not None]
        order = [rows[content].popleft() for _, content in found]
        names = [self.images[i].name for i, _ in found]
        contents = [content for _, content in found]
        origin = origin._replace(size=len(order) + len(origin.unreadable), names=names)
        same = order == list(range(len(origin.contents)))
        return None if same else order, origin._replace(contents=contents)

    def __iter__(self) -> Iterator[InputBatch]:
        images = [self.images[i] for i in self.remaining]
        with closing(read_ahead(images, self._read, ahead=2 * self.batch_size)) as read:
            for start in range(0, len(images), self.batch_size):
                numbers = self.remaining[start : start + self.batch_size]
                readable, unreadable = [], []
                for i in numbers:
                    image, content = next(read)
                    if isinstance(image, Unreadable):
                        unreadable.append(image)
                    else:
                        readable.append((self.images[i].name, image, content))
                        self.contents[i] = content
                yield self._batch(len(numbers), readable, unreadable)

    def _batch(
        self,
        size: int,
        readable: Sequence[tuple[str, Tensor, str]],
        unreadable: Sequence[Unreadable],
    ) -> InputBatch:
        names, images, contents = zip(*readable, strict=True) if readable else ((), (), ())
        _check_sizes(names, images)
        return InputBatch(
            self.prepare.stack(images) if images else None,
            map(str.encode, contents),
            Origin(size, names, contents, unreadable=unreadable),
        )

    def _read(self, named: NamedImage) -> _Read:
        """Return an image's prepared pixels and a hash of its content, from the same bytes."""
        name, image = named
        content = ""
        if isinstance(image, str | PathLike):
            try:
                image = Path(image).read_bytes()
            except OSError as error:
                return self._unreadable(Unreadable(name, str(error)))
        if isinstance(image, bytes):
            content = hash_file(BytesIO(image), self.kind)[1]
        pixels = try_decode(image, self.channels, name)
        if isinstance(pixels, Unreadable):
            return self._unreadable(pixels)
        return _Read(self.prepare.one(pixels), content or self._pixel_content(pixels))

    def _unreadable(self, found: Unreadable) -> _Read:
        if not self.skip_unreadable:
            raise ValueError(found.reason)
        return _Read(found, "")


def _check_sizes(names: Sequence[str], images: Sequence[Tensor]) -> None:
    for name, image in zip(names[1:], images[1:], strict=True):
        expected = images[0].shape
        if image.shape != expected:
            raise ValueError(
                f"images must be the same size after preprocessing: {names[0]} is "
                f"{tuple(expected)}, {name} is {tuple(image.shape)}"
            )
