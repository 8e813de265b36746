"""Run any network as fast as this machine can, and take it elsewhere.

`optimize` tries the engines that are installed and keeps the fastest whose output is right;
`Optimized.save` and `load_optimized` carry the result into new processes. `fuse` and `export`
make the network that an engine reads; `Predictor` goes from files to class names.
"""

from cnnarch.inference.export import export
from cnnarch.inference.fuse import fuse
from cnnarch.inference.optimize import optimize
from cnnarch.inference.optimized import Optimized
from cnnarch.inference.predictor import Prediction, Predictions, Predictor
from cnnarch.inference.quantize import quantize
from cnnarch.inference.report import Candidate, Report
from cnnarch.inference.saved import load_optimized

__all__ = [
    "Candidate",
    "Optimized",
    "Prediction",
    "Predictions",
    "Predictor",
    "Report",
    "export",
    "fuse",
    "load_optimized",
    "optimize",
    "quantize",
]
