"""Every network's parameters, multiply-adds and map shapes match its fact sheet exactly."""

from typing import NamedTuple

import pytest

import cnnarch
from cnnarch.analysis import count_macs, count_parameters
from cnnarch.facts.builders import families, family_of
from cnnarch.facts.cards import Form
from cnnarch.facts.sheets import facts_of
from cnnarch.inference import fuse
from cnnarch.testing import assert_stage_shapes
from tests.small_forms import without_memory


class NamedForm(NamedTuple):
    """A network's name and one of its forms, which lists the options."""

    name: str
    form: Form

    def __str__(self) -> str:
        options = [f"{key}={value}" for key, value in self.form.options.items()]
        return "-".join([self.name, *options, str(self.form.input_size[-1])])

    def build(self) -> cnnarch.ImageClassifier:
        return without_memory(self.name, **self.form.options)


FORMS = [NamedForm(name, f) for name in cnnarch.list_models() for f in facts_of(name).forms]


# Module scope runs all tests of a form consecutively, so each network is built only once.
@pytest.mark.parametrize("named", FORMS, ids=str, scope="module")
def test_parameters_and_macs_match_the_sheet(named: NamedForm) -> None:
    model, form = named.build(), named.form
    sheet = f"{family_of(named.name)}.toml: {named}"
    assert model.in_channels == form.input_size[0], f"{sheet}: input_size"
    assert count_parameters(model) == form.params, f"{sheet}: counts.params"
    assert count_macs(model, form.input_size) == form.macs, f"{sheet}: counts.macs"


@pytest.mark.parametrize("named", [f for f in FORMS if f.form.stages], ids=str, scope="module")
def test_map_shapes_match_the_papers_table(named: NamedForm) -> None:
    model = named.build()
    paths = dict(zip(model.stage_names, model.stage_paths, strict=True))
    paths |= facts_of(named.name).rows
    sheet = f"{family_of(named.name)}.toml: {named.name}.stages"
    assert named.form.stages.keys() <= paths.keys(), f"{sheet}: rows are {', '.join(paths)}"
    modules = [paths[row] for row in named.form.stages]
    assert len(modules) == len(set(modules)), f"{sheet}: two rows are the same module"
    expected = {paths[row]: shape for row, shape in named.form.stages.items()}
    assert_stage_shapes(model, expected, named.form.input_size)


@pytest.mark.parametrize("family", families())
def test_rows_of_the_papers_table_are_modules(family: str) -> None:
    """Rows whose shapes are not in the sheet, such as Inception's 3b, are also checked."""
    names = cnnarch.list_models(family=family)
    modules: set[str] = set()
    for name in names:
        modules |= dict(without_memory(name).named_modules()).keys()
    rows = {(row, path) for name in names for row, path in facts_of(name).rows.items()}
    wrong = [f"{family}.toml: rows.{row}: {path!r}" for row, path in rows if path not in modules]
    assert wrong == []


@pytest.mark.parametrize("named", FORMS, ids=str)
def test_reported_values_agree_or_the_sheet_explains_why_not(named: NamedForm) -> None:
    """A value that agrees must not have an explanation."""
    for stated in named.form.stated:
        if stated.compared:
            exact = {"params": named.form.params, "macs": named.form.macs}[stated.figure]
            assert stated.agrees(exact) == (stated.departs == ""), stated


@pytest.mark.parametrize("named", [f for f in FORMS if f.form.fused], ids=str)
def test_counts_of_fused_networks_match_the_sheet(named: NamedForm) -> None:
    """Fusing replaces the scale and shift of each BatchNorm with one bias, and merges branches."""
    fused = fuse(named.build())
    parameters = sum(p.numel() for p in fused.parameters())
    assert (parameters, count_macs(fused, named.form.input_size)) == named.form.fused
