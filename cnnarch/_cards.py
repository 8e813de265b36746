"""What every network says of itself: its paper, its exact figures, and where it departs.

Standard library only, so that model files can declare their cards at no cost.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypeVar

__all__ = ["CARDS", "CardRow", "ModelCard", "Paper", "Stated", "printed_number", "register"]

Builder = TypeVar("Builder", bound=Callable[..., Any])

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


class CardRow(NamedTuple):
    """Figures of a network under options that change them.

    Args:
        options: what is passed to the builder.
        params: trainable parameters.
        macs: multiply-adds of convolutions and linear layers for one image of `input_size`.
        input_size: `(C, H, W)`; None means the card's own.
        stated: figures the paper prints for this form.
    """

    options: Mapping[str, Any]
    params: int
    macs: int
    input_size: tuple[int, int, int] | None = None
    stated: tuple[Stated, ...] = ()


@dataclass(frozen=True)
class ModelCard:
    """A network's identity card; `cnnarch.get_card(name)` returns it.

    `params` and `macs` are exact, at `num_classes` classes and one image of `input_size`.
    `min_input_size` and `weights` are filled in by `get_card`.
    """

    name: str
    family: str
    paper: Paper | None
    input_size: tuple[int, int, int]
    num_classes: int
    params: int
    macs: int
    stated: tuple[Stated, ...]
    departs: tuple[str, ...]
    rows: tuple[CardRow, ...]
    build: Callable[..., Any]
    min_input_size: int | None = None
    weights: tuple[str, ...] = ()

    @property
    def year(self) -> int | None:
        """Year of the paper, None if there is no paper."""
        return self.paper.year if self.paper else None

    def all_rows(self) -> tuple[CardRow, ...]:
        """The network as built without options, then `rows`, each with its input size."""
        default = CardRow({}, self.params, self.macs, self.input_size, self.stated)
        return (
            default,
            *(r._replace(input_size=r.input_size or self.input_size) for r in self.rows),
        )


CARDS: dict[str, ModelCard] = {}
"""Every registered network by name, in the order of registration."""


def printed_number(printed: str) -> tuple[Decimal, Decimal]:
    """Value of a printed number and of one unit of its last digit.

    >>> printed_number("3.8B") == (3_800_000_000, 100_000_000)
    True
    """
    power = _POWERS.get(printed[-1], 0)
    number = Decimal(printed.rstrip("".join(_POWERS)).replace(",", ""))
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)  # a finite number: infinities have a letter here
    return number.scaleb(power), Decimal(1).scaleb(exponent + power)


def register(
    paper: Paper | None,
    *,
    params: int,
    macs: int,
    input_size: tuple[int, int, int] = (3, 224, 224),
    stated: tuple[Stated, ...] = (),
    departs: tuple[str, ...] = (),
    rows: tuple[CardRow, ...] = (),
) -> Callable[[Builder], Builder]:
    """Enter a builder in the registry with the figures that its tests hold it to.

    The builder's family is the file it stands in. Its signature becomes that of the class it
    returns, whose keyword-only arguments are the options, so `help` and editors show them.

    Args:
        paper: None for a network that no paper defines.
        params: trainable parameters as built without options.
        macs: multiply-adds of convolutions and linear layers at `input_size`.
        input_size: `(C, H, W)` of the paper's experiments.
        stated: the figures the paper prints for this form.
        departs: each difference from the paper, in a sentence.
        rows: figures under options that change them.

    Raises:
        ValueError: the name is taken.
    """

    def decorate(builder: Builder) -> Builder:
        name = builder.__name__
        if name in CARDS:
            raise ValueError(f"a network called {name!r} is registered already")
        options = option_parameters(builder.__annotations__["return"])
        weights, *_ = inspect.signature(builder).parameters.values()
        signature = inspect.Signature(
            [weights, *options.values()], return_annotation=builder.__annotations__["return"]
        )
        builder.__signature__ = signature  # type: ignore[attr-defined]
        CARDS[name] = ModelCard(
            name=name,
            family=builder.__module__.rpartition(".")[2],
            paper=paper,
            input_size=input_size,
            num_classes=options["num_classes"].default,
            params=params,
            macs=macs,
            stated=stated,
            departs=departs,
            rows=rows,
            build=builder,
        )
        return builder

    return decorate


def option_parameters(network: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of a network class: what its builders take as options."""
    parameters = inspect.signature(network).parameters
    return {k: p for k, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
