"""Load, convert, save and share weights.

The `weights` argument of every builder loads a checkpoint into a new network; `load` loads one into
an existing network. `port` and `export` convert state dicts from and to the format of other
libraries.

A file that you name is read once and may be overwritten or deleted afterwards. Files in download
caches are memory-mapped: networks share their pages, which are read on first use.
"""

from cnnarch.preprocessing import Preprocessing
from cnnarch.weights.building import build_with_weights
from cnnarch.weights.catalog import Weights, get_weights
from cnnarch.weights.checkpoint import find_pretrained
from cnnarch.weights.errors import UnrecordedOptionsWarning, WeightsError
from cnnarch.weights.fetching import download
from cnnarch.weights.layouts import export, port
from cnnarch.weights.loading import LoadReport, load
from cnnarch.weights.saving import push_to_hub, save_pretrained

__all__ = [
    "LoadReport",
    "Preprocessing",
    "UnrecordedOptionsWarning",
    "Weights",
    "WeightsError",
    "build_with_weights",
    "download",
    "export",
    "find_pretrained",
    "get_weights",
    "load",
    "port",
    "push_to_hub",
    "save_pretrained",
]
