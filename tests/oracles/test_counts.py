"""The counts in the fact sheets match those of other libraries' networks."""

import json
from collections import defaultdict

import pretrainedmodels
import pytest
import timm
import torch
import torchvision
from pytorchcv import model_provider

import cnnarch
from cnnarch.analysis import count_macs, count_parameters
from cnnarch.facts.builders import family_of
from cnnarch.facts.cards import Twin
from cnnarch.facts.schema import LIBRARIES
from cnnarch.facts.sheets import facts_of, near_twins, twins
from cnnarch.weights import Weights, get_weights
from cnnarch.weights.costs import cost_of, cost_on_sheet, setting_of
from tests.oracles.libraries import build


def size_of(twin: Twin) -> tuple[int, ...]:
    """Return the size of the images for which both networks are counted."""
    size = facts_of(twin.builder).forms[0].input_size
    only = twin.one_size
    return size if isinstance(only, bool) else (size[0], only, only)


def counts_of(twin: Twin) -> tuple[int, int]:
    """Return parameter and MAC counts from the sheet, or from our network if no form matches."""
    size = size_of(twin)
    for form in facts_of(twin.builder).forms:
        if (form.options, form.input_size) == (twin.options, size):
            return twin.params or form.params, form.macs
    with torch.device("meta"):
        ours = cnnarch.get_model(twin.builder, **twin.options).eval()
    return twin.params or count_parameters(ours), count_macs(ours, size)


def counted() -> list[object]:
    """Return all twins. All except the smallest of each family are marked as slow."""
    smallest: dict[str, Twin] = {}
    for twin in sorted(twins(), key=lambda twin: cnnarch.get_card(twin.builder).macs):
        smallest.setdefault(family_of(twin.builder), twin)
    return [
        pytest.param(
            twin,
            id=f"{twin.library}-{twin.name}",
            marks=() if twin in smallest.values() else pytest.mark.slow,
        )
        for twin in twins()
    ]


@pytest.mark.parametrize("twin", counted())
def test_the_twins_parameters_and_macs_match_the_sheet(twin: Twin) -> None:
    theirs, size = build(twin), size_of(twin)
    assert (count_parameters(theirs), count_macs(theirs, size)) == counts_of(twin)


def listed_costs() -> list[object]:
    """Return timm's checkpoints in costs.json, one of each setting. Only the smallest is quick."""
    entries = [e for name in cnnarch.list_models() for e in get_weights(name).values()]
    settings = {json.dumps(setting_of(e)): e for e in entries if e.layout == "timm"}
    listed = [e for e in settings.values() if cost_on_sheet(setting_of(e)) is None]
    smallest = min(listed, key=lambda e: cost_of(e).params)
    return [
        pytest.param(
            entry,
            id=f"{entry.network}-{entry.tag}",
            marks=() if entry is smallest else pytest.mark.slow,
        )
        for entry in listed
    ]


@pytest.mark.parametrize("entry", listed_costs())
def test_the_costs_of_a_checkpoint_match_timm(entry: Weights) -> None:
    twin = next(t for t in twins(entry.network, "timm") if t.name == entry.architecture)
    theirs, cost = build(twin, num_classes=entry.num_classes), cost_of(entry)
    assert (count_parameters(theirs), count_macs(theirs, cost.input_size)) == cost[:2]


def names_in(library: str) -> set[str]:
    """Return the names of all networks in a library."""
    if library == "torchvision":
        return set(torchvision.models.list_models())
    if library == "timm":
        return set(timm.list_models())
    if library == "pytorchcv":
        return set(model_provider._models)
    if library == "cadene":
        return set(pretrainedmodels.model_names)
    variants = (*(f"b{i}" for i in range(9)), "l2", *(f"lite{i}" for i in range(5)))
    return {f"efficientnet-{variant}" for variant in variants}  # neither package provides a list


def test_every_twin_exists() -> None:
    known = {library: names_in(library) for library in LIBRARIES}
    missing = [
        f"{family_of(row.builder)}.toml: {row.builder}.{key}: {row.library} has no {row.name!r}"
        for key, rows in (("twins", twins()), ("near_twins", near_twins()))
        for row in rows
        if row.name not in known[row.library]
    ]
    assert missing == []


def timm_modules() -> list[str]:
    """Return the modules that define the twins in timm."""
    modules = {timm.models.model_entrypoint(twin.name).__module__ for twin in twins(library="timm")}
    return sorted(module.rpartition(".")[2] for module in modules)


@pytest.mark.slow
@pytest.mark.parametrize("module", timm_modules())
def test_networks_of_timm_with_the_tensors_of_a_twin_are_on_the_sheets(module: str) -> None:
    """Their tensors would load without an error, for example those of a network with blur pools."""
    known, same = {twin.name for twin in twins(library="timm")}, defaultdict(set)
    for name in timm.list_models(module=module):
        with torch.device("meta"):
            state = timm.create_model(name).state_dict()
        same[frozenset((key, tensor.shape) for key, tensor in state.items())].add(name)
    alike = set().union(*(names for names in same.values() if names & known))
    assert alike - known - {near.name for near in near_twins() if near.hidden} == set()
