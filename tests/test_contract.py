"""The contract holds for every small form and, with `--all`, every network. No exclusions."""

import inspect
import math
import re
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest
import torch

from cnnarch import ImageClassifier, get_model_builder, list_models
from cnnarch.contract.classifier import ModelOptions
from cnnarch.facts.builders import option_parameters
from cnnarch.testing import (
    CHECKS,
    calibrate,
    check_compiles_to_one_graph,
    check_exports_with_a_dynamic_batch,
    check_meta_device,
    check_traces,
    example_images,
)
from cnnarch.testing._helpers import train_step
from tests.small_forms import Build

Check = Callable[[ImageClassifier], None]

COMPILERS = (check_traces, check_compiles_to_one_graph)
"""Checks that take seconds and depend only on the types of layers."""
QUICK = [check for check in CHECKS if check not in (*COMPILERS, check_exports_with_a_dynamic_batch)]


@pytest.mark.parametrize("check", QUICK, ids=lambda check: check.__name__)
def test_fulfills_the_contract(check: Check, model: ImageClassifier) -> None:
    check(model)


@pytest.mark.parametrize("check", COMPILERS, ids=lambda check: check.__name__)
def test_every_kind_of_layer_compiles(check: Check, distinct_model: ImageClassifier) -> None:
    check(distinct_model)


@pytest.mark.slow
def test_every_kind_of_layer_exports_with_a_dynamic_batch(distinct_model: ImageClassifier) -> None:
    """tests/inference/test_export.py also tests dynamic heights and widths."""
    check_exports_with_a_dynamic_batch(distinct_model)


# Tests that build a new network


@pytest.mark.parametrize("num_classes", [0, 7, 1000])
def test_num_classes_is_the_width_of_the_logits(small_form: Build, num_classes: int) -> None:
    model = small_form(num_classes=num_classes).eval()
    logits = model(example_images(model, 1, 48))
    assert logits.shape == (1, num_classes or model.num_features)
    assert model.num_classes == num_classes


@pytest.mark.parametrize("in_channels", [1, 3, 4, 13])
def test_any_number_of_input_channels_trains(small_form: Build, in_channels: int) -> None:
    model = small_form(in_channels=in_channels, num_classes=2)
    assert model.in_channels == in_channels
    assert train_step(model, example_images(model, 2, 48)).isfinite()


def test_a_second_network_of_the_same_form_loads_the_weights(
    model: ImageClassifier, small_form: Build
) -> None:
    other = small_form().eval()
    images = example_images(model)
    with torch.no_grad():
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(images), model(images))


def test_builds_and_runs_on_the_meta_device(small_form: Build) -> None:
    with torch.device("meta"):
        model = small_form()
    assert {t.device.type for t in model.state_dict().values()} == {"meta"}
    check_meta_device(model)


def test_the_same_seed_produces_the_same_weights_and_loss(small_form: Build) -> None:
    losses = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            torch.manual_seed(3)
            model = small_form()
            losses.append(train_step(model, example_images(model, 2, 48)))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*losses)


def test_construction_uses_the_default_dtype(small_form: Build) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        model = small_form(num_classes=2).eval()
        calibrate(model, example_images(model, 2, 48).double())
        assert model(example_images(model, 1, 48).double()).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_networks_for_small_images_end_in_a_map_of_at_least_4x4(small_form: Build) -> None:
    if "small_images" not in inspect.signature(small_form).parameters:
        pytest.skip("the network has no such option")
    usual, small = small_form(small_images=False), small_form(small_images=True).eval()
    images = torch.zeros(1, small.in_channels, 32, 32)
    assert small(images).shape == (1, small.num_classes)
    features = small.forward_features(images)
    assert min(features.shape[-2:]) >= 4
    shapes = {k: v.shape for k, v in small.state_dict().items()}
    changed = [k for k, v in usual.state_dict().items() if v.shape != shapes[k]]
    stem = [k for k in changed if not (k.startswith("stem.") and shapes[k][-1] == 3)]
    assert stem == []
    assert len(changed) <= 1


# Options of every builder


def test_the_options_type_matches_the_arguments_of_the_class(model_name: str) -> None:
    """The builder's TypedDict contains exactly the network class's keyword-only arguments."""
    build = get_model_builder(model_name)
    hints = get_type_hints(build.__annotations__["options"].__args__[0])
    network = build.__annotations__["return"]
    parameters = option_parameters(network)
    assert list(hints)[: len(ModelOptions.__annotations__)] == list(ModelOptions.__annotations__)
    assert set(hints) == set(parameters)
    assert [*inspect.signature(build).parameters] == ["weights", *parameters]


def test_an_unknown_option_raises_and_suggests_the_nearest_name(builder: Build) -> None:
    with pytest.raises(TypeError, match=r"no option 'num_clases'; did you mean 'num_classes'"):
        builder(num_clases=10)


INTEGERS = (-1, 2.5, True, math.nan, "ten")
NUMBERS = (-0.1, math.inf, math.nan, True, "half")
WRONG = {int: INTEGERS, float: NUMBERS, bool: (1, 0.0, "False", math.nan)}
"""Values that every option of a type rejects."""
LIMITS = {
    "in_channels": (0,),
    "dropout": (1.0,),
    "drop_path": (1.0,),
    "width": (0,),
    "norm_eps": (0,),
    "norm_momentum": (0, 1.5),
}
"""Values that are just out of an option's range."""


def wrong_values(option: inspect.Parameter) -> list[Any]:
    """Return values outside an option's type and range; None is among them unless allowed."""
    types = {option.annotation, *get_args(option.annotation)}
    choice = "other", 3.5, True
    wrong = next((WRONG[kind] for kind in WRONG if kind in types), choice)
    nothing = () if type(None) in types else (None,)
    return [*wrong, *nothing, *LIMITS.get(option.name, ())]


def test_wrong_values_of_options_are_rejected_in_a_sentence(builder: Build) -> None:
    """The sentence names the option, what it allows and what it received."""
    for name, option in option_parameters(builder.__annotations__["return"]).items():
        for value in wrong_values(option):
            sentence = rf"^{name} must be [^\n]+, got {re.escape(repr(value))}$"
            with torch.device("meta"), pytest.raises(ValueError, match=sentence):
                builder(**{name: value})


def test_options_of_other_networks_are_rejected(builder: Build) -> None:
    every = {name for each in map(get_model_builder, list_models()) for name in options_of(each)}
    for name in every - options_of(builder):
        sentence = rf"^\w+\(\) has no option '{name}'; (did you mean|available:) "
        with pytest.raises(TypeError, match=sentence):
            builder(**{name: 1})


def options_of(builder: Build) -> set[str]:
    return set(option_parameters(builder.__annotations__["return"]))
