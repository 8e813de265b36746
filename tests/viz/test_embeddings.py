"""Tests for figures of embeddings."""

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
def projected(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the features instead of projecting them."""
    recorded: list[Any] = []

    def project(features: Any, _method: str) -> Any:
        recorded.append(features)
        return np.zeros((len(features), 2))

    monkeypatch.setattr(sys.modules["cnnarch.viz.embeddings"], "_project", project)
    return recorded


def test_features_are_the_input_to_the_classifier(projected: list[Any]) -> None:
    model = cnnarch.lenet5().eval()
    x = torch.randn(10, 1, 32, 32)
    viz.embeddings(model, x)
    assert projected[0].shape == (10, 84)
    with torch.no_grad():
        torch.testing.assert_close(model.head.classifier(torch.from_numpy(projected[0])), model(x))


@pytest.mark.parametrize(("requested", "shown"), [(5, 5), (100, 30)])
def test_the_number_of_images_is_limited(projected: list[Any], requested: int, shown: int) -> None:
    data = load_data("digits", image_resolution=32)
    images = data.test.subset(torch.arange(30))
    viz.embeddings(cnnarch.lenet5(), images, num_samples=requested)
    assert len(projected[0]) == shown


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # umap-learn's
@pytest.mark.parametrize("method", ["tsne", "pca", pytest.param("umap", marks=pytest.mark.slow)])
def test_each_class_has_a_color_and_a_name(method: Any) -> None:
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


def test_umap_computes_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """UMAP takes twenty seconds to compile, so a stub returns the first two features instead."""
    options_seen: list[dict[str, Any]] = []

    class FirstTwo:
        def __init__(self, **options: Any) -> None:
            options_seen.append(options)

        def fit_transform(self, values: Any) -> Any:
            return values[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=FirstTwo))
    model, x = cnnarch.lenet5(), torch.randn(12, 1, 32, 32)
    (axes,) = viz.embeddings(model, x, method="umap").axes
    with torch.no_grad():
        features = model.eval().forward_head(model.forward_features(x), pre_logits=True)
    (points,) = axes.collections
    np.testing.assert_allclose(points.get_offsets(), features[:, :2], rtol=1e-5)
    assert options_seen[0]["n_neighbors"] == 11  # of 12 points
    assert options_seen[0]["random_state"] is not None


def test_the_same_images_give_the_same_figure() -> None:
    model, x = cnnarch.lenet5(), torch.randn(12, 1, 32, 32)
    first, second = (viz.embeddings(model, x).axes[0].collections[0].get_offsets() for _ in "ab")
    np.testing.assert_array_equal(first, second)


def test_many_classes_share_a_color_scale(projected: list[Any]) -> None:
    figure = viz.embeddings(cnnarch.lenet5(), torch.randn(25, 1, 32, 32), torch.arange(25))
    assert len(figure.axes) == 2  # the points and the color scale
    assert len(projected) == 1


def test_a_missing_umap_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r"pip install 'cnnarch\[umap\]'"):
        viz.embeddings(cnnarch.lenet5(), torch.randn(6, 1, 32, 32), method="umap")


def test_invalid_arguments_are_rejected() -> None:
    x = torch.randn(6, 1, 32, 32)
    with pytest.raises(ValueError, match="method must be one of 'tsne', 'pca', 'umap', got 'mds'"):
        viz.embeddings(cnnarch.lenet5(), x, method="mds")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 4 images are needed, got 3"):
        viz.embeddings(cnnarch.lenet5(), x[:3])


def test_class_names_can_contain_any_character(projected: list[Any]) -> None:
    model = cnnarch.lenet5(num_classes=2).eval()
    names = ["_background", "$^$"]
    labels = torch.tensor([0, 1] * 5)
    figure = viz.embeddings(model, torch.randn(10, 1, 32, 32), labels, classes=names)
    figure.canvas.draw()
    assert projected
    texts = figure.axes[0].get_legend().get_texts()
    assert [text.get_text().strip() for text in texts] == ["_background", r"\$^\$"]
