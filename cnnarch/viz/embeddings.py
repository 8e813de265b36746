"""Image features projected to two dimensions."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor, nn

from cnnarch.blocks._checks import check_choice
from cnnarch.blocks._wrappers import unwrapped
from cnnarch.embedding import embed
from cnnarch.viz._figure import (
    BLUE,
    Images,
    Selection,
    add_fallback_fonts,
    new_figure,
    select_images,
)

Method = Literal["tsne", "pca", "umap"]
TITLES = {"tsne": "t-SNE", "pca": "PCA", "umap": "UMAP"}
SEED = 42
NAME_LENGTH = 24  # maximum length of a class name
MAX_IN_LEGEND = 20  # maximum number of classes; a color bar is shown for more


def embeddings(
    model: nn.Module,
    images: Images,
    labels: Tensor | Sequence[int] | None = None,
    *,
    classes: Sequence[str] | None = None,
    method: Method = "tsne",
    num_samples: int = 1000,
) -> Figure:
    """Show images as points, with similar features close together.

    The features are the input to the last layer, the classifier.

    Args:
        model: a network of this package; its mode is restored afterwards.
        images: a data set such as `data.test`, network inputs as floats (N, C, H, W), or a folder
            or list of photographs.
        labels: class indices of the images in a tensor, shown as colors.
        classes: class names; None uses the network's own, if it has any.
        method: "tsne", "pca" or "umap", which requires the umap-learn package.
        num_samples: maximum number of images.

    Raises:
        ValueError: there is no such method, or there are fewer than four images.
        ImportError: the package that the method requires is not installed.
    """
    check_choice("method", method, get_args(Method))
    model = unwrapped(model)
    selection = select_images(images, num_samples, labels, classes, model=model)
    if len(selection.inputs) < 4:
        raise ValueError(f"at least 4 images are needed, got {len(selection.inputs)}")
    features = embed(model, selection.inputs, batch_size=64, progress=False).features
    points = _project(features, method)
    figure = new_figure(7, 5.2)
    axes = figure.subplots()
    _scatter(axes, points, selection)
    axes.set(xlabel="Dimension 1", ylabel="Dimension 2", xticks=[], yticks=[])
    axes.set_title(f"{TITLES[method]} of the features before the classifier", fontsize=10)
    return add_fallback_fonts(figure)


def _project(features: Any, method: str) -> Any:
    """Return two coordinates for each row of features."""
    count = len(features)
    if method == "umap":  # with a seed, UMAP always uses one thread
        neighbors = min(15, count - 1)
        try:
            from umap import UMAP
        except ImportError as error:
            raise ImportError("UMAP requires umap-learn: pip install 'cnnarch[umap]'") from error
        reducer: Any = UMAP(random_state=SEED, n_jobs=1, n_neighbors=neighbors)
    elif method == "pca":
        from sklearn.decomposition import PCA

        reducer = PCA(2, random_state=SEED)
    else:
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (count - 1) / 3)
        reducer = TSNE(2, perplexity=perplexity, init="pca", random_state=SEED)
    return reducer.fit_transform(features)


def _scatter(axes: Any, points: Any, selection: Selection) -> None:
    style = {"s": 12, "alpha": 0.7, "linewidths": 0}
    x, y = points.T
    if selection.labels is None:
        axes.scatter(x, y, color=BLUE, **style)
        return
    labels = np.array(selection.labels)
    present = sorted(set(selection.labels))
    if len(present) > MAX_IN_LEGEND:
        dots = axes.scatter(x, y, c=labels, cmap="turbo", **style)
        axes.figure.colorbar(dots, ax=axes, label="Class")
        return
    colors: Callable[[int], Any] = colormaps["tab10" if len(present) <= 10 else "tab20"]
    names = selection.names(present, NAME_LENGTH)
    for i, (label, name) in enumerate(zip(present, names, strict=True)):
        name = f" {name}" if name.startswith("_") else name  # Matplotlib would hide this label
        axes.scatter(x[labels == label], y[labels == label], color=colors(i), label=name, **style)
    axes.legend(title="Classes", fontsize=8, frameon=False, bbox_to_anchor=(1, 1), loc="upper left")
