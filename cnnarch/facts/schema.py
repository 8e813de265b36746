"""The schema of fact sheets: `sheet_faults` says what is wrong with one, by file and key."""

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

__all__ = ["FAMILY_KEYS", "FIGURES", "LIBRARIES", "alias_faults", "sheet_faults"]

Table = Mapping[str, Any]

LIBRARIES = ("torchvision", "timm", "pytorchcv", "cadene", "efficientnet_pytorch")
"""Libraries that may have twins; "cadene" is pretrainedmodels."""
FIGURES = ("params", "macs", "top1_err", "top5_err")
"""What a paper prints of a network."""

# What each table may hold: key -> type. A tuple of types allows each of them.
_PAPER = {"title": str, "authors": str, "year": int, "arxiv": str, "url": str}
_COUNTS = {"params": int, "macs": int}
_FORM = {
    **_COUNTS,
    **{"input_size": list, "printed": list, "stages": (str, list), "counted_from": str},
    **{"options": dict, "fused": dict},
}
_NETWORK = {
    **{key: kind for key, kind in _FORM.items() if key != "options"},
    **{"departs": list, "min_input_size": int, "twins": list, "near_twins": list},
    **{"forms": list, "recipe": dict, "paper": (dict, bool), "rows": dict},
}
FAMILY_KEYS = {
    **{"idea": str, "usual": str, "aliases": list, "input_size": list, "min_input_size": int},
    **{
        "benchmarked": list,
        "one_size": list,
        "paper": (dict, bool),
        "recipe": dict,
        "departures": dict,
    },
    **{"departures": dict, "notes": dict, "rows": dict, "stages": dict},
}
"""Keys of a sheet that are about the family; all others are its networks."""
_PRINTED = {**dict.fromkeys(FIGURES, str), "source": str, "differs": str, "confirmed": bool}
_ELSEWHERE = {**dict.fromkeys(LIBRARIES, str), "options": dict}
_TWIN = {**_ELSEWHERE, "arguments": dict, "tolerance": float, "note": str}
_NEAR_TWIN = {**_ELSEWHERE, "reason": str, "hidden": bool}
_SENTENCES = ("departures", "notes")

_WORDS = {
    **{str: "a string", int: "a whole number", float: "a number such as 1e-5"},
    **{bool: "true or false", list: "an array", dict: "a table"},
}


def sheet_faults(file: str, sheet: Table, builders: Mapping[str, Collection[str]]) -> list[str]:
    """Every fault of a parsed sheet, each with file and key; none if it keeps the schema.

    Args:
        file: its name, for the messages.
        sheet: what tomllib gives.
        builders: the networks that the model file beside it defines, with their options.
    """
    return [f"{file}: {fault}" for fault in _Check(sheet, builders).faults()]


