"""Fact sheets: `models/<family>.toml`, read when one of its facts is first asked for."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from cnnarch.facts.builders import BUILDERS, families, family_of, option_parameters
from cnnarch.facts.cards import Counts, Form, ModelCard, NearTwin, Paper, Stated, Twin
from cnnarch.facts.schema import FAMILY_KEYS, FIGURES, LIBRARIES, sheet_faults

__all__ = [
    "Facts",
    "Sheet",
    "SheetError",
    "aliases",
    "facts_of",
    "make_card",
    "near_twins",
    "parse_sheet",
    "read_sheet",
    "twins",
]

FOLDER = Path(__file__).parent.parent / "models"
DEFAULTS = ("paper", "input_size", "min_input_size", "departs", "counted_from")
"""What a sheet says of all its networks that do not say it themselves."""


class SheetError(ValueError):
    """A sheet that does not keep the schema; the message names file and key."""


class Facts(NamedTuple):
    """What a sheet says of one network.

    Args:
        paper: None for a network that no paper defines.
        departs: each difference from the paper, in a sentence.
        min_input_size: the smallest side in pixels that the default form accepts.
        forms: the default form, then those of other options or sizes.
        twins: the same networks in other libraries.
        near_twins: networks of other libraries that look the same and are not.
        rows: module paths of rows of the paper's table that are not stages.
        recipe: as the family's, with what is different for this network, on one data set too.
    """

    paper: Paper | None
    departs: tuple[str, ...]
    min_input_size: int
    forms: tuple[Form, ...]
    twins: tuple[Twin, ...]
    near_twins: tuple[NearTwin, ...]
    rows: Mapping[str, str]
    recipe: Mapping[str, Any]


class Sheet(NamedTuple):
    """The facts of a family.

    Args:
        idea: a few sentences that a student can follow.
        recipe: how the family is trained by default, as keys of a recipe; those under "on" are
            for one data set.
        usual: the network that the family's aliases mean.
        benchmarked: networks that represent the family in benchmarks against other libraries.
        aliases: names that the command takes for `usual`.
        networks: facts by builder.
    """

    idea: str
    recipe: Mapping[str, Any]
    usual: str | None
    benchmarked: tuple[str, ...]
    aliases: tuple[str, ...]
    networks: Mapping[str, Facts]


@cache
def read_sheet(family: str) -> Sheet:
    """The sheet of a family.

    Raises:
        SheetError: it does not keep the schema.
    """
    import tomllib  # takes a tenth of the time of importing cnnarch

    path = FOLDER / f"{family}.toml"
    try:
        sheet = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SheetError(f"{path.name}: {error}") from error
    builders = {
        name: option_parameters(build.__annotations__["return"])
        for name, build in BUILDERS.items()
        if family_of(name) == family
    }
    if faults := sheet_faults(path.name, sheet, builders):
        raise SheetError(faults[0])
    return parse_sheet(sheet)


def facts_of(name: str) -> Facts:
    """What the sheet of its family says of a network."""
    return read_sheet(family_of(name)).networks[name]


def make_card(name: str, weights: tuple[str, ...] = ()) -> ModelCard:
    """The card of a network; `weights` are the tags of its checkpoints."""
    facts, build = facts_of(name), BUILDERS[name]
    default, *others = facts.forms
    options = option_parameters(build.__annotations__["return"])
    return ModelCard(
        name=name,
        family=family_of(name),
        paper=facts.paper,
        num_classes=options["num_classes"].default,
        departs=facts.departs,
        form=default,
        rows=tuple(others),
        build=build,
        min_input_size=facts.min_input_size,
        weights=weights,
    )


@cache
def aliases() -> dict[str, str]:
    """The network that each alias of a family means."""
    sheets = [read_sheet(family) for family in families()]
    return {alias: str(sheet.usual) for sheet in sheets for alias in sheet.aliases}


def twins(builder: str | None = None, library: str | None = None) -> list[Twin]:
    """Twins of one of our builders, in one library, both or all."""
    names = BUILDERS if builder is None else (builder,)
    found = [twin for name in names for twin in facts_of(name).twins]
    return [twin for twin in found if library in (None, twin.library)]


def near_twins(builder: str | None = None) -> list[NearTwin]:
    """Near twins of one of our builders, or all."""
    names = BUILDERS if builder is None else (builder,)
    return [near for name in names for near in facts_of(name).near_twins]


def parse_sheet(sheet: Mapping[str, Any]) -> Sheet:
    """A sheet that keeps the schema, as values."""
    names = [name for name in sheet if name not in FAMILY_KEYS]
    return Sheet(
        idea=sheet["idea"],
        recipe=sheet.get("recipe", {}),
        usual=sheet.get("usual"),
        benchmarked=tuple(sheet.get("benchmarked", ())),
        aliases=tuple(sheet.get("aliases", ())),
        networks={name: _facts(name, sheet[name], sheet) for name in names},
    )


def _facts(name: str, own: Mapping[str, Any], sheet: Mapping[str, Any]) -> Facts:
    facts = {**{key: sheet[key] for key in DEFAULTS if key in sheet}, **own}
    forms = (
        {
            "counted_from": sheet.get("counted_from"),  # never that of the default form
            **{"input_size": facts["input_size"], **form},
            "counts": {**facts["counts"], **form["counts"]},
        }
        for form in (facts, *facts.get("forms", ()))
    )
    twins = _elsewhere(name, facts.get("twins", ()), sheet, sheet.get("libraries", {}))
    near_twins = _elsewhere(name, facts.get("near_twins", ()), sheet, {})
    return Facts(
        paper=Paper(**facts["paper"]) if facts["paper"] else None,
        departs=tuple(sheet["departures"][key] for key in facts.get("departs", ())),
        min_input_size=facts["min_input_size"],
        forms=tuple(_form(form, sheet) for form in forms),
        twins=tuple(Twin(**row) for row in twins),
        near_twins=tuple(NearTwin(**row) for row in near_twins),
        rows={**sheet.get("rows", {}), **facts.get("rows", {})},
        recipe=_recipe(sheet.get("recipe", {}), facts.get("recipe", {})),
    )


def _recipe(family: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The family's keys under the network's own; so too for each data set."""
    on, own_on = family.get("on", {}), own.get("on", {})
    by_data = {data: {**on.get(data, {}), **own_on.get(data, {})} for data in {**on, **own_on}}
    return {**family, **own, **({"on": by_data} if by_data else {})}


