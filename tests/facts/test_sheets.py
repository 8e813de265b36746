"""Fact sheets: every fault is reported with its file and key, and all sheets are valid."""

import tomllib
from collections.abc import Mapping
from typing import Any

import pytest

import cnnarch
from cnnarch.facts import sheets
from cnnarch.facts.builders import BUILDERS, families, family_of, option_parameters
from cnnarch.facts.cards import Stated, Twin
from cnnarch.facts.schema import TRAINED_ON, sheet_faults
from cnnarch.facts.sheets import SheetError, aliases, facts_of, parse_sheet, read_sheet
from cnnarch.training.recipes import DATA_DEFAULTS
from tests.small_forms import without_memory

GOOD = """
problem = "Others are narrow."
idea = "A network."
followed = "Wider networks."
usual = "net"
block = "stages.0.1"
aliases = ["n"]
input_size = [3, 32, 32]
min_input_size = 1
counted_from = "hand arithmetic"
departs = ["wider"]
libraries.timm = { options = "wide", tolerance = 1e-5, note = "same", one_size = true }
sources.params = "Table 1"
options.wide = { width = 2 }

[paper]
title = "On nets"
authors = "A, B"
year = 2020
arxiv = "2001.00001"

[recipe]
source = "The paper."
learning_rate = 0.1
[recipe.on.mnist]
learning_rate = 0.2

[departures]
wider = "It is wider."
[notes]
same = "Same tensors."
other = "Different head."
rounded = "Rounded."

[rows]
pool = "stages.0.pool"

[stages]
all = [["conv1", 8, 32, 32]]

[net]
counts = { params = 1_000, macs = 2_000 }
stages = "all"
printed = [
  { params = "1.1K", differs = "rounded" },
  { top1_err = "20.1", top5_err = "5.0", source = "Table 2", confirmed = false },
]
printed_rows = [
  { row = "conv1", params = "216" },
  { row = "conv1", macs = "1K", source = "Sec. 3" },
]
twins = ["torchvision", { timm = ["a", "b"] }, { timm = "c", options = {}, tolerance = 1e-4 }]
near_twins = [{ torchvision = "net", reason = "other", hidden = true }]
recipe.on = { mnist = { flip = true }, digits = { learning_rate = 0.3 } }

[[net.forms]]
options = { width = 2 }
counts = { params = 4_000, macs = 8_000 }
counted_from = "timm a"
fused = { params = 3_900, macs = 8_000 }

[[net.forms]]
input_size = [3, 64, 64]
counts = { macs = 16_000 }
"""
OPTIONS = {"net": ("width", "num_classes")}


def parsed(text: str = GOOD, **changes: object) -> dict[str, Any]:
    return {**tomllib.loads(text), **changes}


def faults(sheet: Mapping[str, Any]) -> list[str]:
    return sheet_faults("net.toml", sheet, OPTIONS)


