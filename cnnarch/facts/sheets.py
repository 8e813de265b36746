"""Fact sheets: `models/<family>.toml`, read on first use."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from cnnarch.facts.builders import BUILDERS, families, family_of, option_parameters
from cnnarch.facts.cards import Form, ModelCard, NearTwin, Paper, Stated, Twin
from cnnarch.facts.schema import FAMILY_KEYS, FIGURES, LIBRARIES, sheet_faults

FOLDER = Path(__file__).parent.parent / "models"
DEFAULTS = ("paper", "input_size", "min_input_size", "departs", "counted_from")
"""Family keys that apply to every network that does not override them."""


class SheetError(ValueError):
    """A sheet violates the schema. The message names the file and the key."""


class Facts(NamedTuple):
    """The facts about one network.

    Args:
        paper: the paper that defines the network; None if there is none.
        departs: one sentence for each difference from the paper.
        min_input_size: minimum image side in pixels that the default form accepts.
        forms: the default form, followed by those with other options or image sizes.
        twins: networks in other libraries that match this one.
        near_twins: networks in other libraries that look the same but differ.
        rows: module paths for the rows of the paper's table that are not stages.
        recipe: the family's recipe with this network's changes applied.
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
    """The facts about a family.

    Args:
        problem: what earlier networks could not do, for students.
        idea: what is new in these networks.
        followed: what the idea achieved, and which networks use it.
        recipe: default settings of the training recipe. "on" contains one table per data set.
        usual: the network to which the family's aliases refer.
        block: path of the block in `usual` that the site draws; None for the most common block.
        benchmarked: networks that represent the family in benchmarks against other libraries.
        aliases: names that the command line accepts for `usual`.
        networks: facts by builder name.
    """

    problem: str
    idea: str
    followed: str
    recipe: Mapping[str, Any]
    usual: str | None
    block: str | None
    benchmarked: tuple[str, ...]
    aliases: tuple[str, ...]
    networks: Mapping[str, Facts]


@cache
def read_sheet(family: str) -> Sheet:
    """Read a family's sheet.

    Raises:
        SheetError: the sheet cannot be read or violates the schema.
    """
    import tomllib  # at the top, it would take a tenth of the import time

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
    """Return the facts about a network from its family's sheet."""
    return read_sheet(family_of(name)).networks[name]


def make_card(name: str, weights: tuple[str, ...] = ()) -> ModelCard:
    """Return the card of a network; `weights` are the tags of its checkpoints."""
    facts, build = facts_of(name), BUILDERS[name]
    default, *rows = facts.forms
    options = option_parameters(build.__annotations__["return"])
    return ModelCard(
        name=name,
        family=family_of(name),
        paper=facts.paper,
        num_classes=options["num_classes"].default,
        departs=facts.departs,
        form=default,
        rows=tuple(rows),
        build=build,
        min_input_size=facts.min_input_size,
        weights=weights,
    )


@cache
def aliases() -> dict[str, str]:
    """Return a mapping from every family alias to its network."""
    sheets = [read_sheet(family) for family in families()]
    return {alias: str(sheet.usual) for sheet in sheets for alias in sheet.aliases}


def twins(builder: str | None = None, library: str | None = None) -> list[Twin]:
    """Return the `Twin` entries of one or all builders and libraries."""
    names = BUILDERS if builder is None else (builder,)
    found = [twin for name in names for twin in facts_of(name).twins]
    return [twin for twin in found if library in (None, twin.library)]


def namesakes(name: str | None) -> str:
    """Return a hint for error messages if a library gives our name of a network to another one.

    torchvision's alexnet is our alexnet_owt, for example. The hint is the same for both networks,
    and empty for all others.
    """
    others = dict.fromkeys(
        (twin.library, twin.name, twin.builder)
        for twin in twins()
        if twin.name in BUILDERS and twin.name != twin.builder
    )
    return "".join(
        f"; {library}'s {plain} is {theirs}, and the paper's is {plain}"
        for library, plain, theirs in others
        if name in (plain, theirs)
    )


