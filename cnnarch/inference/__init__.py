"""Run any network as fast as possible on this machine, and export it for other programs.

`optimize` tries the installed engines and keeps the fastest one whose output is correct.
`Optimized.save` and `load_optimized` transfer the result to new processes. `fuse`, `quantize` and
`export` prepare a network for an engine, and `Predictor` classifies image files.
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
