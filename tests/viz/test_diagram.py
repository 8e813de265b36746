"""Tests for the network diagram and the confusion matrix."""

from pathlib import Path
from typing import Any

import pytest
import torch

import cnnarch
from cnnarch import viz
from tests.small_forms import Build


def texts(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def test_stages_show_shape_parameters_and_macs() -> None:
    """GoogLeNet's Table 1: stages end in branches whose maps are concatenated."""
    found = texts(viz.diagram(cnnarch.googlenet()))
    shapes = [t for t in found if " x " in t and t.replace(" x ", "").isdigit()]
    assert shapes == [
        "3 x 224 x 224",
        "64 x 112 x 112",
        "192 x 56 x 56",
        "480 x 28 x 28",
        "832 x 14 x 14",
        "1024 x 7 x 7",
    ]
    assert "MaxPool2d, 5 x Inception" in found
    assert found[-2:] == ["6,998,552", "1,582,671,872"]


def test_stages_add_up_to_the_total() -> None:
    card = cnnarch.get_card("densenet121")
    found = texts(viz.diagram(cnnarch.densenet121()))
    numbers = [int(t.replace(",", "")) for t in found if t.replace(",", "").isdigit()]
    numbers.remove(1000)  # the shape of the logits
    *stages, params, macs = numbers
    assert (sum(stages[::2]), sum(stages[1::2])) == (params, macs) == (card.params, card.macs)


def test_auxiliary_heads_are_listed_below_the_head() -> None:
    """Each head has a 4x4 pool, a 1x1 convolution and linear layers of 1024 and 1000 units."""
    found = texts(viz.diagram(cnnarch.googlenet(aux_logits=True)))
    heads = [c * 128 + 128 + 2048 * 1024 + 1024 + 1024 * 1000 + 1000 for c in (512, 528)]
    for name, count in zip(("aux1", "aux2"), heads, strict=True):
        assert found.index("head") < found.index(name)
        assert f"{count:,}" in found
    assert f"{6_998_552 + sum(heads):,}" in found


def test_auxiliary_heads_have_multiply_adds_if_they_run() -> None:
    """Two convolutions and a linear layer, on maps of 5x5, 1x1 and 1x1 pixels."""
    with torch.device("meta"):
        model = cnnarch.inception_v3(aux_logits=True)
    macs = 25 * 768 * 128 + 128 * 25 * 768 + 768 * 1000
    found = texts(viz.diagram(model.train()))
    assert f"{macs:,}" in found
    assert f"{5_713_216_096 + macs:,}" in found
    found = texts(viz.diagram(model.eval()))
    assert f"{macs:,}" not in found
    assert f"{5_713_216_096:,}" in found


def test_a_network_on_the_meta_device_is_drawn() -> None:
    with torch.device("meta"):
        model = cnnarch.resnet152()
    assert "60,192,808" in texts(viz.diagram(model))


def test_a_different_image_size_can_be_given() -> None:
    assert "2048 x 4 x 4" in texts(viz.diagram(cnnarch.resnet50(), (3, 128, 128)))


def test_every_network_fits_the_page_width(builder: Build) -> None:
    with torch.device("meta"):
        figure = viz.diagram(builder())
    assert figure.get_figwidth() <= 7
    figure.draw_without_rendering()
    page = figure.bbox
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert page.x0 - 1 <= box.x0
        assert box.x1 <= page.x1 + 1, text.get_text()


def test_confusion_counts_are_shown_by_label_and_prediction() -> None:
    figure = viz.confusion_matrix([[3, 1], [0, 4]], ["cat", "dog"])
    axes = figure.axes[0]
    assert {(t.get_position(), t.get_text()) for t in axes.texts} == {
        ((0, 0), "3"),
        ((1, 0), "1"),  # column 1, row 0: a cat predicted as a dog
        ((1, 1), "4"),
    }
    assert axes.images[0].get_array().tolist() == [[0.75, 0.25], [0.0, 1.0]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted", "True")
    assert [t.get_text() for t in axes.get_yticklabels()] == ["cat", "dog"]


def test_a_class_without_images_has_no_color() -> None:
    image = viz.confusion_matrix(torch.tensor([[0, 0], [1, 1]])).axes[0].images[0]
    assert image.get_array().tolist() == [[0, 0], [0.5, 0.5]]


def test_a_hundred_classes_are_drawn_without_numbers() -> None:
    axes = viz.confusion_matrix(torch.eye(100)).axes[0]
    assert len(axes.texts) == 0


def tick_labels(counts: Any, names: list[str] | None = None) -> list[str]:
    axes = viz.confusion_matrix(counts, names).axes[0]
    columns, rows = (
        [t.get_text() for t in labels]
        for labels in (axes.get_xticklabels(), axes.get_yticklabels())
    )
    assert columns == rows
    return rows


@pytest.mark.parametrize("count", [20, 21, 50])
def test_up_to_fifty_classes_have_all_names(count: int) -> None:
    assert tick_labels(torch.eye(count)) == [str(i) for i in range(count)]
    names = [f"class {i}" for i in range(count)]
    assert tick_labels(torch.eye(count), names) == names


def test_more_classes_have_some_names_at_their_places() -> None:
    axes = viz.confusion_matrix(torch.eye(1000), [f"class {i}" for i in range(1000)]).axes[0]
    ticks, labels = axes.get_yticks(), axes.get_yticklabels()
    assert len(labels) == 20
    assert [t.get_text() for t in labels] == [f"class {tick:.0f}" for tick in ticks]


DOTS = "\N{HORIZONTAL ELLIPSIS}"


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (  # a comma within a name
            ["Pepper,_bell___Bacterial_spot", "Pepper,_bell___healthy"],
            [f"Pepper,_bell___{DOTS}ial_spot", "Pepper,_bell___healthy"],
        ),
        (["tench, Tinca tinca", "cock"], ["tench", "cock"]),  # synonyms
        (["maillot", "maillot, tank suit"], ["maillot", "maillot, tank suit"]),
        (["crane", "crane"], ["crane", "crane"]),  # ImageNet has two classes of this name
        (  # different in the middle only
            ["Tomato___Early_blight_of_the_leaf", "Tomato___Late_blight_of_the_leaf"],
            [f"Tomato___Early_{DOTS}the_leaf", f"Tomato___Late_b{DOTS}the_leaf"],
        ),
        (
            ["a" * 30 + "b" + "a" * 30, "a" * 30 + "c" + "a" * 30],
            ["a" * 23 + DOTS + "a" * 12 + f" #{i}" for i in (0, 1)],
        ),
        (["two\nlines", "$x$"], [r"two\nlines", r"\$x\$"]),
    ],
)
def test_different_names_look_different(names: list[str], shown: list[str]) -> None:
    assert tick_labels(torch.eye(2), names) == shown


