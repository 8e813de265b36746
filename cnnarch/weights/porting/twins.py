"""Which network of another library is which of ours: for the catalog, the tests and the docs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["TWINS", "Twin", "twins"]


class Twin(NamedTuple):
    """A network that another library has too, the same tensor for tensor.

    Args:
        builder: ours.
        library: as in `Layout.library`.
        name: theirs, as their factory takes it.
        options: what our builder is given to be the same network.
        note: what to know before taking one for the other.
    """

    builder: str
    library: str
    name: str
    options: Mapping[str, Any] = {}
    note: str = ""


_LITE = "efficientnet_lite_pytorch"
_AS_TENSORFLOW = {"padding": "same"}
_PAPER_STRIDE = {"stride_in_1x1": True}

TWINS = (
    *(Twin(f"resnet{d}", "torchvision", f"resnet{d}") for d in (18, 34, 50, 101, 152)),
    *(Twin(f"resnet{d}", "timm", f"resnet{d}") for d in (18, 34, 50, 101, 152)),
    *(Twin(f"resnet{d}", "pytorchcv", f"resnet{d}") for d in (18, 34)),
    *(Twin(f"resnet{d}", "pytorchcv", f"resnet{d}", _PAPER_STRIDE) for d in (50, 101, 152)),
    *(Twin(f"resnet{d}", "pytorchcv", f"resnet{d}b") for d in (50, 101, 152)),
    *(
        Twin(
            f"efficientnet_lite{i}", "efficientnet_pytorch", f"efficientnet-lite{i}", _AS_TENSORFLOW
        )
        for i in range(5)
    ),
)
"""Families in the order of the docs; a row a network of theirs."""


def twins(builder: str | None = None, library: str | None = None) -> list[Twin]:
    """Rows of one of our builders, of one library, of both or all."""
    return [t for t in TWINS if builder in (None, t.builder) and library in (None, t.library)]