def near_twins(builder: str | None = None) -> list[NearTwin]:
    """Return the `NearTwin` entries of one or all builders."""
    names = BUILDERS if builder is None else (builder,)
    return [near for name in names for near in facts_of(name).near_twins]


def parse_sheet(sheet: Mapping[str, Any]) -> Sheet:
    """Convert a valid sheet to a `Sheet`."""
    names = [name for name in sheet if name not in FAMILY_KEYS]
    return Sheet(
        problem=sheet["problem"],
        idea=sheet["idea"],
        followed=sheet["followed"],
        recipe=sheet.get("recipe", {}),
        usual=sheet.get("usual"),
        block=sheet.get("block"),
        benchmarked=tuple(sheet.get("benchmarked", ())),
        aliases=tuple(sheet.get("aliases", ())),
        networks={name: _facts(name, sheet[name], sheet) for name in names},
    )


def _facts(name: str, table: Mapping[str, Any], sheet: Mapping[str, Any]) -> Facts:
    facts = {**{key: sheet[key] for key in DEFAULTS if key in sheet}, **table}
    forms = (
        {
            "counted_from": sheet.get("counted_from"),  # not inherited from the default form
            **{"input_size": facts["input_size"], **form},
            "counts": {**facts["counts"], **form["counts"]},
        }
        for form in (facts, *facts.get("forms", ()))
    )
    twins = _library_rows(name, facts.get("twins", ()), sheet, sheet.get("libraries", {}))
    near_twins = _library_rows(name, facts.get("near_twins", ()), sheet, {})
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


def _recipe(family: Mapping[str, Any], network: Mapping[str, Any]) -> dict[str, Any]:
    """Override the family's settings with the network's, including those for each data set."""
    on, override = family.get("on", {}), network.get("on", {})
    by_data = {data: {**on.get(data, {}), **override.get(data, {})} for data in {**on, **override}}
    return {**family, **network, **({"on": by_data} if by_data else {})}


def _form(form: Mapping[str, Any], sheet: Mapping[str, Any]) -> Form:
    stages = form.get("stages", ())
    shapes = sheet["stages"][stages] if isinstance(stages, str) else stages
    stated_rows: dict[str, tuple[Stated, ...]] = {}
    for row in form.get("printed_rows", ()):
        stated_rows[row["row"]] = (*stated_rows.get(row["row"], ()), *_stated([row], sheet))
    return Form(
        options=form.get("options", {}),
        **form["counts"],
        input_size=tuple(form["input_size"]),
        stated=tuple(_stated(form.get("printed", ()), sheet)),
        stages={row: tuple(shape) for row, *shape in shapes},
        counted_from=form["counted_from"],
        stated_rows=stated_rows,
        fused=(form["fused"]["params"], form["fused"]["macs"]) if "fused" in form else None,
    )


def _stated(printed: Any, sheet: Mapping[str, Any]) -> Iterator[Stated]:
    for row in printed:
        why = sheet["notes"][row["differs"]] if "differs" in row else ""
        for figure in (key for key in row if key in FIGURES):
            source = row["source"] if "source" in row else sheet["sources"][FIGURES[figure]]
            yield Stated(figure, row[figure], source, why, row.get("confirmed", True))


def _library_rows(
    name: str, rows: Any, sheet: Mapping[str, Any], libraries: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield one row for each name in `{timm = ["a", "b"]}`, with the settings of its library."""
    for row in rows:
        table = {row: name} if isinstance(row, str) else row
        (library,) = table.keys() & set(LIBRARIES)
        facts = {**libraries.get(library, {}), **table}
        theirs = facts.pop(library)
        facts |= {key: sheet["notes"][facts[key]] for key in facts.keys() & {"note", "reason"}}
        if isinstance(facts.get("options"), str):
            facts["options"] = sheet["options"][facts["options"]]
        for their_name in [theirs] if isinstance(theirs, str) else theirs:
            yield {"builder": name, "library": library, "name": their_name, **facts}
