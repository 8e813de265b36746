"""Every network's parameters, multiply-adds and map shapes match its fact sheet exactly."""

from typing import NamedTuple

import pytest

import cnnarch
from cnnarch.analysis import count_macs, summary
from cnnarch.facts.builders import families, family_of
from cnnarch.facts.cards import Form
from cnnarch.facts.sheets import facts_of
from cnnarch.inference import fuse
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


@pytest.mark.parametrize("named", FORMS, ids=str)
def test_counts_and_map_shapes_match_the_sheet_and_the_papers_table(named: NamedForm) -> None:
    model, form = named.build(), named.form
    sheet = f"{family_of(named.name)}.toml: {named}"
    assert model.in_channels == form.input_size[0], f"{sheet}: input_size"
    found = summary(model, form.input_size)
    assert found.params == form.params, f"{sheet}: counts.params"
    assert found.macs == form.macs, f"{sheet}: counts.macs"
    paths = dict(zip(model.stage_names, model.stage_paths, strict=True))
    paths |= facts_of(named.name).rows
    assert form.stages.keys() <= paths.keys(), f"{sheet}: stages: rows are {', '.join(paths)}"
    modules = [paths[row] for row in form.stages]
    assert len(modules) == len(set(modules)), f"{sheet}: stages: two rows are the same module"
    for row, shape in form.stages.items():
        returned = found.shapes[paths[row]]
        padded = returned + (1,) * (len(shape) - len(returned))  # (C, 1, 1) may be flattened
        assert padded == shape, f"{sheet}: stages: {row} returns {returned}"


@pytest.mark.parametrize("family", families())
def test_rows_of_the_papers_table_are_modules(family: str) -> None:
    """Rows whose shapes are not in the sheet, such as Inception's 3b, are also checked."""
    names = [name for name in cnnarch.list_models(family=family) if facts_of(name).rows]
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
