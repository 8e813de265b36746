"""Tests for training curves."""

import pytest
import torch

from cnnarch import viz
from cnnarch.training import History

ROWS = [
    {"epoch": 1, "train_loss": 2.0, "train_acc": 0.3, "val_loss": 2.2, "val_acc": 0.25},
    {"epoch": 2, "train_loss": 1.0, "train_acc": 0.6, "val_loss": 1.5, "val_acc": 0.5},
]


def lines(axes: object) -> dict[str, list[tuple[float, float]]]:
    """Return the points of each curve by its label."""
    return {
        line.get_label(): [tuple(map(float, xy)) for xy in line.get_xydata()]
        for line in axes.get_lines()  # type: ignore[attr-defined]
    }


def test_loss_and_accuracy_are_drawn_by_epoch() -> None:
    loss, accuracy = viz.curves(History(ROWS)).axes
    assert lines(loss) == {"training": [(1, 2.0), (2, 1.0)], "validation": [(1, 2.2), (2, 1.5)]}
    assert lines(accuracy) == {"training": [(1, 30), (2, 60)], "validation": [(1, 25), (2, 50)]}
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("Loss", "Accuracy (%)")


@pytest.mark.parametrize("make", [list, torch.tensor, tuple])
def test_lists_and_tensors_are_accepted(make: type) -> None:
    figure = viz.curves({"train_loss": make([3.0, 2.0, 1.0])})
    assert lines(figure.axes[0]) == {"training": [(1, 3.0), (2, 2.0), (3, 1.0)]}


def test_auxiliary_and_test_curves_are_drawn_if_present() -> None:
    rows = [
        {**row, "train_aux1_loss": 2.5, "train_aux2_loss": 2.4, "test_acc": 0.4} for row in ROWS
    ]
    loss, accuracy = viz.curves(History(rows)).axes
    assert set(lines(loss)) == {"training", "validation", "auxiliary head 1", "auxiliary head 2"}
    assert set(lines(accuracy)) == {"training", "validation", "test"}


def test_a_single_epoch_is_drawn_as_a_point() -> None:
    (line, *_) = viz.curves(History(ROWS[:1])).axes[0].get_lines()
    assert line.get_marker() == "o"


def test_epoch_ticks_are_whole_numbers() -> None:
    figure = viz.curves(History(ROWS))
    figure.canvas.draw()
    low, high = figure.axes[0].get_xlim()
    assert {t for t in figure.axes[0].get_xticks() if low <= t <= high} == {1, 2}


def test_a_history_without_metrics_is_rejected() -> None:
    with pytest.raises(ValueError, match="contains no loss or accuracy, only epoch"):
        viz.curves(History([{"epoch": 1}]))


def test_a_comparison_shows_training_and_test_accuracy_of_each_network() -> None:
    histories = {
        "first": {"train_acc": [0.5, 0.6], "test_acc": [0.4, 0.5]},
        "second": {"train_acc": [0.7, 0.8], "test_acc": [0.6, 0.7]},
    }
    training, test = viz.comparison(histories).axes
    assert lines(training) == {"first": [(1, 50), (2, 60)], "second": [(1, 70), (2, 80)]}
    assert lines(test) == {"first": [(1, 40), (2, 50)], "second": [(1, 60), (2, 70)]}
    assert (training.get_title(), test.get_title()) == ("Training", "Test")
    colors = [[line.get_color() for line in axes.get_lines()] for axes in (training, test)]
    assert colors[0] == colors[1]
    assert len(set(colors[0])) == 2


def test_a_comparison_shows_validation_accuracy_if_there_is_no_test_accuracy() -> None:
    _, held_out = viz.comparison({"net": History(ROWS)}).axes
    assert held_out.get_title() == "Validation"


@pytest.mark.parametrize("histories", [{}, {"net": {"train_loss": [1.0]}}])
def test_an_empty_or_incomplete_comparison_is_rejected(
    histories: dict[str, dict[str, list[float]]],
) -> None:
    with pytest.raises(ValueError, match=r"no networks to compare|net has no training accuracy"):
        viz.comparison(histories)


def test_more_than_ten_networks_have_different_styles_and_a_legend_outside() -> None:
    histories = {str(i): {"train_acc": [0.1, 0.2], "test_acc": [0.1, 0.2]} for i in range(12)}
    figure = viz.comparison(histories)
    figure.canvas.draw()
    left, right = figure.axes
    for axes in (left, right):
        assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 12
    assert left.get_legend() is None
    assert right.get_legend().get_window_extent().x0 >= right.get_window_extent().x1