@pytest.mark.parametrize("letter", ["\N{CIRCLED LATIN CAPITAL LETTER A}", "\N{SCRIPT SMALL G}"])
def test_a_letter_missing_from_the_default_font_uses_a_fallback_font(
    letter: str, tmp_path: Path
) -> None:
    """Matplotlib's STIX font includes both letters. A missing glyph would cause a warning."""
    figure = viz.confusion_matrix([[3, 1], [0, 4]], [letter, "dog"])
    figure.savefig(tmp_path / "figure.png")
    labels = figure.axes[0].get_xticklabels()
    assert "STIXGeneral" in labels[0].get_fontfamily()
    assert labels[1].get_fontfamily() == ["sans-serif"]


def test_a_long_name_is_shortened(tmp_path: Path) -> None:
    """With the whole name, Matplotlib would warn that no space is left for the matrix."""
    name = "a name that goes on and on, as some do"
    figure = viz.confusion_matrix(torch.eye(3), ["cat", "dog", 3 * name.replace(",", "")])
    figure.savefig(tmp_path / "figure.png")
    label = figure.axes[0].get_xticklabels()[2].get_text()
    assert label == "a name that goe\N{HORIZONTAL ELLIPSIS} some do"


@pytest.mark.parametrize(
    ("counts", "names", "message"),
    [
        ([[1, 2]], None, "expected a square matrix"),
        ([[1, 0], [0, 1]], ["one"], "expected 2 class names, got 1"),
    ],
)
def test_an_invalid_confusion_matrix_is_rejected(
    counts: list[list[int]], names: list[str] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        viz.confusion_matrix(counts, names)
