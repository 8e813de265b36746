"""The schema of fact sheets, and a check that reports every fault with its file and key.

It is hand-written because tables refer to one another and to the builders' options, which JSON
Schema cannot express, and because cnnarch does not depend on a validation library.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from cnnarch.facts.suggestions import suggest

Table = Mapping[str, Any]

LIBRARIES = ("torchvision", "timm", "pytorchcv", "cadene", "efficientnet_pytorch")
"""Libraries that may contain twins; "cadene" is pretrainedmodels."""
FIGURES = {"params": "params", "macs": "macs", "top1_err": "errors", "top5_err": "errors"}
"""Values stated in papers, mapped to the key in `sources` that names the source table."""
TEXTS = ("problem", "idea", "followed")
"""Explanations for students: what the paper found, what is new, and what came of it."""
TRAINED_ON = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100")
"""Data sets of `cnnarch.training` for which a recipe may have settings."""


class Kind(NamedTuple):
    """The valid values of a key.

    Args:
        description: description of the valid values, used in messages.
        is_valid: checks a value, but not the contents of tables.
        keys: kind of each key in a table, or in each table of an array.
        other_keys: kind of all other keys. With neither `keys` nor `other_keys`, any key is valid.
        required: keys that a table must contain.
        refers_to: sheet table that must contain every name in the value (string or array).
    """

    description: str
    is_valid: Callable[[Any], bool]
    keys: "Mapping[str, Kind]" = MappingProxyType({})
    other_keys: "Kind | None" = None
    required: Collection[str] = ()
    refers_to: str = ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0  # isinstance would accept a bool


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_list_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(test, value))


def _is_row(value: Any) -> bool:
    is_sized = isinstance(value, list) and len(value) in (2, 4)
    return is_sized and _is_text(value[0]) and all(map(_is_count, value[1:]))


def _is_printed(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\d,]*\d(\.\d+)?[KMGB]?", value) is not None


_is_names, _is_rows = _is_list_of(_is_text), _is_list_of(_is_row)
ANY = Kind("a value", lambda _: True)
TEXT = Kind("a non-empty string", _is_text)
SENTENCE = Kind("a sentence that ends with a period", lambda v: _is_text(v) and v.endswith("."))
COUNT = Kind("a positive integer", _is_count)
TOLERANCE = Kind("a number such as 1e-5", lambda v: isinstance(v, float) and 0 <= v < 1)
FLAG = Kind("true or false", lambda v: isinstance(v, bool))
ONE_SIZE = Kind("true, false or a side in pixels", lambda v: isinstance(v, bool) or _is_count(v))
SIZE = Kind("three positive integers", lambda v: _is_list_of(_is_count)(v) and len(v) == 3)
NAMES = Kind("an array of strings", _is_names)
PRINTED = Kind('a number as printed, such as "3.8B"', _is_printed)
ROWS = Kind('an array of rows such as ["conv1", 64, 112, 112]', _is_rows)
THEIRS = Kind("a name or an array of names", lambda v: _is_text(v) or (v != [] and _is_names(v)))
TABLE = Kind("a table", _is_table)
TABLES = Kind("an array of tables", _is_list_of(_is_table))

NOTE = TEXT._replace(refers_to="notes")
DEPARTS = NAMES._replace(refers_to="departures")
STAGES = Kind(
    f"{ROWS.description}, or the name of one in stages",
    lambda v: _is_text(v) or _is_rows(v),
    refers_to="stages",
)
OPTIONS = Kind(
    "a table, or the name of one in options",
    lambda v: _is_text(v) or _is_table(v),
    refers_to="options",
)
PAPER = Kind(
    "a table, or false if there is no paper",
    lambda v: v is False or _is_table(v),
    {"title": TEXT, "authors": TEXT, "year": COUNT, "arxiv": TEXT, "url": TEXT},
    required=("title", "authors", "year"),
)
ON = TABLE._replace(keys=dict.fromkeys(TRAINED_ON, TABLE))
RECIPE = TABLE._replace(keys={"on": ON}, other_keys=ANY)
COUNTS = {"params": COUNT, "macs": COUNT}
PRINTED_KEYS = {
    **dict.fromkeys(FIGURES, PRINTED),
    **{"source": TEXT, "differs": NOTE, "confirmed": FLAG},
}
FORM = {
    "counts": TABLE._replace(keys=COUNTS, required=("macs",)),
    "options": TABLE,
    "input_size": SIZE,
    "counted_from": TEXT,
    "stages": STAGES,
    "printed": TABLES._replace(keys=PRINTED_KEYS),
    "printed_rows": TABLES._replace(keys={"row": TEXT, **PRINTED_KEYS}, required=("row",)),
    "fused": TABLE._replace(keys=COUNTS, required=tuple(COUNTS)),
}
LIBRARY = {
    "options": OPTIONS,
    "tolerance": TOLERANCE,
    "note": NOTE,
    "one_size": ONE_SIZE,
    "multiple_of": COUNT,
}
THEIR_NAMES = {**dict.fromkeys(LIBRARIES, THEIRS), "options": OPTIONS}
TWINS = TABLES._replace(
    description="an array of tables and library names",
    keys={**THEIR_NAMES, **LIBRARY, "arguments": TABLE, "params": COUNT},
)
NEAR_TWINS = TABLES._replace(
    keys={**THEIR_NAMES, "reason": NOTE, "hidden": FLAG}, required=("reason",)
)
NETWORK = {
    **{key: kind for key, kind in FORM.items() if key != "options"},
    "min_input_size": COUNT,
    "paper": PAPER,
    "departs": DEPARTS,
    "twins": TWINS,
    "near_twins": NEAR_TWINS,
    "rows": TABLE._replace(other_keys=TEXT),
    "recipe": RECIPE,
}
NAMED = {
    "departures": TABLE._replace(other_keys=SENTENCE),
    "notes": TABLE._replace(other_keys=SENTENCE),
    "stages": TABLE._replace(other_keys=ROWS),
    "options": TABLE._replace(other_keys=TABLE),
    "sources": TABLE._replace(keys=dict.fromkeys(FIGURES.values(), TEXT)),
    "libraries": TABLE._replace(keys=dict.fromkeys(LIBRARIES, TABLE._replace(keys=LIBRARY))),
}
"""Tables shared by several networks. Each entry must be used."""
FAMILY_KEYS = {
    **dict.fromkeys(TEXTS, TEXT),
    "usual": TEXT,
    "block": TEXT,
    "aliases": NAMES,
    "benchmarked": NAMES,
    **{key: NETWORK[key] for key in ("input_size", "min_input_size", "counted_from", "departs")},
    **{key: NETWORK[key] for key in ("paper", "rows")},
    "recipe": RECIPE._replace(keys={"on": ON, "source": SENTENCE}, required=("source",)),
    **NAMED,
}
"""Keys of a sheet that describe the family. All other keys are network names."""


def sheet_faults(file: str, sheet: Table, builders: Mapping[str, Collection[str]]) -> list[str]:
    """Return all faults in a parsed sheet, each with its file and key.

    Args:
        file: file name to show in error messages.
        sheet: the sheet as parsed by tomllib.
        builders: the networks that the model file defines, mapped to their options.
    """
    check = _Check(sheet, builders)
    return [f"{file}: {fault}" for fault in [*check.faults, *check.cross_faults()]]


class _Check:
    """State while checking one sheet. `sheet` keeps only the valid values."""

    def __init__(self, sheet: Table, builders: Mapping[str, Collection[str]]) -> None:
        self.builders = builders
        self.faults: list[str] = []
        self.used: set[tuple[str, str]] = set()
        self.twins: dict[tuple[str, str], str] = {}
        self.given = sheet
        missing = {"counted_from", "min_input_size"} - sheet.keys()
        required = ("counts", *sorted(missing))
        forms = TABLES._replace(keys=FORM, required=[key for key in required if key in FORM])
        network = TABLE._replace(keys={**NETWORK, "forms": forms}, required=required)
        family = TABLE._replace(
            keys={**FAMILY_KEYS, **dict.fromkeys(builders, network)},
            required=(*TEXTS, "input_size", "paper", "recipe", *builders),
        )
        self.sheet: Table = self.clean("", sheet, family)

    def clean(self, at: str, value: Any, kind: Kind) -> Any:
        """Record the faults inside a value of the right type, and return its valid contents."""
        if kind.refers_to and not isinstance(value, dict):
            names = [value] if isinstance(value, str) else value
            for name in (name for name in names if isinstance(name, str)):
                self.refer(at, kind.refers_to, name)
        if isinstance(value, list) and kind.keys:
            return [self.clean(f"{at}[{i}]", row, kind) for i, row in enumerate(value)]
        if not isinstance(value, dict) or not (kind.keys or kind.other_keys):
            return value
        where, cleaned = f"{at}: " if at else "", {}
        for key, child in value.items():
            expected = kind.keys.get(key, kind.other_keys)
            if expected is TWINS and isinstance(child, list):  # "timm" means { timm = "<ours>" }
                child = [{row: at} if isinstance(row, str) else row for row in child]
            if expected is None:
                self.faults.append(f"{where}unknown key {key!r}; {suggest(key, list(kind.keys))}")
            elif not expected.is_valid(child):
                self.faults.append(f"{where}{key} must be {expected.description}, got {child!r}")
            else:
                cleaned[key] = self.clean(f"{at}.{key}" if at else key, child, expected)
        self.faults += [f"{where}{key} is missing" for key in kind.required if key not in value]
        return cleaned

    def refer(self, at: str, table: str, key: str) -> None:
        """Record that an entry of a named table is used."""
        self.used.add((table, key))
        known = self.given.get(table, {})
        if isinstance(known, dict) and key not in known:
            self.faults.append(f"{at}: there is no {table}.{key}; {suggest(key, list(known))}")

    def cross_faults(self) -> Iterator[str]:
        """Yield the errors that involve several keys."""
        sheet, networks = self.sheet, [name for name in self.builders if name in self.sheet]
        for name, rows in sheet.get("stages", {}).items():
            yield from _repeated_rows(f"stages.{name}", rows)
        if "departs" in sheet and all("departs" in sheet[name] for name in networks):
            yield "departs is unused because every network defines its own"
        usual = [sheet["usual"]] if "usual" in sheet else []
        for key, names in (("usual", usual), ("benchmarked", sheet.get("benchmarked", []))):
            for name in (name for name in names if name not in self.builders):
                yield f"{key}: {name!r} is not a network of this family"
        if "aliases" in sheet and not usual:
            yield "aliases: usual, which names the network of the aliases, is missing"
        if "block" in sheet and not usual:
            yield "block: usual, which names the network that contains the block, is missing"
        for name in networks:
            facts = sheet[name]
            yield from self.form_faults(name, name, facts)
            for i, form in enumerate(facts.get("forms", ())):
                at = f"{name}.forms[{i}]"
                if not form.get("options") and "input_size" not in form:
                    yield f"{at}: needs options or input_size to differ from the default form"
                yield from self.form_faults(at, name, form)
            for key in ("twins", "near_twins"):
                for i, row in enumerate(facts.get(key, ())):
                    yield from self.twin_faults(f"{name}.{key}[{i}]", name, row, key)
        for table in NAMED:
            for key in sheet.get(table, {}):
                if (table, key) not in self.used:
                    yield f"{table}.{key} is not used by any network"

    def form_faults(self, at: str, name: str, form: Table) -> Iterator[str]:
        yield from self.option_faults(at, name, form)
        if isinstance(form.get("stages"), list):
            yield from _repeated_rows(f"{at}.stages", form["stages"])
        is_resized = "input_size" in form and "options" not in form and at != name
        if "params" not in form.get("counts", COUNTS) and not is_resized:
            yield f"{at}.counts: params is missing"
        for key in ("printed", "printed_rows"):
            for i, row in enumerate(form.get(key, ())):
                yield from self.printed_faults(f"{at}.{key}[{i}]", row)

    def printed_faults(self, at: str, row: Table) -> Iterator[str]:
        figures = [figure for figure in FIGURES if figure in row]
        if not figures:
            yield f"{at}: needs one of {', '.join(FIGURES)}"
        if "source" not in row:
            shared = {FIGURES[figure] for figure in figures}
            self.used |= {("sources", key) for key in shared}
            if not shared <= self.sheet.get("sources", {}).keys():
                yield f"{at}: source is missing"

    def twin_faults(self, at: str, name: str, row: Table, key: str) -> Iterator[str]:
        libraries = [library for library in LIBRARIES if library in row]
        if len(libraries) != 1:
            yield f"{at}: needs exactly one of {', '.join(LIBRARIES)}"
        for library in libraries if key == "twins" else ():
            row = {**self.sheet.get("libraries", {}).get(library, {}), **row}
            self.used.add(("libraries", library))
            for theirs in [row[library]] if isinstance(row[library], str) else row[library]:
                if (library, theirs) in self.twins:
                    other = self.twins[library, theirs]
                    yield f"{at}: {library} {theirs!r} is already used by {other}"
                self.twins[library, theirs] = at
        yield from self.option_faults(at, name, row)

    def option_faults(self, at: str, name: str, row: Table) -> Iterator[str]:
        options = row.get("options", {})
        if isinstance(options, str):
            options = self.sheet.get("options", {}).get(options, {})
        for option in options:
            if option not in self.builders[name]:
                hint = suggest(option, list(self.builders[name]))
                yield f"{at}.options: {name} has no option {option!r}; {hint}"


def _repeated_rows(at: str, rows: Iterable[Any]) -> Iterator[str]:
    names = [name for name, *_ in rows]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"{at}: contains the row {name!r} {names.count(name)} times"
