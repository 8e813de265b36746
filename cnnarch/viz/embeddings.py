"""Where a network puts images: its last features, brought to two dimensions."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from cnnarch.contract.modes import evaluating
from cnnarch.viz._figure import BLUE, LabelledImages, in_any_script, new_figure, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["embeddings"]

Method = Literal["tsne", "pca", "umap"]
TITLES = {"tsne": "t-SNE", "pca": "PCA", "umap": "UMAP"}
SEED = 42
LONGEST = 24  # letters of a name
LEGEND = 20  # classes up to which each has a colour and a name


def embeddings(
    model: nn.Module,
    images: Tensor | LabelledImages,
    labels: Tensor | Sequence[int] | None = None,
    *,
    classes: Sequence[str] | None = None,
    method: Method = "tsne",
    num_samples: int = 1000,
) -> "Figure":
    """A point for each image, near those that the network finds alike.

    What is shown is what the classifier reads: the features before the last layer.

    Args:
        model: a network of this package; its mode is put back afterwards.
        images: a set such as `data.test`, or a tensor (N, C, H, W) as the network reads it.
        labels: class indices of a tensor's images; they colour the points.
        classes: names of the classes; None takes the network's own, if it has them.
        method: "tsne", "pca" or "umap", which needs the package umap-learn.
        num_samples: images to show, from the first; all if there are fewer.

    Raises:
        ValueError: there is no such method, or there are fewer than four images.
        ImportError: the package of the method is not installed.
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    if isinstance(images, Tensor):
        inputs = images[:num_samples]
        chosen = None if labels is None else torch.as_tensor(labels)[:num_samples]
        classes = classes or getattr(model, "categories", None)
    else:
        indices = torch.arange(min(num_samples, len(images.labels)))
        inputs, chosen, classes = images.inputs(indices), images.labels[indices], images.classes
    if len(inputs) < 4:
        raise ValueError(f"at least 4 images are needed, got {len(inputs)}")
    points = _reduce(_features(model, inputs), method)
    figure = new_figure(7, 5.2)
    axes = figure.subplots()
    _scatter(axes, points, chosen, classes)
    axes.set(xlabel="Dimension 1", ylabel="Dimension 2", xticks=[], yticks=[])
    axes.set_title(f"{TITLES[method]} of the features before the classifier", fontsize=10)
    return in_any_script(figure)


def _features(model: Any, inputs: Tensor) -> Tensor:
    device = next(model.parameters()).device
    with evaluating(model):
        parts = [
            model.forward_head(model.forward_features(batch.to(device)), pre_logits=True).cpu()
            for batch in torch.split(inputs, 64)
        ]
    return torch.cat(parts).float()


def _reduce(features: Tensor, method: str) -> Any:
    """Two coordinates for each row."""
    values = features.numpy()
    try:
        if method == "umap":
            from umap import UMAP

            # With a seed it runs on one thread whatever it is asked for.
            neighbours = min(15, len(values) - 1)
            return UMAP(random_state=SEED, n_jobs=1, n_neighbors=neighbours).fit_transform(values)
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
    except ImportError as error:
        package = "'cnnarch[umap]'" if method == "umap" else "'cnnarch[train]'"
        raise ImportError(f"{method} needs a package: pip install {package}") from error
    if method == "pca":
        return PCA(2, random_state=SEED).fit_transform(values)
    perplexity = min(30.0, (len(values) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=SEED).fit_transform(values)


def _scatter(axes: Any, points: Any, labels: Tensor | None, classes: Sequence[str] | None) -> None:
    style = {"s": 12, "alpha": 0.7, "linewidths": 0}
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], color=BLUE, **style)
        return
    present = sorted(set(labels.tolist()))
    if len(present) > LEGEND:
        dots = axes.scatter(points[:, 0], points[:, 1], c=labels.numpy(), cmap="turbo", **style)
        axes.figure.colorbar(dots, ax=axes, label="Class")
        return
    from matplotlib import colormaps

    colors: Callable[[int], Any] = colormaps["tab10" if len(present) <= 10 else "tab20"]
    for i, label in enumerate(present):
        here = points[(labels == label).numpy()]
        name = str(label) if classes is None else short(classes[label], LONGEST)
        name = f" {name}" if name.startswith("_") else name  # Matplotlib leaves those out
        axes.scatter(here[:, 0], here[:, 1], color=colors(i), label=name, **style)
    axes.legend(title="Classes", fontsize=8, frameon=False, bbox_to_anchor=(1, 1), loc="upper left")
