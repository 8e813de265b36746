"""The schema of fact sheets: `sheet_faults` says what is wrong with one, by file and key."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from cnnarch.facts.suggestions import suggest

__all__ = ["FAMILY_KEYS", "FIGURES", "LIBRARIES", "TRAINED_ON", "alias_faults", "sheet_faults"]

Table = Mapping[str, Any]

LIBRARIES = ("torchvision", "timm", "pytorchcv", "cadene", "efficientnet_pytorch")
"""Libraries that may have twins; "cadene" is pretrainedmodels."""
FIGURES = {"params": "params", "macs": "macs", "top1_err": "errors", "top5_err": "errors"}
"""What a paper prints of a network, each with the key of `sources` that says where."""
TRAINED_ON = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100")
"""Data sets that a recipe may say something of; those of `cnnarch.training`."""


class Kind(NamedTuple):
    """What a key may hold: in words, and as a test of the value."""

    words: str
    holds: Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0  # a bool is an int for isinstance


def _is_list_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(test, value))


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_row(value: Any) -> bool:
    sized = isinstance(value, list) and len(value) in (2, 4)
    return sized and _is_text(value[0]) and all(map(_is_count, value[1:]))


def _is_size(value: Any) -> bool:
    return _is_list_of(_is_count)(value) and len(value) == 3


def _is_printed(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\d,]*\d(\.\d+)?[KMGB]?", value) is not None


TEXT = Kind("a string that is not empty", _is_text)
SENTENCE = Kind("a sentence with a full stop", lambda v: _is_text(v) and v.endswith("."))
COUNT = Kind("a whole number above 0", _is_count)
TOLERANCE = Kind("a number such as 1e-5", lambda v: isinstance(v, float) and 0 <= v < 1)
FLAG = Kind("true or false", lambda v: isinstance(v, bool))
SIZE = Kind("three whole numbers above 0", _is_size)
NAMES = Kind("an array of strings", _is_list_of(_is_text))
TABLE = Kind("a table", _is_table)
TABLES = Kind("an array of tables", _is_list_of(_is_table))
TWINS = Kind(
    "an array of tables and of libraries", _is_list_of(lambda v: _is_text(v) or _is_table(v))
)
THEIRS = Kind("a name or an array of names", lambda v: _is_text(v) or (v != [] and NAMES.holds(v)))
OPTIONS = Kind("a table, or the name of one in options", lambda v: _is_text(v) or _is_table(v))
PAPER = Kind("a table, or false where there is none", lambda v: v is False or _is_table(v))
PRINTED = Kind('a number as printed, such as "3.8B"', _is_printed)
ROWS = Kind('an array of rows such as ["conv1", 64, 112, 112]', _is_list_of(_is_row))
SHAPES = Kind(f"{ROWS.words}, or the name of one in stages", lambda v: _is_text(v) or ROWS.holds(v))

COUNTS = {"params": COUNT, "macs": COUNT}
FORM = {
    "counts": TABLE,
    "options": TABLE,
    "input_size": SIZE,
    "counted_from": TEXT,
    "stages": SHAPES,
    "printed": TABLES,
    "fused": TABLE,
}
NETWORK = {
    **{key: kind for key, kind in FORM.items() if key != "options"},
    "min_input_size": COUNT,
    "paper": PAPER,
    "departs": NAMES,
    "twins": TWINS,
    "near_twins": TABLES,
    "rows": TABLE,
    "recipe": TABLE,
    "forms": TABLES,
}
FAMILY_KEYS = {
    "idea": TEXT,
    "usual": TEXT,
    "aliases": NAMES,
    "benchmarked": NAMES,
    "input_size": SIZE,
    "min_input_size": COUNT,
    "counted_from": TEXT,
    "departs": NAMES,
    "paper": PAPER,
    "recipe": TABLE,
    "departures": TABLE,
    "notes": TABLE,
    "rows": TABLE,
    "stages": TABLE,
    "options": TABLE,
    "sources": TABLE,
    "libraries": TABLE,
}
"""Keys of a sheet that are about the family; all others are its networks."""
PAPER_KEYS = {"title": TEXT, "authors": TEXT, "year": COUNT, "arxiv": TEXT, "url": TEXT}
PRINTED_KEYS = {
    **dict.fromkeys(FIGURES, PRINTED),
    "source": TEXT,
    "differs": TEXT,
    "confirmed": FLAG,
}
LIBRARY = {"options": OPTIONS, "tolerance": TOLERANCE, "note": TEXT, "one_size": FLAG}
ELSEWHERE = {**dict.fromkeys(LIBRARIES, THEIRS), "options": OPTIONS}
TWIN = {**ELSEWHERE, **LIBRARY, "arguments": TABLE, "params": COUNT}
NEAR_TWIN = {**ELSEWHERE, "reason": TEXT, "hidden": FLAG}
NAMED: dict[str, Kind | dict[str, Kind]] = {
    "departures": SENTENCE,
    "notes": SENTENCE,
    "stages": ROWS,
    "options": TABLE,
    "sources": dict.fromkeys(FIGURES.values(), TEXT),
    "libraries": dict.fromkeys(LIBRARIES, TABLE),
}
"""Tables of what several networks share: what any name may hold, or each of the known ones."""


def sheet_faults(file: str, sheet: Table, builders: Mapping[str, Collection[str]]) -> list[str]:
    """Every fault of a parsed sheet, each with file and key; none if it keeps the schema.

    Args:
        file: its name, for the messages.
        sheet: what tomllib gives.
        builders: the networks that the model file beside it defines, with their options.
    """
    check = _Check(builders)
    check.family(sheet)
    return [f"{file}: {fault}" for fault in check.faults]


def alias_faults(sheets: Mapping[str, Table], builders: Iterable[str]) -> list[str]:
    """Aliases that two sheets claim, or that are the name of another network.

    Args:
        sheets: sheets that keep the schema, by file name.
        builders: the names of all networks.
    """
    taken: dict[str, str] = {}
    networks, faults = set(builders), []
    for file, sheet in sheets.items():
        for alias in sheet.get("aliases", ()):
            if alias in taken:
                faults.append(f"{file}: aliases: {alias!r} is taken by {taken[alias]}")
            if alias in networks and alias != sheet.get("usual"):
                faults.append(f"{file}: aliases: {alias!r} is the name of a network")
            taken[alias] = file
    return faults


class _Check:
    """One pass over a sheet: the faults, and what has a name and is used."""

    def __init__(self, builders: Mapping[str, Collection[str]]) -> None:
        self.builders = builders
        self.faults: list[str] = []
        self.used: set[tuple[str, str]] = set()
        self.named: dict[str, Table] = {}
        self.twins: dict[tuple[str, str], str] = {}

    def keys(
        self, at: str, table: Table, known: Mapping[str, Kind], needs: Iterable[str] = ()
    ) -> Table:
        """The keys that hold what they may; the others, and those that are missing, are faults."""
        where = f"{at}: " if at else ""
        good = {}
        for key, value in table.items():
            if key not in known:
                self.faults.append(f"{where}unknown key {key!r}; {suggest(key, list(known))}")
            elif not known[key].holds(value):
                self.faults.append(f"{where}{key} must be {known[key].words}, got {value!r}")
            else:
                good[key] = value
        self.faults += [f"{where}{key} is missing" for key in needs if key not in table]
        return good

    def family(self, sheet: Table) -> None:
        networks = tuple(self.builders)
        known = {**FAMILY_KEYS, **dict.fromkeys(networks, TABLE)}
        sheet = self.keys("", sheet, known, ("idea", "input_size", "paper", *networks))
        for table, kind in NAMED.items():
            values = sheet.get(table, {})
            kinds = dict.fromkeys(values, kind) if isinstance(kind, Kind) else kind
            self.named[table] = self.keys(table, values, kinds)
        for name, rows in self.named["stages"].items():
            self.stages(f"stages.{name}", rows)
        for library, facts in self.named["libraries"].items():
            at = f"libraries.{library}"
            self.references(at, self.keys(at, facts, LIBRARY))
        self.texts("rows", sheet.get("rows", {}))
        self.paper("paper", sheet.get("paper"))
        self.recipe("recipe", sheet.get("recipe", {}))
        if "departs" in sheet and all("departs" in sheet.get(name, ()) for name in networks):
            self.faults.append("departs is used by no network: each has its own")
        usual = [sheet["usual"]] if "usual" in sheet else []
        for key, names in (("usual", usual), ("benchmarked", sheet.get("benchmarked", []))):
            for name in names:
                if name not in networks:
                    self.faults.append(f"{key}: {name!r} is not a network of this family")
        if "aliases" in sheet and "usual" not in sheet:
            self.faults.append("aliases: usual is missing, the network that they mean")
        for name in networks:
            if name in sheet:
                self.network(name, sheet[name], sheet)
        self.unused()

    def network(self, name: str, facts: Table, sheet: Table) -> None:
        needs = ("counts", "counted_from", "min_input_size")
        facts = self.keys(name, facts, NETWORK, (key for key in needs if key not in sheet))
        self.paper(f"{name}.paper", facts.get("paper"))
        self.texts(f"{name}.rows", facts.get("rows", {}))
        self.recipe(f"{name}.recipe", facts.get("recipe", {}))
        self.form(name, name, facts)
        for i, form in enumerate(facts.get("forms", ())):
            at = f"{name}.forms[{i}]"
            form = self.keys(at, form, FORM, (key for key in needs[:2] if key not in sheet))
            if not form.get("options") and "input_size" not in form:
                self.faults.append(f"{at}: needs options or input_size, which make it another form")
            self.form(at, name, form)
        at = f"{name}.departs" if "departs" in facts else "departs"
        for key in facts.get("departs", sheet.get("departs", ())):
            self.refer(at, "departures", key)
        for i, row in enumerate(facts.get("twins", ())):
            at, row = f"{name}.twins[{i}]", {row: name} if isinstance(row, str) else row
            row = self.keys(at, row, TWIN)
            self.elsewhere(at, name, row, self.named["libraries"])
            self.twin(at, row)
        for i, row in enumerate(facts.get("near_twins", ())):
            at = f"{name}.near_twins[{i}]"
            self.elsewhere(at, name, self.keys(at, row, NEAR_TWIN, ("reason",)), {})

    def elsewhere(self, at: str, name: str, row: Table, shared: Table) -> None:
        """A twin or a near twin; `shared` is what the rows of a library have in common."""
        libraries = row.keys() & set(LIBRARIES)
        if len(libraries) != 1:
            self.faults.append(f"{at}: needs exactly one of {', '.join(LIBRARIES)}")
        self.references(at, row)
        for library in libraries & shared.keys():
            self.used.add(("libraries", library))
            row = {**shared[library], **row}
        self.options(at, name, row)

    def twin(self, at: str, row: Table) -> None:
        """A network of a library is the twin of one of ours, once."""
        for library in row.keys() & set(LIBRARIES):
            theirs = row[library]
            for one in [theirs] if isinstance(theirs, str) else theirs:
                if (library, one) in self.twins:
                    taken = self.twins[library, one]
                    self.faults.append(f"{at}: {library} {one!r} is taken by {taken}")
                self.twins[library, one] = at

    def form(self, at: str, name: str, form: Table) -> None:
        """What the default form and the others have in common."""
        self.options(at, name, form)
        stages = form.get("stages", [])
        if isinstance(stages, str):
            self.refer(f"{at}.stages", "stages", stages)
        else:
            self.stages(f"{at}.stages", stages)
        resized = "input_size" in form and "options" not in form and at != name
        for key, needs in (("counts", ("macs",) if resized else COUNTS), ("fused", COUNTS)):
            if key in form:
                self.keys(f"{at}.{key}", form[key], COUNTS, needs)
        for i, row in enumerate(form.get("printed", ())):
            where = f"{at}.printed[{i}]"
            figures = row.keys() & set(FIGURES)
            shared = set() if "source" in row else {FIGURES[figure] for figure in figures}
            self.used |= {("sources", key) for key in shared}
            known = shared <= self.named["sources"].keys()
            row = self.keys(where, row, PRINTED_KEYS, () if known else ("source",))
            if not figures:
                self.faults.append(f"{where}: needs one of {', '.join(FIGURES)}")
            self.references(where, row)

    def references(self, at: str, row: Table) -> None:
        """What a row gives by name."""
        for key in row.keys() & {"note", "reason", "differs"}:
            self.refer(at, "notes", row[key])
        if isinstance(row.get("options"), str):
            self.refer(at, "options", row["options"])

    def options(self, at: str, name: str, row: Table) -> None:
        known, options = self.builders[name], row.get("options", {})
        if isinstance(options, str):
            options = self.named["options"].get(options, {})
        for option in options:
            if option not in known:
                hint = suggest(option, list(known))
                self.faults.append(f"{at}.options: {name} has no option {option!r}; {hint}")

    def stages(self, at: str, rows: Iterable[Any]) -> None:
        names = [name for name, *_ in rows]
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                self.faults.append(f"{at}: has the row {name!r} {names.count(name)} times")

    def recipe(self, at: str, recipe: Table) -> None:
        on = self.keys(at, {key: recipe[key] for key in recipe if key == "on"}, {"on": TABLE})
        self.keys(f"{at}.on", on.get("on", {}), dict.fromkeys(TRAINED_ON, TABLE))

    def paper(self, at: str, paper: Any) -> None:
        if _is_table(paper):
            self.keys(at, paper, PAPER_KEYS, ("title", "authors", "year"))

    def texts(self, at: str, table: Table) -> None:
        self.keys(at, table, dict.fromkeys(table, TEXT))

    def refer(self, at: str, table: str, key: str) -> None:
        self.used.add((table, key))
        if key not in self.named[table]:
            hint = suggest(key, list(self.named[table]))
            self.faults.append(f"{at}: there is no {table}.{key}; {hint}")

    def unused(self) -> None:
        for table, values in self.named.items():
            for key in values:
                if (table, key) not in self.used:
                    self.faults.append(f"{table}.{key} is used by no network")
