"""Embeddings of the features before the classifier."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import cnnarch
from cnnarch import viz
from cnnarch.training import load_data


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The features that are reduced, instead of reducing them."""
    seen: list[Any] = []

    def reduce(features: Any, _method: str) -> Any:
        seen.append(features)
        return np.zeros((len(features), 2))

    monkeypatch.setattr(sys.modules["cnnarch.viz.embeddings"], "_reduce", reduce)
    return seen


def test_features_are_what_the_classifier_reads(read: list[Any]) -> None:
    model = cnnarch.lenet5().eval()
    x = torch.randn(10, 1, 32, 32)
    viz.embeddings(model, x)
    assert read[0].shape == (10, 84)
    with torch.no_grad():
        torch.testing.assert_close(model.head.classifier(read[0]), model(x))


@pytest.mark.parametrize(("asked", "given"), [(5, 5), (100, 30)])
def test_exactly_so_many_images_are_shown(read: list[Any], asked: int, given: int) -> None:
    data = load_data("digits", image_resolution=32)
    images = data.test.subset(torch.arange(30))
    viz.embeddings(cnnarch.lenet5(), images, num_samples=asked)
    assert len(read[0]) == given


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # umap-learn's
@pytest.mark.parametrize("method", ["tsne", "pca", pytest.param("umap", marks=pytest.mark.slow)])
def test_points_of_each_class_have_a_colour_and_a_name(method: Any) -> None:
    if method == "umap":
        pytest.importorskip("umap")
    x, labels = torch.randn(12, 1, 32, 32), torch.arange(12) % 3
    figure = viz.embeddings(
        cnnarch.lenet5(), x, labels, classes=["cat", "dog", "eel"], method=method
    )
    (axes,) = figure.axes
    assert [len(points.get_offsets()) for points in axes.collections] == [4, 4, 4]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["cat", "dog", "eel"]
    assert all(np.isfinite(points.get_offsets()).all() for points in axes.collections)


def test_umap_places_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its compiler takes twenty seconds; here the two first features are what it finds."""
    asked: list[dict[str, Any]] = []

    class FirstTwo:
        def __init__(self, **options: Any) -> None:
            asked.append(options)

        def fit_transform(self, values: Any) -> Any:
            return values[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=FirstTwo))
    model, x = cnnarch.lenet5(), torch.randn(12, 1, 32, 32)
    (axes,) = viz.embeddings(model, x, method="umap").axes
    with torch.no_grad():
        features = model.eval().forward_head(model.forward_features(x), pre_logits=True)
    (points,) = axes.collections
    np.testing.assert_allclose(points.get_offsets(), features[:, :2], rtol=1e-5)
    assert asked[0]["n_neighbors"] == 11  # of 12 points
    assert asked[0]["random_state"] is not None


def test_the_same_images_give_the_same_picture() -> None:
    model, x = cnnarch.lenet5(), torch.randn(12, 1, 32, 32)
    first, second = (viz.embeddings(model, x).axes[0].collections[0].get_offsets() for _ in "ab")
    np.testing.assert_array_equal(first, second)


def test_many_classes_share_a_scale(read: list[Any]) -> None:
    figure = viz.embeddings(cnnarch.lenet5(), torch.randn(25, 1, 32, 32), torch.arange(25))
    assert len(figure.axes) == 2  # the points, and the scale
    assert len(read) == 1


def test_umap_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r"pip install 'cnnarch\[umap\]'"):
        viz.embeddings(cnnarch.lenet5(), torch.randn(6, 1, 32, 32), method="umap")


def test_mistakes_are_named() -> None:
    x = torch.randn(6, 1, 32, 32)
    with pytest.raises(ValueError, match="method must be one of tsne, pca, umap, got 'mds'"):
        viz.embeddings(cnnarch.lenet5(), x, method="mds")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 4 images are needed, got 3"):
        viz.embeddings(cnnarch.lenet5(), x[:3])


def test_a_class_may_have_any_name(read: list[Any]) -> None:
    model = cnnarch.lenet5(num_classes=2).eval()
    names = ["_background", "$^$"]
    labels = torch.tensor([0, 1] * 5)
    figure = viz.embeddings(model, torch.randn(10, 1, 32, 32), labels, classes=names)
    figure.canvas.draw()
    assert read
    texts = figure.axes[0].get_legend().get_texts()
    assert [text.get_text().strip() for text in texts] == ["_background", r"\$^\$"]
