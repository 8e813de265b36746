"""Data classes for fact sheets: model cards, stated values and twins."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from decimal import Decimal

_POWERS = {"K": 3, "M": 6, "G": 9, "B": 9}


class Paper(NamedTuple):
    """The publication that defines a network.

    Args:
        title: title as published.
        authors: the first author and "et al.", or all authors if there are only a few.
        year: year of the first public version.
        arxiv: arXiv identifier, for example "1512.03385"; None if the paper is not on arXiv.
        url: URL of a paper that is not on arXiv.
    """

    title: str
    authors: str
    year: int
    arxiv: str | None = None
    url: str | None = None

    @property
    def link(self) -> str | None:
        """URL of the paper; None if unknown."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else self.url


class Stated(NamedTuple):
    """A value stated in the paper.

    Args:
        figure: name of the value. Error rates are percentages and are never tested.
        printed: the number as printed, with K, M, G or B for a power of ten: "3.8B", "60,000".
        source: table or section and, for an error rate, the evaluation protocol.
        departs: why the network's exact count differs from the printed one; empty if they agree.
        confirmed: False if the paper says "about" or "less than" or there is no second source.
            Unconfirmed values are never tested.
    """

    figure: Literal["params", "macs", "top1_err", "top5_err"]
    printed: str
    source: str
    departs: str = ""
    confirmed: bool = True

    def agrees(self, exact: int) -> bool:
        """Return whether `exact` is within one unit in the last digit of the printed number."""
        value, unit = printed_number(self.printed)
        return abs(exact - value) < unit

    @property
    def compared(self) -> bool:
        """Whether a test compares the network's value with the stated one."""
        return self.confirmed and self.figure in ("params", "macs")

    def verdict(self, exact: int | None) -> str:
        """Return whether the printed value agrees with the exact one, and why not.

        Args:
            exact: the network's count; None for an error rate.

        >>> Stated("params", "25.6M", "Table 1").verdict(25_557_032)
        'agrees'
        """
        if not self.confirmed:
            return f"not confirmed. {self.departs}" if self.departs else "not confirmed"
        if exact is None:
            return ""
        if self.agrees(exact):
            return "agrees"
        return f"differs. {self.departs}" if self.departs else "differs"


class Form(NamedTuple):
    """Values of a network with one set of options.

    Args:
        options: options for the builder.
        params: number of trainable parameters.
        macs: multiply-adds in convolutions and linear layers for one image of `input_size`.
        input_size: shape of the image, `(C, H, W)`; H and W in pixels.
        stated: values that the paper states for this form.
        stages: output shapes without the batch dimension, keyed by the rows of the paper's table.
        counted_from: source of `params` and `macs`; never cnnarch itself.
        stated_rows: values that the paper states for rows of its table, by row.
        fused: `params` and `macs` after `cnnarch.inference.fuse`; None if the sheet does not
            list them.
    """

    options: Mapping[str, Any]
    params: int
    macs: int
    input_size: tuple[int, int, int]
    stated: tuple[Stated, ...] = ()
    stages: Mapping[str, tuple[int, ...]] = {}
    counted_from: str = ""
    stated_rows: Mapping[str, tuple[Stated, ...]] = {}
    fused: tuple[int, int] | None = None


class Twin(NamedTuple):
    """A network in another library that matches ours tensor by tensor.

    Args:
        builder: name of our builder.
        library: name of the library, as in `Layout.library`.
        name: name that the other library's factory accepts.
        options: options of our builder that create the same network.
        arguments: arguments of the other library's factory that create the same network.
        params: the other network's number of parameters if it is larger than ours.
        tolerance: maximum difference between the logits for the same weights, divided by the
            largest logit; 0.0 if the operations are the same.
        note: differences that matter when replacing one network with the other.
        one_size: True if the other network accepts only images of the card's size, or the only
            side it accepts, in pixels.
        multiple_of: the other network accepts only images whose sides are multiples of this
            number of pixels.
    """

    builder: str
    library: str
    name: str
    options: Mapping[str, Any] = {}
    arguments: Mapping[str, Any] = {}
    params: int | None = None
    tolerance: float = 0.0
    note: str = ""
    one_size: bool | int = False
    multiple_of: int = 1


class NearTwin(NamedTuple):
    """A network in another library that shares its name or size with ours but differs from it.

    Args:
        builder: name of our builder, which must not load the other network's tensors.
        library: name of the library, as in `Layout.library`.
        name: name of the network in that library.
        reason: the difference.
        options: options of our builder for which `reason` is the only difference.
        hidden: whether the difference is invisible in the state dict. If so, a checkpoint can be
            rejected only if it states its architecture.
    """

    builder: str
    library: str
    name: str
    reason: str
    options: Mapping[str, Any] = {}
    hidden: bool = False


@dataclass(frozen=True)
class ModelCard:
    """The card of a network, returned by `cnnarch.get_card(name)`.

    `params` and `macs` are exact for `num_classes` classes and one image of `input_size`. `form`
    contains all values for the network built with default options, and `rows` those for other
    options or image sizes. `weights` contains catalog tags.
    """

    name: str
    family: str
    paper: Paper | None
    num_classes: int
    departs: tuple[str, ...]
    form: Form
    rows: tuple[Form, ...]
    build: Callable[..., Any]
    min_input_size: int
    weights: tuple[str, ...] = ()

    @property
    def year(self) -> int | None:
        """Year of the paper; None if there is no paper."""
        return self.paper.year if self.paper else None

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of the paper's images."""
        return self.form.input_size

    @property
    def params(self) -> int:
        """Number of trainable parameters."""
        return self.form.params

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return self.form.macs

    @property
    def stated(self) -> tuple[Stated, ...]:
        """Values stated in the paper."""
        return self.form.stated

    def all_rows(self) -> tuple[Form, ...]:
        """Return `form`, followed by `rows`."""
        return self.form, *self.rows


def printed_number(printed: str) -> "tuple[Decimal, Decimal]":
    """Return the value of a printed number and of one unit in its last digit.

    >>> printed_number("3.8B") == (3_800_000_000, 100_000_000)
    True
    """
    from decimal import Decimal  # at the top, it would take a tenth of the import time

    power = _POWERS.get(printed[-1], 0)
    number = Decimal(printed.rstrip("".join(_POWERS)).replace(",", ""))
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)  # the exponent is a letter only for infinity and NaN
    return number.scaleb(power), Decimal(1).scaleb(exponent + power)
