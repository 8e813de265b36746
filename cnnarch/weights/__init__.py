"""Load, convert, save and share weights.

The `weights` argument of every builder loads a checkpoint into a new network; `load` loads one into
an existing network. `port` and `export` convert state dicts from and to the format of other
libraries.

Files are memory-mapped, so loading is fast and networks share a file's memory pages. To replace
a weights file, rename a new file over it: rewriting the file in place corrupts the networks that
map it or crashes the process.
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
