"""Figures of networks, data and training. Each function returns a Matplotlib figure."""

try:
    import captum as _captum  # noqa: F401
    import matplotlib as _matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError(
        "figures require additional packages: pip install 'cnnarch[train]'", name=error.name
    ) from error

from cnnarch.viz.attribution import gradcam, integrated_gradients
from cnnarch.viz.blocks import block_diagram
from cnnarch.viz.confusion import confusion_matrix
from cnnarch.viz.curves import comparison, curves
from cnnarch.viz.diagram import diagram
from cnnarch.viz.embeddings import embeddings
from cnnarch.viz.features import feature_maps, filters
from cnnarch.viz.grids import data_grid, predictions

__all__ = [
    "block_diagram",
    "comparison",
    "confusion_matrix",
    "curves",
    "data_grid",
    "diagram",
    "embeddings",
    "feature_maps",
    "filters",
    "gradcam",
    "integrated_gradients",
    "predictions",
]
