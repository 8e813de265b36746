"""Load, convert, save and share weights.

`weights=` of every builder loads a checkpoint into a new network, and `load` into an existing
one. `port` and `export` convert state dicts from and to other libraries.

Files are memory-mapped, so loading takes little time and networks share the pages of a file.
Replace a weights file by renaming a new one over it. Rewriting it in place changes or crashes
the networks that map it.
"""

from cnnarch.preprocessing import Preprocessing
from cnnarch.weights.building import build_with_weights
from cnnarch.weights.catalog import Weights, get_weights
from cnnarch.weights.checkpoint import find_pretrained
from cnnarch.weights.errors import WeightsError
from cnnarch.weights.fetching import download
from cnnarch.weights.layouts import export, port
from cnnarch.weights.loading import LoadReport, load
from cnnarch.weights.saving import push_to_hub, save_pretrained

__all__ = [
    "LoadReport",
    "Preprocessing",
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
