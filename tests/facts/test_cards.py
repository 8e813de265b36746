"""Model cards, reported numbers and the registry of networks."""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

import cnnarch
from cnnarch.facts.builders import builder
from cnnarch.facts.cards import Paper, Stated, printed_number


@pytest.mark.parametrize(
    ("printed", "value", "unit"),
    [
        ("138M", "138000000", "1000000"),
        ("3.8B", "3800000000", "100000000"),
        ("0.39B", "390000000", "10000000"),
        ("4.25G", "4250000000", "10000000"),
        ("60,000", "60000", "1"),
        ("22.85", "22.85", "0.01"),
    ],
)
def test_reported_numbers_have_a_value_and_the_unit_of_the_last_digit(
    printed: str, value: str, unit: str
) -> None:
    assert printed_number(printed) == (Decimal(value), Decimal(unit))


def test_a_stated_value_agrees_within_one_unit_of_its_last_digit() -> None:
    """Papers round or truncate: 3.858 G is reported as 3.8."""
    stated = Stated("macs", "3.8B", "Table 1")
    assert stated.agrees(3_857_973_248)
    assert stated.agrees(3_701_000_000)
    assert not stated.agrees(3_900_000_000)
    assert not stated.agrees(3_700_000_000)


def test_verdicts_explain_differences_and_mark_unconfirmed_values() -> None:
    twice = "FLOPs are twice the MACs."
    assert Stated("macs", "2.7B", "Table 1", twice).verdict(1_328_989_184) == f"differs. {twice}"
    unconfirmed = Stated("macs", "2.7B", "Table 1", twice, confirmed=False)
    assert unconfirmed.verdict(1_328_989_184) == f"not confirmed. {twice}"
    assert Stated("top1_err", "27.7", "", confirmed=False).verdict(None) == "not confirmed"
    assert Stated("top1_err", "27.7", "").verdict(None) == ""


def test_errors_and_unconfirmed_values_are_not_compared() -> None:
    assert not Stated("top1_err", "22.85", "Table 3").compared
    assert not Stated("macs", "1.5B", "about", confirmed=False).compared


def test_a_name_cannot_be_registered_twice() -> None:
    with pytest.raises(ValueError, match="'resnet18' is already registered"):
        builder(cnnarch.resnet18)


def test_a_card_describes_the_network() -> None:
    card = cnnarch.get_card("resnet50")
    assert (card.family, card.year, card.num_classes) == ("resnet", 2015, 1000)
    assert card.paper is not None
    assert card.paper.link == "https://arxiv.org/abs/1512.03385"
    assert card.min_input_size == 1
    assert any("1x1" in sentence for sentence in card.departs)
    assert (
        Paper("T", "A", 1998, url="https://example.org/a.pdf").link == "https://example.org/a.pdf"
    )


def test_families_are_named_after_the_model_files() -> None:
    assert cnnarch.list_models(family="resnet") == sorted(
        ["plain18", "plain34", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
    )
    with pytest.raises(ValueError, match="no family 'resnets'; did you mean 'resnet'"):
        cnnarch.list_models(family="resnets")


@pytest.mark.parametrize("value", [3, ["resnet50"], b"resnet50"])
def test_values_that_are_not_strings_are_rejected(value: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: cnnarch.get_card(value),
        lambda: cnnarch.get_model_builder(value),
        lambda: cnnarch.get_model(value),
        lambda: cnnarch.list_models(value),
        lambda: cnnarch.list_models(family=value),
        lambda: cnnarch.from_pretrained(value),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=rf"must be a string.*, got {re.escape(repr(value))}"):
            call()


def test_patterns_are_shell_wildcards() -> None:
    assert cnnarch.list_models("resnet1?") == ["resnet18"]
    assert cnnarch.list_models("nothing*") == []


def test_se_resnext_belongs_to_the_se_resnet_family() -> None:
    family = cnnarch.list_models(family="se_resnet")
    assert {"se_resnext50_32x4d", "se_resnext101_32x4d"} < set(family)
    assert cnnarch.list_models(family="senet") == ["senet154"]


def test_listing_names_and_cards_does_not_build_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr(cnnarch.ImageClassifier, "__init__", refuse)
    assert len(cnnarch.list_models()) == len(set(cnnarch.list_models()))
    for name in cnnarch.list_models():
        cnnarch.get_card(name)


@pytest.mark.parametrize("name", cnnarch.list_models())
def test_a_card_is_complete(name: str) -> None:
    card = cnnarch.get_card(name)
    assert card.name == name == card.build.__name__
    assert card.params > 0
    assert card.macs > 0
    assert len(card.input_size) == 3
    assert all(sentence.endswith(".") for sentence in card.departs)
    assert card.paper is not None or card.stated == ()