def test_a_valid_sheet_is_parsed() -> None:
    assert faults(parsed()) == []
    sheet = parse_sheet(parsed())
    facts = sheet.networks["net"]
    default, wide, large = facts.forms
    assert (sheet.usual, sheet.block, sheet.aliases) == ("net", "stages.0.1", ("n",))
    texts = (sheet.problem, sheet.idea, sheet.followed)
    assert texts == ("Others are narrow.", "A network.", "Wider networks.")
    assert facts.paper is not None
    assert facts.paper.link == "https://arxiv.org/abs/2001.00001"
    assert facts.departs == ("It is wider.",)
    assert (default.params, default.macs, default.input_size) == (1000, 2000, (3, 32, 32))
    assert default.stages == {"conv1": (8, 32, 32)}
    assert default.stated == (
        Stated("params", "1.1K", "Table 1", "Rounded."),
        Stated("top1_err", "20.1", "Table 2", confirmed=False),
        Stated("top5_err", "5.0", "Table 2", confirmed=False),
    )
    conv1 = (Stated("params", "216", "Table 1"), Stated("macs", "1K", "Sec. 3"))
    assert default.stated_rows == {"conv1": conv1}
    assert (wide.options, wide.params, wide.fused) == ({"width": 2}, 4000, (3900, 8000))
    assert (large.params, large.macs, large.input_size) == (1000, 16000, (3, 64, 64))
    assert [form.counted_from for form in facts.forms] == [
        *("hand arithmetic", "timm a", "hand arithmetic"),
    ]
    assert facts.twins == (
        Twin("net", "torchvision", "net"),
        Twin("net", "timm", "a", {"width": 2}, tolerance=1e-5, note="Same tensors.", one_size=True),
        Twin("net", "timm", "b", {"width": 2}, tolerance=1e-5, note="Same tensors.", one_size=True),
        Twin("net", "timm", "c", {}, tolerance=1e-4, note="Same tensors.", one_size=True),
    )
    (near,) = facts.near_twins
    assert (near.library, near.name, near.reason, near.hidden) == (
        *("torchvision", "net", "Different head."),
        True,
    )
    on_mnist = {"learning_rate": 0.2}
    family = {"source": "The paper.", "learning_rate": 0.1}
    assert sheet.recipe == {**family, "on": {"mnist": on_mnist}}
    assert facts.recipe == {
        **family,
        "on": {"mnist": {**on_mnist, "flip": True}, "digits": {"learning_rate": 0.3}},
    }
    assert facts.rows == {"pool": "stages.0.pool"}


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("usual =", "usul =", "unknown key 'usul'; did you mean 'usual'?"),
        ("counts = { params = 1_000, macs = 2_000 }\n", "", "net: counts is missing"),
        ("params = 1_000, ", "", "net.counts: params is missing"),
        ("params = 1_000", 'params = "1K"', "net.counts: params must be a positive integer"),
        ("macs = 2_000", "macs = true", "net.counts: macs must be a positive integer, got"),
        ('counted_from = "hand arithmetic"\n', "", "net: counted_from is missing"),
        ('counted_from = "hand arithmetic"\n', "", "net.forms[1]: counted_from is missing"),
        ("stages = ", "stage = ", "net: unknown key 'stage'; did you mean 'stages'?"),
        ("params = 4_000, ", "", "net.forms[0].counts: params is missing"),
        ("macs = 16_000", "", "net.forms[1].counts: macs is missing"),
        ("libraries.timm", "libraries.tim", "libraries: unknown key 'tim'; did you mean 'timm'?"),
        ("libraries.timm", "libraries.cadene", "libraries.cadene is not used by any network"),
        ("one_size", "onesize", "libraries.timm: unknown key 'onesize'; did you mean 'one_size'?"),
        ("tolerance = 1e-5", "tolerance = 1", "libraries.timm: tolerance must be a number"),
        (
            'note = "same"',
            'note = "sam"',
            "libraries.timm.note: there is no notes.sam; did you mean",
        ),
        (
            'options = "wide"',
            'options = "wid"',
            "libraries.timm.options: there is no options.wid; did you",
        ),
        ("{ width = 2 }", "{ widht = 2 }", "net.twins[1].options: net has no option 'widht'; did"),
        ("options.wide", "options.narrow", "options.narrow is not used by any network"),
        ("sources.params", "sources.macs", "sources.macs is not used by any network"),
        ("sources.params", "sources.macs", "net.printed[0]: source is missing"),
        ("sources.params", "sources.param", "sources: unknown key 'param'; did you mean 'params'"),
        ('"torchvision"', '"torchvison"', "net.twins[0]: unknown key 'torchvison'; did you mean"),
        ("{ timm =", "{ tim =", "net.twins[1]: unknown key 'tim'; did you mean 'timm'?"),
        ("{ timm =", "{ torchvision = 'a', timm =", "net.twins[1]: needs exactly one of"),
        (
            'reason = "other"',
            'reason = "othr"',
            "net.near_twins[0].reason: there is no notes.othr; did",
        ),
        (', reason = "other"', "", "net.near_twins[0]: reason is missing"),
        ('departs = ["wider"]', "", "departures.wider is not used by any network"),
        ('departs = ["wider"]', 'departs = ["w"]', "departs: there is no departures.w"),
        (
            '"It is wider."',
            '"It is wider"',
            "departures: wider must be a sentence that ends with",
        ),
        ('stages = "all"', 'stages = "al"', "net.stages: there is no stages.al; did you mean"),
        (', source = "Table 2"', "", "net.printed[1]: source is missing"),
        (', source = "Sec. 3"', "", "net.printed_rows[1]: source is missing"),
        ('row = "conv1", params', "params", "net.printed_rows[0]: row is missing"),
        ("fused = { params = 3_900,", "fused = {", "net.forms[0].fused: params is missing"),
        ("options = { width = 2 }\n", "", "net.forms[0]: needs options or input_size"),
        ("min_input_size = 1\n", "", "net: min_input_size is missing"),
        ('usual = "net"', 'usual = "nett"', "usual: 'nett' is not a network of this family"),
        ('aliases = ["n"]', 'benchmarked = ["m"]', "benchmarked: 'm' is not a network of this"),
        ("year = 2020\n", "", "paper: year is missing"),
        ('source = "The paper."\n', "", "recipe: source is missing"),
        (
            '[["conv1", 8, 32, 32]]',
            '[["a", 8], ["a", 8]]',
            "stages.all: contains the row 'a' 2 times",
        ),
        (
            'stages = "all"',
            'stages = [["a", 8], ["a", 4]]',
            "net.stages: contains the row 'a' 2 times",
        ),
        ("[recipe.on.mnist]", "[recipe.on.mnst]", "recipe.on: unknown key 'mnst'; did you mean"),
        ("options = { width = 2 }\n", "options = {}\n", "net.forms[0]: needs options or input_"),
        ('timm = "c"', 'timm = "b"', "net.twins[2]: timm 'b' is already used by net.twins[1]"),
        ('["a", "b"]', '["a", "a"]', "net.twins[1]: timm 'a' is already used by net.twins[1]"),
        (
            '{ timm = "c", ',
            '"torchvision", {',
            "net.twins[2]: torchvision 'net' is already used by",
        ),
    ],
)
def test_faults_are_reported_with_file_and_key(old: str, new: str, fault: str) -> None:
    assert old in GOOD
    found = faults(parsed(GOOD.replace(old, new, 1)))
    assert any(line.startswith(f"net.toml: {fault}") for line in found), found


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("idea", "", "idea must be a non-empty string, got ''"),
        ("aliases", 3, "aliases must be an array of strings, got 3"),
        ("aliases", [["n"]], "aliases must be an array of strings, got [['n']]"),
        ("departs", "wider", "departs must be an array of strings, got 'wider'"),
        ("counted_from", 3, "counted_from must be a non-empty string, got 3"),
        ("libraries", {"timm": 3}, "libraries: timm must be a table, got 3"),
        ("sources", {"params": 3}, "sources: params must be a non-empty string, got 3"),
        ("options", {"wide": 3}, "options: wide must be a table, got 3"),
        ("benchmarked", 3, "benchmarked must be an array of strings, got 3"),
        ("input_size", [3, 32], "input_size must be three positive integers, got [3, 32]"),
        ("input_size", [3, 0, 32], "input_size must be three positive integers"),
        ("min_input_size", -1, "min_input_size must be a positive integer, got -1"),
        ("paper", {}, "paper: title is missing"),
        ("paper", True, "paper must be a table, or false if there is no paper, got True"),
        ("departures", 3, "departures must be a table, got 3"),
        ("notes", {"same": 3}, "notes: same must be a sentence that ends with a period, got 3"),
        ("rows", {"pool": 3}, "rows: pool must be a non-empty string, got 3"),
        ("stages", {"all": 3}, "stages: all must be an array of rows such as"),
        ("stages", {"all": [["conv1"]]}, "stages: all must be an array of rows such as"),
        ("stages", {"all": [["conv1", "8", 32, 32]]}, "stages: all must be an array of rows"),
        ("recipe", {"on": 4}, "recipe: on must be a table, got 4"),
        ("recipe", {"on": {"mnist": 4}}, "recipe.on: mnist must be a table, got 4"),
        ("net", 3, "net must be a table, got 3"),
    ],
)
def test_invalid_values_are_reported_with_file_and_key(key: str, value: object, fault: str) -> None:
    found = faults(parsed(**{key: value}))
    assert any(line.startswith(f"net.toml: {fault}") for line in found), found


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("counts", 0, "net: counts must be a table, got 0"),
        ("departs", "wider", "net: departs must be an array of strings, got 'wider'"),
        ("departs", [1], "net: departs must be an array of strings, got [1]"),
        ("printed", "x", "net: printed must be an array of tables, got 'x'"),
        ("printed", [3], "net: printed must be an array of tables, got [3]"),
        (
            "printed",
            [{"params": "about 1K", "source": "Table 1"}],
            "net.printed[0]: params must be a number as printed, such as \"3.8B\", got 'about 1K'",
        ),
        ("twins", 3, "net: twins must be an array of tables and library names, got 3"),
        ("twins", [3], "net: twins must be an array of tables and library names"),
        ("twins", [{"timm": "a", "note": ["x"]}], "net.twins[0]: note must be a non-empty string"),
        ("twins", [{"timm": "a", "options": [1]}], "net.twins[0]: options must be a table, or"),
        ("twins", [{"timm": "a", "tolerance": -1.0}], "net.twins[0]: tolerance must be a number"),
        ("twins", [{"timm": []}], "net.twins[0]: timm must be a name or an array of names"),
        ("twins", [{"timm": ""}], "net.twins[0]: timm must be a name or an array of names"),
        (
            "near_twins",
            [{"timm": "a", "reason": 3}],
            "net.near_twins[0]: reason must be a non-empty string",
        ),
        ("forms", {"a": 1}, "net: forms must be an array of tables"),
        ("stages", [3], "net: stages must be an array of rows such as"),
        ("fused", 3, "net: fused must be a table, got 3"),
        ("recipe", 3, "net: recipe must be a table, got 3"),
        ("recipe", {"on": 4}, "net.recipe: on must be a table, got 4"),
        ("departs", ["wider"], "departs is unused because every network defines its own"),
        ("paper", {}, "net.paper: title is missing"),
    ],
)
def test_invalid_network_values_are_reported_with_file_and_key(
    key: str, value: object, fault: str
) -> None:
    sheet = parsed()
    found = faults({**sheet, "net": {**sheet["net"], key: value}})
    assert any(line.startswith(f"net.toml: {fault}") for line in found), found