def _form(form: Mapping[str, Any], sheet: Mapping[str, Any]) -> Form:
    stages = form.get("stages", ())
    shapes = sheet["stages"][stages] if isinstance(stages, str) else stages
    return Form(
        options=form.get("options", {}),
        **form["counts"],
        input_size=tuple(form["input_size"]),
        stated=tuple(_stated(form.get("printed", ()), sheet)),
        stages={row: tuple(shape) for row, *shape in shapes},
        counted_from=form["counted_from"],
        fused=Counts(**form["fused"]) if "fused" in form else None,
    )


def _stated(printed: Any, sheet: Mapping[str, Any]) -> Iterator[Stated]:
    for row in printed:
        why = sheet["notes"][row["differs"]] if "differs" in row else ""
        for figure in (key for key in row if key in FIGURES):
            source = row["source"] if "source" in row else sheet["sources"][FIGURES[figure]]
            yield Stated(figure, row[figure], source, why, row.get("confirmed", True))


def _elsewhere(
    name: str, rows: Any, sheet: Mapping[str, Any], libraries: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """`{timm = ["a", "b"]}` as a row each, with what its library's rows share."""
    for row in rows:
        given = {row: name} if isinstance(row, str) else row
        (library,) = given.keys() & set(LIBRARIES)
        rest = {**libraries.get(library, {}), **given}
        theirs = rest.pop(library)
        rest |= {key: sheet["notes"][rest[key]] for key in rest.keys() & {"note", "reason"}}
        if isinstance(rest.get("options"), str):
            rest["options"] = sheet["options"][rest["options"]]
        for one in [theirs] if isinstance(theirs, str) else theirs:
            yield {"builder": name, "library": library, "name": one, **rest}
