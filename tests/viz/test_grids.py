"""Tests for grids of images."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cnnarch import viz
from cnnarch.training import load_data
from cnnarch.viz._figure import GREEN, RED
from cnnarch.weights import Preprocessing

PREPROCESSING = Preprocessing(8, 8, mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.3))


class Fixed(nn.Module):
    """Returns fixed probabilities and records the mode it is called in."""

    def __init__(self, probabilities: list[list[float]]) -> None:
        super().__init__()
        self.probabilities = nn.Parameter(torch.tensor(probabilities))
        self.dropout = nn.Dropout()
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append((self.training, torch.is_grad_enabled()))
        return self.probabilities[: len(x)].log()


def cells(figure: Any) -> list[Any]:
    return [axes for axes in figure.axes if axes.images]


def pixels(axes: Any) -> Any:
    return np.asarray(axes.images[0].get_array())


def test_normalization_is_undone() -> None:
    colors = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(v)[:, None, None] for v in (PREPROCESSING.mean, PREPROCESSING.std))
    figure = viz.data_grid((colors - mean) / std, [0, 1], preprocessing=PREPROCESSING)
    for axes, color in zip(cells(figure), colors, strict=True):
        np.testing.assert_allclose(pixels(axes), color.permute(1, 2, 0), atol=1e-6)


def test_gray_images_are_drawn_in_gray() -> None:
    (axes,) = cells(viz.data_grid(torch.rand(1, 1, 8, 8)))
    assert pixels(axes).shape == (8, 8)
    assert axes.images[0].get_cmap().name == "gray"
    assert axes.images[0].get_clim() == (0, 1)  # black is 0 in every cell


def test_images_with_unknown_normalization_are_scaled_by_their_range() -> None:
    (axes,) = cells(viz.data_grid(torch.linspace(-3, 5, 64).view(1, 1, 8, 8)))
    assert pixels(axes).min() == 0
    assert pixels(axes).max() == pytest.approx(1)


@pytest.mark.parametrize("channels", [2, 4, 13])
def test_only_the_first_channel_is_shown_unless_there_are_three(channels: int) -> None:
    images = torch.rand(1, channels, 8, 8)
    (axes,) = cells(viz.data_grid(images))
    np.testing.assert_allclose(pixels(axes), images[0, 0])


def test_a_data_sets_labels_and_names_are_shown() -> None:
    data = load_data("digits")
    figure = viz.data_grid(data.train, rows=2, columns=3)
    titles = [axes.get_title() for axes in cells(figure)]
    assert titles == [data.classes[i] for i in data.train.labels[:6]]
    np.testing.assert_allclose(
        pixels(cells(figure)[0]), data.train.pixels[torch.tensor([0])][0, 0] / 255, atol=1e-6
    )


@pytest.mark.parametrize(
    ("rows", "columns", "count"), [(1, 6, 6), (5, 10, 7), (2, 3, 50), (1, 1, 1)]
)
def test_a_grid_shows_at_most_rows_x_columns_images(rows: int, columns: int, count: int) -> None:
    figure = viz.data_grid(torch.rand(count, 3, 8, 8), rows=rows, columns=columns)
    assert len(cells(figure)) == min(count, rows * columns)
    figure.canvas.draw()


@pytest.mark.parametrize("name", ["golden retriever", "T-shirt/top, tee"])
def test_long_names_stay_above_their_own_image(name: str) -> None:
    model = Fixed([[1.0, 0.0]] * 3)
    pictures = torch.rand(3, 1, 8, 8)
    for figure in (
        viz.predictions(model, pictures, [0, 1, 1], classes=[name, "w" + name]),
        viz.data_grid(pictures, [0, 0, 0], classes=[name]),
    ):
        figure.canvas.draw()
        boxes = [axes.title.get_window_extent() for axes in cells(figure)]
        assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_correct_and_wrong_predictions_look_different() -> None:
    model = Fixed([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    figure = viz.predictions(model, torch.rand(3, 1, 8, 8), [0, 0, 0], classes=["cat", "dog"])
    right, wrong, again = cells(figure)
    assert [a.get_title() for a in (right, wrong, again)] == [
        "cat (90%)",
        "dog (80%)\ntrue: cat",
        "cat (70%)",
    ]
    frames = [axes.spines["left"].get_edgecolor() for axes in (right, wrong, again)]
    assert frames[0] == frames[2] != frames[1]
    from matplotlib.colors import to_rgba

    assert (frames[0], frames[1]) == (to_rgba(GREEN), to_rgba(RED))
    assert figure.get_suptitle() == "2 of 3 correct"


def test_a_loaders_batch_provides_images_and_labels() -> None:
    images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 0])
    loader = DataLoader(TensorDataset(images, labels), batch_size=3)
    figure = viz.predictions(Fixed([[0.9, 0.1]] * 3), *next(iter(loader)))
    assert figure.get_suptitle() == "2 of 3 correct"
    titles = [axes.get_title() for axes in cells(viz.data_grid(*next(iter(loader))))]
    assert titles == ["0", "1", "0"]


def test_predictions_start_at_the_first_image() -> None:
    images = torch.rand(4, 1, 8, 8)
    figure = viz.predictions(Fixed([[1.0]] * 4), images, rows=1, columns=2)
    for axes, image in zip(cells(figure), images, strict=False):
        np.testing.assert_allclose(pixels(axes), image[0])
    assert len(cells(figure)) == 2


def test_predictions_without_labels_have_no_frame() -> None:
    (axes,) = cells(viz.predictions(Fixed([[0.25, 0.75]]), torch.rand(1, 1, 8, 8)))
    assert axes.get_title() == "1 (75%)"
    assert not axes.spines["left"].get_visible()


def test_the_network_runs_in_eval_mode_and_its_mode_is_restored() -> None:
    model = Fixed([[1.0]])
    model.train()
    model.dropout.eval()  # a frozen layer is in eval mode
    viz.predictions(model, torch.rand(1, 1, 8, 8))
    assert model.modes == [(False, False)]
    assert model.training
    assert not model.dropout.training


def test_nan_logits_and_unnamed_classes_are_rejected() -> None:
    images = torch.zeros(2, 3, 8, 8)
    with pytest.raises(ValueError, match="logits contain NaN"):
        viz.predictions(Fixed([[0.0, float("nan")]] * 2), images)
    for labels in ([0, 2], [0, -1]):
        with pytest.raises(ValueError, match=f"2 class names, but none for {labels[1]}"):
            viz.predictions(Fixed([[1.0, 0.0]] * 2), images, labels, classes=("cat", "dog"))


def test_the_networks_names_and_preprocessing_are_the_defaults() -> None:
    model: Any = Fixed([[0.0, 1.0]])
    model.categories = ("tench, Tinca tinca", "a name that is much too long for a cell")
    model.preprocessing = PREPROCESSING
    (axes,) = cells(viz.predictions(model, torch.zeros(1, 3, 8, 8)))
    assert axes.get_title() == "a name…ell (100%)"
    np.testing.assert_allclose(pixels(axes)[0, 0], PREPROCESSING.mean, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 3, 8, 8), (8, 8)])
def test_images_must_be_a_batch(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(N, C, H, W\), got"):
        viz.data_grid(torch.zeros(shape))


def test_too_few_labels_are_rejected() -> None:
    with pytest.raises(ValueError, match="expected 3 labels, got 2"):
        viz.data_grid(torch.zeros(3, 1, 8, 8), [0, 1])
