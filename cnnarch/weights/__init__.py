"""Anyone's weights in any network: exactly, safely, fast.

`weights=` of every builder, `load` for a network that is built, `port` and `export` between
libraries, a catalog of checkpoints, saving and sharing.

Files are mapped into memory, so loading costs next to nothing and networks share their pages.
Replace a file of weights by renaming a new one over it, never by rewriting it in place: that
would change or kill the networks that have it mapped.
"""

from cnnarch.preprocessing import Preprocessing
from cnnarch.weights.building import build_with_weights
from cnnarch.weights.entry import Weights, get_weights
from cnnarch.weights.errors import WeightsError
from cnnarch.weights.fetching import download
from cnnarch.weights.layouts import export, port
from cnnarch.weights.loading import LoadReport, load
from cnnarch.weights.saving import push_to_hub, save_pretrained
from cnnarch.weights.source import find_pretrained

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
