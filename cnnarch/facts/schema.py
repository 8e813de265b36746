"""The schema of fact sheets: `sheet_faults` says what is wrong with one, by file and key."""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

__all__ = ["FAMILY_KEYS", "FIGURES", "LIBRARIES", "alias_faults", "sheet_faults"]

Table = Mapping[str, Any]

LIBRARIES = ("torchvision", "timm", "pytorchcv", "cadene", "efficientnet_pytorch")
"""Libraries that may have twins; "cadene" is pretrainedmodels."""
FIGURES = ("params", "macs", "top1_err", "top5_err")
"""What a paper prints of a network."""


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
PAPER = Kind("a table, or false where there is none", lambda v: v is False or _is_table(v))
PRINTED = Kind('a number as printed, such as "3.8B"', _is_printed)
ROWS = Kind('an array of rows such as ["conv1", 64, 112, 112]', _is_list_of(_is_row))
SHAPES = Kind(f"{ROWS.words}, or the name of one in stages", lambda v: _is_text(v) or ROWS.holds(v))

COUNTS = {"params": COUNT, "macs": COUNT}
FORM = {
    **COUNTS,
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
    "twins": TABLES,
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
    "one_size": NAMES,
    "paper": PAPER,
    "recipe": TABLE,
    "departures": TABLE,
    "notes": TABLE,
    "rows": TABLE,
    "stages": TABLE,
}
"""Keys of a sheet that are about the family; all others are its networks."""
PAPER_KEYS = {"title": TEXT, "authors": TEXT, "year": COUNT, "arxiv": TEXT, "url": TEXT}
PRINTED_KEYS = {
    **dict.fromkeys(FIGURES, PRINTED),
    "source": TEXT,
    "differs": TEXT,
    "confirmed": FLAG,
}
ELSEWHERE = {**dict.fromkeys(LIBRARIES, TEXT), "options": TABLE}
TWIN = {**ELSEWHERE, "arguments": TABLE, "params": COUNT, "tolerance": TOLERANCE, "note": TEXT}
NEAR_TWIN = {**ELSEWHERE, "reason": TEXT, "hidden": FLAG}


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
    """One pass over a sheet: the faults, and the sentences and shapes that are used."""

    def __init__(self, builders: Mapping[str, Collection[str]]) -> None:
        self.builders = builders
        self.faults: list[str] = []
        self.used: set[tuple[str, str]] = set()
        self.shared: dict[str, Table] = {}

    def keys(
        self, at: str, table: Table, known: Mapping[str, Kind], needs: Iterable[str] = ()
    ) -> Table:
        """The keys that hold what they may; the others, and those that are missing, are faults."""
        where = f"{at}: " if at else ""
        good = {}
        for key, value in table.items():
            if key not in known:
                self.faults.append(f"{where}unknown key {key!r}{_nearest(key, known)}")
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
        for table, kind in (("departures", SENTENCE), ("notes", SENTENCE), ("stages", ROWS)):
            values = sheet.get(table, {})
            self.shared[table] = values
            self.keys(table, values, dict.fromkeys(values, kind))
        self.texts("rows", sheet.get("rows", {}))
        self.paper("paper", sheet.get("paper"))
        usual = [sheet["usual"]] if "usual" in sheet else []
        for key, names in (("usual", usual), ("benchmarked", sheet.get("benchmarked", []))):
            for name in names:
                if name not in networks:
                    self.faults.append(f"{key}: {name!r} is not a network of this family")
        if "aliases" in sheet and "usual" not in sheet:
            self.faults.append("aliases: usual is missing, the network that they stand for")
        for library in sheet.get("one_size", ()):
            if library not in LIBRARIES:
                self.faults.append(f"one_size: unknown library {library!r}")
        for name in networks:
            if name in sheet:
                self.network(name, sheet[name], "min_input_size" in sheet)
        self.unused()

    def network(self, name: str, facts: Table, has_size: bool) -> None:
        needs = ("params", "macs", "counted_from", *(() if has_size else ("min_input_size",)))
        facts = self.keys(name, facts, NETWORK, needs)
        self.paper(f"{name}.paper", facts.get("paper"))
        self.texts(f"{name}.rows", facts.get("rows", {}))
        self.form(name, name, facts)
        for i, form in enumerate(facts.get("forms", ())):
            at = f"{name}.forms[{i}]"
            form = self.keys(at, form, FORM, ("params", "macs", "counted_from"))
            if not form.keys() & {"options", "input_size"}:
                self.faults.append(f"{at}: needs options or input_size, which make it another form")
            self.form(at, name, form)
        for key in facts.get("departs", ()):
            self.refer(f"{name}.departs", "departures", key)
        for key, known, note in (("twins", TWIN, "note"), ("near_twins", NEAR_TWIN, "reason")):
            for i, row in enumerate(facts.get(key, ())):
                at = f"{name}.{key}[{i}]"
                row = self.keys(at, row, known, ("reason",) if note == "reason" else ())
                if len(row.keys() & set(LIBRARIES)) != 1:
                    self.faults.append(f"{at}: needs exactly one of {', '.join(LIBRARIES)}")
                if note in row:
                    self.refer(at, "notes", row[note])
                self.options(at, name, row)

    def form(self, at: str, name: str, form: Table) -> None:
        """What the default form and the others have in common."""
        self.options(at, name, form)
        if isinstance(form.get("stages"), str):
            self.refer(f"{at}.stages", "stages", form["stages"])
        if "fused" in form:
            self.keys(f"{at}.fused", form["fused"], COUNTS, COUNTS)
        for i, row in enumerate(form.get("printed", ())):
            where = f"{at}.printed[{i}]"
            row = self.keys(where, row, PRINTED_KEYS, ("source",))
            if not row.keys() & set(FIGURES):
                self.faults.append(f"{where}: needs one of {', '.join(FIGURES)}")
            if "differs" in row:
                self.refer(where, "notes", row["differs"])

    def options(self, at: str, name: str, row: Table) -> None:
        known = self.builders[name]
        for option in row.get("options", {}):
            if option not in known:
                hint = _nearest(option, known)
                self.faults.append(f"{at}.options: {name} has no option {option!r}{hint}")

    def paper(self, at: str, paper: Any) -> None:
        if paper:
            self.keys(at, paper, PAPER_KEYS, ("title", "authors", "year"))

    def texts(self, at: str, table: Table) -> None:
        self.keys(at, table, dict.fromkeys(table, TEXT))

    def refer(self, at: str, table: str, key: str) -> None:
        self.used.add((table, key))
        if key not in self.shared[table]:
            hint = _nearest(key, self.shared[table])
            self.faults.append(f"{at}: there is no {table}.{key}{hint}")

    def unused(self) -> None:
        for table, values in self.shared.items():
            for key in values:
                if (table, key) not in self.used:
                    self.faults.append(f"{table}.{key} is used by no network")


def _nearest(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; there are {', '.join(known)}"
