"""Recipes: files, allowed ranges and stages."""

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

import cnnarch
from cnnarch.facts.builders import families, family_of, option_parameters
from cnnarch.facts.sheets import facts_of
from cnnarch.training import (
    Recipe,
    build_model,
    datasets,
    default_recipe,
    evaluate,
    find_recipe,
    fit,
    list_recipes,
    load_data,
)
from tests.small_forms import without_memory


def test_every_key_is_documented() -> None:
    text = inspect.getdoc(Recipe) or ""
    assert [f.name for f in fields(Recipe) if f"    {f.name}: " not in text] == []


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_is_valid_and_names_its_source(name: str) -> None:
    assert find_recipe(name).source


def test_the_first_existing_recipe_is_returned() -> None:
    assert find_recipe("nothing", "lenet-digits", "default") == find_recipe("lenet-digits")


def test_an_unknown_recipe_lists_the_existing_ones() -> None:
    with pytest.raises(ValueError, match=r"no recipe 'zzz'; available: .*lenet-digits"):
        find_recipe("zzz")
    for wrong, right in (("resnet-cifr", "resnet-cifar"), ("lenett5-mnist", "lenet5-mnist")):
        with pytest.raises(ValueError, match=f"no recipe '{wrong}'; did you mean '{right}'"):
            find_recipe(wrong)


def test_a_saved_recipe_loads_unchanged(tmp_path: Path) -> None:
    recipe = Recipe(
        learning_rate=1e-5,
        step_epochs=[3, 6.5],
        model_options={"small_images": True},
        then=[{"optimizer": "adamw", "num_epochs": 2}],
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert Recipe.load(path) == recipe


def test_numbers_may_use_scientific_notation(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("learning_rate: 1e-3\nweight_decay: 0\n")  # plain YAML reads 1e-3 as a string
    recipe = Recipe.load(path)
    assert (recipe.learning_rate, recipe.weight_decay) == (0.001, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "learning_rat: 0.1",
            "unknown key 'learning_rat'; did you mean 'learning_rate'",
        ),
        ("optimizer: lion", r"optimizer.*'sgd', 'adam', 'adamw'.*lion"),
        ("num_epochs: many", r"num_epochs.*many"),
        ("num_epochs: 0", "num_epochs must be at least 1, got 0"),
        (
            "learning_rate: 1.0e+12",
            "learning_rate must be at most 1,000,000,000, got 1000000000000",
        ),
        ("momentum: 1.5", "momentum must be from 0 to 1, got 1.5"),
        ("randaugment: 31", "randaugment must be from 0 to 30, got 31"),
        ("step_epochs: [5, 0]", "step_epochs must be at least 1, got 0"),
        ("step_epochs: [0.5]", "step_epochs must be at least 1, got 0.5"),
        ("init: zeros", "init must be one of 'xavier', 'kaiming', 'orthogonal', 'torch', got 'zer"),
        ("{early_stopping: 2, validation: 0}", "require validation above 0"),
        ("then: [{seed: 4}]", "`then` cannot change 'seed'"),
        ("then: [{momentum: 2}]", "momentum must be from 0 to 1, got 2"),
        (
            "then: [{optimizer: lion}]",
            r"optimizer.*'sgd', 'adam', 'adamw', 'rmsprop'.*lion",
        ),
        ("just words", "unknown key"),
        ("a: [1", r"recipe\.yaml: .*line 1"),
    ],
)
def test_an_invalid_file_is_rejected_with_the_allowed_values(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        Recipe.load(path)
    assert "\n" not in str(raised.value)
    assert "recipe.yaml" in str(raised.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_epochs": 2.5}, "num_epochs must be int, got 2.5"),
        ({"keep_best": "no"}, "keep_best must be bool, got 'no'"),
        ({"batch_size": True}, "batch_size must be int or 'auto', got True"),
        ({"learning_rate": True}, "learning_rate must be float, got True"),
        ({"channels_last": "no"}, "channels_last must be bool or None, got 'no'"),
        ({"weights": Path("x.pth")}, r"weights must be str or None, got \w*Path"),
        ({"model_options": ["se"]}, r"model_options must be dict, got \['se'\]"),
        ({"then": {"num_epochs": 1}}, "then must be list, got {'num_epochs': 1}"),
        ({"then": ["freeze"]}, "a stage in `then` must be a mapping of keys, got 'fr"),
    ],
)
def test_a_value_of_the_wrong_type_is_rejected(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**values)


