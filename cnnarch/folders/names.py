"""Names of files and folders: which are images, which are hidden, and how to print them."""

import os
import unicodedata
from collections.abc import Iterable
from functools import cache

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
