"""Train a network on images and evaluate it."""

try:
    import lightning as _lightning  # noqa: F401
except ImportError as error:
    raise ImportError(
        "training needs more packages: pip install 'cnnarch[train]'", name=error.name
    ) from error

from cnnarch.training.data import ImageData, ImageSet
from cnnarch.training.datasets import DATA_SETS, load_data
from cnnarch.training.engine import fit
from cnnarch.training.evaluation import Evaluation, evaluate
from cnnarch.training.finite import NonFiniteLossError
from cnnarch.training.history import History
from cnnarch.training.machine import Machine
from cnnarch.training.recipe import Recipe
from cnnarch.training.recipes import default_recipe, find_recipe, list_recipes
from cnnarch.training.record import leave_out_trained
from cnnarch.training.run import build_model, read_results, train
from cnnarch.training.signals import TrainingStopped

__all__ = [
    "DATA_SETS",
    "Evaluation",
    "History",
    "ImageData",
    "ImageSet",
    "Machine",
    "NonFiniteLossError",
    "Recipe",
    "TrainingStopped",
    "build_model",
    "default_recipe",
    "evaluate",
    "find_recipe",
    "fit",
    "leave_out_trained",
    "list_recipes",
    "load_data",
    "read_results",
    "train",
]