def alias_faults(sheets: Mapping[str, Table], builders: Iterable[str]) -> list[str]:
    """Aliases that two sheets claim, or that are the name of another network.

    Args:
        sheets: parsed sheets by file name.
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
    """One pass over a sheet, which collects the sentences and shapes that are used."""

    def __init__(self, sheet: Table, builders: Mapping[str, Collection[str]]) -> None:
        self.sheet = sheet
        self.builders = builders
        self.used: set[tuple[str, str]] = set()

    def faults(self) -> Iterator[str]:
        sheet, networks = self.sheet, tuple(self.builders)
        known = {**FAMILY_KEYS, **dict.fromkeys(networks, dict)}
        yield from _key_faults("", sheet, known, needs=("idea", "input_size", "paper", *networks))
        yield from _paper_faults("paper", sheet.get("paper"))
        if "usual" in sheet and sheet["usual"] not in networks:
            yield f"usual: {sheet['usual']!r} is no network of this family"
        for name in sheet.get("benchmarked", ()):
            if name not in networks:
                yield f"benchmarked: {name!r} is no network of this family"
        if "aliases" in sheet and "usual" not in sheet:
            yield "aliases: usual is missing, the network that they stand for"
        if bad := set(sheet.get("one_size", ())) - set(LIBRARIES):
            yield f"one_size: unknown library {min(bad)!r}"
        for name in networks:
            if isinstance(sheet.get(name), dict):
                yield from self.network_faults(name, sheet[name])
        yield from self.unused()

    def network_faults(self, name: str, facts: Table) -> Iterator[str]:
        yield from _key_faults(name, facts, _NETWORK, needs=("params", "macs", "counted_from"))
        if "min_input_size" not in facts and "min_input_size" not in self.sheet:
            yield f"{name}: min_input_size is missing"
        yield from _paper_faults(f"{name}.paper", facts.get("paper"))
        yield from self.form_faults(name, facts)
        for i, form in enumerate(facts.get("forms", ())):
            at = f"{name}.forms[{i}]"
            yield from _key_faults(at, form, _FORM, needs=("params", "macs", "counted_from"))
            if not form.keys() & {"options", "input_size"}:
                yield f"{at}: needs options or input_size, which make it another form"
            yield from self.form_faults(at, form)
            yield from self.option_faults(at, name, form.get("options", {}))
        for key in facts.get("departs", ()):
            yield from self.reference_faults(f"{name}.departs", "departures", key)
        for key, known, note in (("twins", _TWIN, "note"), ("near_twins", _NEAR_TWIN, "reason")):
            for i, row in enumerate(facts.get(key, ())):
                at = f"{name}.{key}[{i}]"
                yield from _key_faults(at, row, known, ("reason",) if note == "reason" else ())
                if len(row.keys() & set(LIBRARIES)) != 1:
                    yield f"{at}: needs exactly one of {', '.join(LIBRARIES)}"
                if note in row:
                    yield from self.reference_faults(at, "notes", row[note])
                yield from self.option_faults(at, name, row.get("options", {}))

    def form_faults(self, at: str, form: Table) -> Iterator[str]:
        """What the default form and the others have in common."""
        if isinstance(form.get("stages"), str):
            yield from self.reference_faults(f"{at}.stages", "stages", form["stages"])
        if isinstance(form.get("fused"), dict):
            yield from _key_faults(f"{at}.fused", form["fused"], _COUNTS, needs=tuple(_COUNTS))
        for i, row in enumerate(form.get("printed", ())):
            where = f"{at}.printed[{i}]"
            yield from _key_faults(where, row, _PRINTED, needs=("source",))
            if not row.keys() & set(FIGURES):
                yield f"{where}: needs one of {', '.join(FIGURES)}"
            if "differs" in row:
                yield from self.reference_faults(where, "notes", row["differs"])

    def option_faults(self, at: str, name: str, options: Table) -> Iterator[str]:
        for option in options:
            if option not in self.builders[name]:
                yield f"{at}.options: {name} has no option {option!r}" + _nearest(
                    option, self.builders[name]
                )

    def reference_faults(self, at: str, table: str, key: str) -> Iterator[str]:
        self.used.add((table, key))
        known = self.sheet.get(table, {})
        if key not in known:
            yield f"{at}: there is no {table}.{key}{_nearest(key, known)}"

    def unused(self) -> Iterator[str]:
        for table in (*_SENTENCES, "stages"):
            for key, value in self.sheet.get(table, {}).items():
                if (table, key) not in self.used:
                    yield f"{table}.{key} is used by no network"
                if table in _SENTENCES and not str(value).endswith("."):
                    yield f"{table}.{key} must end with a full stop"


def _paper_faults(at: str, paper: Any) -> Iterator[str]:
    if isinstance(paper, dict):
        yield from _key_faults(at, paper, _PAPER, needs=("title", "authors", "year"))
    elif paper is True:
        yield f"{at}: must be a table, or false where there is no paper"


def _key_faults(at: str, table: Any, known: Table, needs: Iterable[str] = ()) -> Iterator[str]:
    """Keys that are unknown, missing or of another type."""
    where = f"{at}: " if at else ""
    if not isinstance(table, dict):
        yield f"{where}must be a table, got {table!r}"
        return
    for key, value in table.items():
        if key not in known:
            yield f"{where}unknown key {key!r}{_nearest(key, known)}"
            continue
        kinds = known[key] if isinstance(known[key], tuple) else (known[key],)
        if type(value) not in kinds:  # a bool is an int for isinstance
            wanted = " or ".join(_WORDS[kind] for kind in kinds)
            yield f"{where}{key} must be {wanted}, got {value!r}"
    for key in needs:
        if key not in table:
            yield f"{where}{key} is missing"


def _nearest(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; there are {', '.join(known)}"
