"""Every network has exactly the parameters and multiply-adds of the reference table."""

import pytest
import torch

from cnnarch._cards import CARDS
from cnnarch.analysis import count_macs, count_parameters
from cnnarch.registry import get_card
from tests.reference import Row, reference_rows


@pytest.mark.parametrize("row", reference_rows(), ids=str)
def test_parameters_and_macs(row: Row) -> None:
    with torch.device("meta"):
        model = row.build()
    assert model.num_classes == row.num_classes
    assert model.in_channels == row.input_size[0]
    assert count_parameters(model) == row.params
    assert count_macs(model, row.input_size) == row.macs


@pytest.mark.parametrize("name", sorted(CARDS))
def test_the_card_holds_the_reference_figures(name: str) -> None:
    """What the table says of a network stands on its card, for every option and size."""
    card = CARDS[name]
    ours = {(str(dict(r.options)), r.input_size): (r.params, r.macs) for r in card.all_rows()}
    rows = [row for row in reference_rows() if row.builder == name]
    for row in rows:
        defaults = {"num_classes": card.num_classes}
        options = {k: v for k, v in row.options.items() if defaults.get(k) != v}
        assert ours[str(options), row.input_size] == (row.params, row.macs)


@pytest.mark.parametrize("name", sorted(CARDS))
def test_the_card_is_what_is_measured(name: str) -> None:
    for row in get_card(name).all_rows():
        with torch.device("meta"):
            model = CARDS[name].build(**row.options)
        assert count_parameters(model) == row.params
        assert count_macs(model, row.input_size) == row.macs


@pytest.mark.parametrize("name", sorted(CARDS))
def test_printed_figures_agree_or_the_card_says_why(name: str) -> None:
    """Both ways: an excuse for a figure that agrees is stale."""
    for row in CARDS[name].all_rows():
        for stated in row.stated:
            if stated.compared:
                exact = {"params": row.params, "macs": row.macs}[stated.figure]
                assert stated.agrees(exact) == (stated.departs == ""), stated


def test_every_entry_of_the_table_is_a_network() -> None:
    assert {row.builder for row in reference_rows()} <= CARDS.keys()
