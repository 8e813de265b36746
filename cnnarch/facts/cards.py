"""What a fact sheet says of a network, as values: its card, its figures and its twins."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from decimal import Decimal

__all__ = [
    "Counts",
    "Form",
    "ModelCard",
    "NearTwin",
    "Paper",
    "Stated",
    "Twin",
    "printed_number",
]

_POWERS = {"K": 3, "M": 6, "G": 9, "B": 9}


class Paper(NamedTuple):
    """The publication that defines a network.

    Args:
        title: as printed.
        authors: the first author and "et al.", or all if they are few.
        year: of the first public version.
        arxiv: identifier such as "1512.03385", None if it is not there.
        url: where to read it if it has no arXiv entry.
    """

    title: str
    authors: str
    year: int
    arxiv: str | None = None
    url: str | None = None

    @property
    def link(self) -> str | None:
        """Address of the paper, None if it has none."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else self.url


class Stated(NamedTuple):
    """A figure as the paper prints it.

    Args:
        figure: what it counts. Errors are percentages; they are shown and never compared.
        printed: the number as printed, with K, M, G or B for a power of ten: "3.8B", "60,000".
        source: table or section, and for errors the protocol.
        departs: why the network's exact count is not the printed one; empty where they agree.
        confirmed: False for "about", "less than" and figures without a second source: these
            are shown and never compared.
    """

    figure: Literal["params", "macs", "top1_err", "top5_err"]
    printed: str
    source: str
    departs: str = ""
    confirmed: bool = True

    def agrees(self, exact: int) -> bool:
        """Whether `exact` is within one unit of the printed number's last digit."""
        value, unit = printed_number(self.printed)
        return abs(exact - value) < unit

    @property
    def compared(self) -> bool:
        """Whether a test holds the network to this figure."""
        return self.confirmed and self.figure in ("params", "macs")


class Counts(NamedTuple):
    """Exact counts of a network whose layers have been fused for inference.

    Args:
        params: trainable parameters.
        macs: multiply-adds, as in `Form`.
    """

    params: int
    macs: int


class Form(NamedTuple):
    """Figures of a network under one set of options.

    Args:
        options: what is passed to the builder.
        params: trainable parameters.
        macs: multiply-adds of convolutions and linear layers for one image of `input_size`.
        input_size: `(C, H, W)` of the image; H and W in pixels.
        stated: figures the paper prints for this form.
        stages: output shape, without the batch, of rows of the paper's table by their name.
        counted_from: where `params` and `macs` were counted: never from the code itself.
        fused: counts after `cnnarch.inference.fuse`, None where the sheet does not say.
    """

    options: Mapping[str, Any]
    params: int
    macs: int
    input_size: tuple[int, int, int]
    stated: tuple[Stated, ...] = ()
    stages: Mapping[str, tuple[int, ...]] = {}
    counted_from: str = ""
    fused: Counts | None = None


class Twin(NamedTuple):
    """A network that another library has too, the same tensor for tensor.

    Args:
        builder: ours.
        library: as in `Layout.library`.
        name: theirs, as their factory takes it.
        options: what our builder is given to be the same network.
        arguments: what their factory is given to be the same network.
        params: of theirs, where it has more than ours for the same network.
        tolerance: largest difference between the logits that the same tensors give, over the
            largest logit: 0.0 where the operations are the same.
        note: what to know before taking one for the other.
        one_size: whether theirs takes images of the card's size alone.
    """

    builder: str
    library: str
    name: str
    options: Mapping[str, Any] = {}
    arguments: Mapping[str, Any] = {}
    params: int | None = None
    tolerance: float = 0.0
    note: str = ""
    one_size: bool = False


class NearTwin(NamedTuple):
    """A network that another library names or sizes as ours, but that is another network.

    Args:
        builder: ours, which its tensors are not for.
        library: as in `Layout.library`.
        name: theirs.
        reason: what is different.
        options: what our builder is given to leave only that difference.
        hidden: whether its state dict does not show it. Only a checkpoint that says what it is
            can then be refused.
    """

    builder: str
    library: str
    name: str
    reason: str
    options: Mapping[str, Any] = {}
    hidden: bool = False


@dataclass(frozen=True)
class ModelCard:
    """A network's identity card; `cnnarch.get_card(name)` returns it.

    `params` and `macs` are exact, at `num_classes` classes and one image of `input_size`; `form`
    has the rest of what is counted, `rows` are the forms under other options or sizes, `weights`
    the tags in the catalog.
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
        """Year of the paper, None if there is no paper."""
        return self.paper.year if self.paper else None

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of the paper's images."""
        return self.form.input_size

    @property
    def params(self) -> int:
        """Trainable parameters."""
        return self.form.params

    @property
    def macs(self) -> int:
        """Multiply-adds of one image."""
        return self.form.macs

    @property
    def stated(self) -> tuple[Stated, ...]:
        """Figures that the paper prints for it."""
        return self.form.stated

    def all_rows(self) -> tuple[Form, ...]:
        """The network as built without options, then `rows`."""
        return self.form, *self.rows


def printed_number(printed: str) -> "tuple[Decimal, Decimal]":
    """Value of a printed number and of one unit of its last digit.

    >>> printed_number("3.8B") == (3_800_000_000, 100_000_000)
    True
    """
    from decimal import Decimal  # takes a tenth of the time of importing cnnarch

    power = _POWERS.get(printed[-1], 0)
    number = Decimal(printed.rstrip("".join(_POWERS)).replace(",", ""))
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)  # a finite number: infinities have a letter here
    return number.scaleb(power), Decimal(1).scaleb(exponent + power)
