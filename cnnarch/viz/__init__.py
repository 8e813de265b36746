"""Pictures of networks, data and training; each function returns a matplotlib figure."""

from cnnarch.viz.curves import comparison, curves
from cnnarch.viz.grids import data_grid, predictions

__all__ = ["comparison", "curves", "data_grid", "predictions"]
