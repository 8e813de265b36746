"""What the sheets say is what other libraries' networks have: a second source for every count."""

import pretrainedmodels
import pytest
import timm
import torch
import torchvision
from pytorchcv import model_provider

import cnnarch
from cnnarch.analysis import count_macs, count_parameters
from cnnarch.facts.builders import family_of
from cnnarch.facts.cards import Form, Twin
from cnnarch.facts.schema import LIBRARIES
from cnnarch.facts.sheets import facts_of, near_twins, twins
from tests.oracles.libraries import build

BIASED = ("bninception",)
"""Theirs have a bias in each convolution before a norm, which the norm makes redundant."""


def form_of(twin: Twin) -> Form | None:
    """The form whose counts the twin shares: options that cost nothing need no form."""
    free = {"norm_eps", "padding", "activation", "ceil_pool"}
    wanted = {k: v for k, v in twin.options.items() if k not in free}
    forms = facts_of(twin.builder).forms
    size = forms[0].input_size
    same = (f for f in forms if dict(f.options) == wanted and f.input_size == size)
    return next(same, None)


def counted() -> list[object]:
    """Every twin that has a form; the smallest of each family, library and form in `make test`."""
    rows = [(twin, form) for twin in twins() if (form := form_of(twin)) is not None]
    smallest: dict[tuple[str, str], Twin] = {}
    for twin, _ in sorted(rows, key=lambda row: row[1].macs):
        smallest.setdefault((cnnarch.get_card(twin.builder).family, twin.library), twin)
    return [
        pytest.param(
            twin,
            form,
            id=f"{twin.library}-{twin.name}",
            marks=() if twin in smallest.values() else pytest.mark.slow,
        )
        for twin, form in rows
    ]


@pytest.mark.parametrize(("twin", "form"), counted())
def test_the_twin_has_the_parameters_and_macs_of_the_sheet(twin: Twin, form: Form) -> None:
    theirs = build(twin)
    parameters = count_parameters(theirs)
    if twin.name in BIASED:
        names = dict(theirs.named_parameters())
        parameters -= sum(
            names[f"{path}.bias"].numel()
            for path, module in theirs.named_modules()
            if isinstance(module, torch.nn.Conv2d) and f"{path}.bias" in names
        )
    assert parameters == form.params
    assert count_macs(theirs, form.input_size) == form.macs


def test_few_twins_have_options_that_no_form_of_their_sheet_has() -> None:
    without = {tuple(sorted(t.options.items())) for t in twins() if form_of(t) is None}
    assert without == {
        (("aux_logits", True),),  # theirs does not run them in eval mode
        (("num_classes", 100),),
        (("shortcut", "B"),),
        (("num_classes", 100), ("shortcut", "B")),
        (("activation", "relu6"), ("width", 1.25)),
        (("ceil_pool", False), ("stride_in_1x1", False)),
    }


def names_in(library: str) -> set[str]:
    """The networks that a library can build, as its factory takes their names."""
    if library == "torchvision":
        return set(torchvision.models.list_models())
    if library == "timm":
        return set(timm.list_models())
    if library == "pytorchcv":
        return set(model_provider._models)
    if library == "cadene":
        return set(pretrainedmodels.model_names)
    variants = (*(f"b{i}" for i in range(9)), "l2", *(f"lite{i}" for i in range(5)))
    return {f"efficientnet-{variant}" for variant in variants}  # neither package lists them


def test_every_twin_exists() -> None:
    known = {library: names_in(library) for library in LIBRARIES}
    missing = [
        f"{family_of(row.builder)}.toml: {row.builder}.{key}: {row.library} has no {row.name!r}"
        for key, rows in (("twins", twins()), ("near_twins", near_twins()))
        for row in rows
        if row.name not in known[row.library]
    ]
    assert missing == []