def test_two_networks_cannot_share_a_twin() -> None:
    sheet = parsed()
    other = {**sheet["net"], "twins": [{"timm": ["d", "b"]}]}
    found = sheet_faults("net.toml", {**sheet, "too": other}, {**OPTIONS, "too": OPTIONS["net"]})
    assert found == ["net.toml: too.twins[0]: timm 'b' is already used by net.twins[1]"]


def test_a_family_may_have_no_paper() -> None:
    assert faults(parsed(paper=False)) == []


def test_recipes_support_the_training_data_sets() -> None:
    assert set(TRAINED_ON) == set(DATA_DEFAULTS)


def test_a_network_without_facts_is_reported_as_missing() -> None:
    assert "b.toml: net is missing" in sheet_faults("b.toml", {"idea": "x"}, OPTIONS)


def test_aliases_are_unique() -> None:
    listed = [alias for family in families() for alias in read_sheet(family).aliases]
    assert len(listed) == len(set(listed))
    assert all(network == alias for alias, network in aliases().items() if alias in BUILDERS)


def test_reading_an_invalid_sheet_raises(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "resnet.toml").write_text("idea = 3\n")
    monkeypatch.setattr(sheets, "FOLDER", tmp_path)
    read_sheet.cache_clear()
    with pytest.raises(SheetError, match=r"resnet\.toml: idea must be a non-empty string, got 3"):
        read_sheet("resnet")