def test_numbers_may_be_integers() -> None:
    assert Recipe(learning_rate=1, step_epochs=[3, 4.5], num_steps=5, batch_size="auto")


def test_stages_keep_the_keys_that_they_do_not_change() -> None:
    recipe = Recipe(learning_rate=0.1, flip=True, then=[{"learning_rate": 0.01}, {"flip": False}])
    stages = [(s.learning_rate, s.flip) for s in recipe.stages()]
    assert stages == [(0.1, True), (0.01, True), (0.1, False)]


PAPER_RECIPES = [name for name in list_recipes() if name.endswith("-paper")]


@pytest.mark.parametrize("name", PAPER_RECIPES)
def test_a_papers_recipe_fits_a_network_of_its_family(name: str) -> None:
    """The recipe's image size matches the input size on the network's card."""
    recipe = find_recipe(name)
    cards = map(cnnarch.get_card, cnnarch.list_models(family=name.removesuffix("-paper")))
    side = recipe.image_resolution or 32
    card = next(card for card in cards if card.input_size[-1] == side)
    with torch.device("meta"):
        model = cnnarch.get_model(card.name, **recipe.model_options)
    assert side >= model.min_input_size


SMALL_SETS = {"digits": 8, "mnist": 28, "fashion_mnist": 28, "cifar10": 32, "cifar100": 32}


def test_every_family_has_a_recipe_for_every_small_data_set() -> None:
    for family in families():
        for data in SMALL_SETS:
            assert find_recipe(f"{family}-{data}").source.endswith(".")


def test_a_recipe_combines_family_and_data_set() -> None:
    """SGD's learning rate is halved for batches of a quarter of the usual size."""
    digits, fashion = find_recipe("resnet-digits"), find_recipe("resnet50-fashion_mnist")
    assert (digits.num_epochs, digits.batch_size, digits.learning_rate) == (20, 32, 0.05)
    assert (fashion.num_epochs, fashion.batch_size, fashion.learning_rate) == (10, 128, 0.1)
    assert (digits.resized_crop, digits.flip) == (0.6, False)
    assert (fashion.crop_padding, fashion.flip) == (2, True)
    assert digits.model_options == fashion.model_options == {"small_images": True}
    adam = find_recipe("lenet5-digits")
    assert (adam.optimizer, adam.learning_rate) == ("adam", 0.003)


def test_a_sheet_may_override_its_recipe_for_one_network_and_one_data_set() -> None:
    assert find_recipe("mixer_h14-mnist").model_options == {"image_size": 56}
    assert find_recipe("mixer_s16-mnist").model_options == {"image_size": 64}
    assert find_recipe("lenet-fashion_mnist").crop_padding == 0
    assert find_recipe("nin_cifar-fashion_mnist").optimizer == "adamw"
    assert find_recipe("nin_cifar-mnist").optimizer == "sgd"


@pytest.mark.parametrize("name", cnnarch.list_models())
def test_sheets_contain_only_valid_recipe_keys(name: str) -> None:
    """The message names the file that contains a misspelled key or an unknown data set."""
    known = {field.name for field in fields(Recipe)}
    recipe = facts_of(name).recipe
    tables = {"recipe": {k: v for k, v in recipe.items() if k != "on"}}
    tables |= {f"recipe.on.{data}": table for data, table in recipe.get("on", {}).items()}
    faults = [
        f"{family_of(name)}.toml: {name}: {at}: unknown key {key!r}"
        for at, table in tables.items()
        for key in table
        if key not in known
    ]
    faults += [
        f"{family_of(name)}.toml: {name}: recipe.on: unknown data set {data!r}"
        for data in recipe.get("on", {})
        if data not in SMALL_SETS
    ]
    assert faults == []
    for table in tables.values():
        Recipe.from_dict(table)  # rejects values of the wrong type