@pytest.mark.parametrize(
    ("text", "fault"), [("idea = ", r"resnet\.toml: Invalid value"), (None, r"resnet\.toml: ")]
)
def test_a_sheet_that_cannot_be_parsed_raises(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, text: str | None, fault: str
) -> None:
    if text is not None:
        (tmp_path / "resnet.toml").write_text(text)
    monkeypatch.setattr(sheets, "FOLDER", tmp_path)
    read_sheet.cache_clear()
    with pytest.raises(SheetError, match=fault):
        read_sheet("resnet")


@pytest.mark.parametrize("family", families())
def test_every_sheet_is_valid(family: str) -> None:
    builders = {
        name: option_parameters(build.__annotations__["return"])
        for name, build in BUILDERS.items()
        if family_of(name) == family
    }
    path = sheets.FOLDER / f"{family}.toml"
    assert sheet_faults(path.name, tomllib.loads(path.read_text()), builders) == []


def test_every_model_file_has_a_sheet() -> None:
    files = {path.stem for path in sheets.FOLDER.glob("*.toml")}
    assert files == set(families())


def test_aliases_are_common_names() -> None:
    assert {"resnet": "resnet18", "cnn": "convnet", "senet": "se_resnet18"}.items() <= (
        aliases().items()
    )


@pytest.mark.parametrize("name", cnnarch.list_models())
def test_the_minimum_size_matches_the_networks(name: str) -> None:
    model, sheet = without_memory(name), f"{family_of(name)}.toml"
    assert model.min_input_size == facts_of(name).min_input_size, f"{sheet}: min_input_size"