def test_a_network_uses_the_default_recipe_for_custom_data() -> None:
    assert default_recipe("lenet5", "folder:photos") == find_recipe("default")


@pytest.mark.parametrize("data", ["digits", "folder:photos"])
def test_an_unknown_network_has_no_default_recipe(data: str) -> None:
    with pytest.raises(ValueError, match="no network 'resnet5'; did you mean 'resnet50'"):
        default_recipe("resnet5", data)


@pytest.mark.parametrize("value", [None, 3, ["digits"]])
def test_a_name_that_is_not_a_string_is_rejected(value: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: find_recipe(value),
        lambda: find_recipe("default", value),
        lambda: default_recipe(value, "digits"),
        lambda: default_recipe("resnet50", value),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=rf"must be a string, got {re.escape(repr(value))}"):
            call()
    with pytest.raises(TypeError, match="requires at least one name"):
        find_recipe()


@pytest.mark.parametrize("name", cnnarch.list_models())
def test_a_network_accepts_the_options_and_image_size_of_its_recipes(name: str) -> None:
    """The recipe's options exist and its images are large enough.

    The minimum size is computed once for all networks in a family that share a recipe.
    """
    known = option_parameters(cnnarch.get_model_builder(name))
    facts = facts_of(name)
    representative = next(
        other
        for other in cnnarch.list_models(family=family_of(name))
        if facts_of(other).recipe == facts.recipe
        and facts_of(other).min_input_size == facts.min_input_size
    )
    for data, own in SMALL_SETS.items():
        recipe = default_recipe(name, data)
        assert recipe.model_options.keys() <= known.keys()
        model = without_memory(representative, **recipe.model_options)
        side = recipe.image_resolution or max(own, model.min_input_size)
        assert side >= model.min_input_size, f"{data}: {side}"
        if model.fixed_input_size:
            assert recipe.image_resolution in (None, model.min_input_size)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alexnet", "nin"])
def test_networks_without_normalization_learn_digits_with_their_own_recipes(name: str) -> None:
    recipe = find_recipe(f"{name}-digits")
    data = load_data("digits", image_resolution=recipe.image_resolution)
    model = build_model(name, data, recipe)
    data = data.adapt_to(model, recipe.image_resolution)
    fit(model, data, recipe)
    # With the builders' default initialization, the validation accuracies are 0.1 and 0.3.
    assert evaluate(model, data.test).top1 > 0.8


@pytest.mark.slow
@pytest.mark.skipif(not datasets.DEBIAN["fashion_mnist"].exists(), reason="needs Debian's files")
def test_lenet5_learns_fashion_mnist_in_ten_epochs() -> None:
    """The expected test accuracy is at least 0.88. Training takes several minutes."""
    recipe = find_recipe("lenet-fashion_mnist")
    assert recipe.num_epochs == 10
    data = load_data("fashion_mnist", image_resolution=recipe.image_resolution)
    model = build_model("lenet5", data, recipe)
    data = data.adapt_to(model, recipe.image_resolution)
    fit(model, data, recipe)
    assert evaluate(model, data.test).top1 >= 0.88


def test_a_stage_measured_in_epochs_may_follow_one_measured_in_steps() -> None:
    first, second = Recipe(num_steps=100, then=[{"num_epochs": 3}]).stages()
    assert (first.num_steps, second.num_steps, second.num_epochs) == (100, None, 3)


def test_values_of_a_stage_are_parsed_like_those_of_a_file() -> None:
    recipe = Recipe(then=[{"learning_rate": "1e-3"}])
    assert list(recipe.stages())[1].learning_rate == 0.001
