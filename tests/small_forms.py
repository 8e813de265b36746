"""Every structure of every family, small: what the contract is tested on.

A test module in tests/models names the small forms of its family in `SMALL_FORMS`, from a name to
a function that takes the network's options as keywords. They are built through the network's own
class, with few blocks and small widths, and there is one for each kind of structure: each block,
and each option that adds, leaves out or changes a layer.
"""

import gc
import importlib
import re
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import torch
from torch import nn

from cnnarch import ImageClassifier
from cnnarch.testing import calibrate, example_images

Build = Callable[..., ImageClassifier]

MODULES = sorted(path.stem for path in (Path(__file__).parent / "models").glob("test_*.py"))


@cache
def small_forms() -> dict[str, Build]:
    """Every small form by its family and name, such as "resnet-bottleneck"."""
    forms = {}
    for module in MODULES:
        family = module.removeprefix("test_")
        for name, build in importlib.import_module(f"tests.models.{module}").SMALL_FORMS.items():
            forms[family if name == family else f"{family}-{name}"] = build
    return forms


@cache
def distinct_forms() -> dict[str, Build]:
    """The small forms that have a kind of layer which no form before them has.

    Exporters and compilers read each kind of layer by its own rules, so that one form of each
    kind is enough for them. Classes of networks are kinds too: each has a form here.
    """
    seen: set[str] = set()
    distinct = {}
    for name, build in small_forms().items():
        with torch.device("meta"):
            kinds = set(map(kind_of, build().modules()))
        if kinds - seen:
            distinct[name] = build
            seen |= kinds
    return distinct


def kind_of(layer: nn.Module) -> str:
    """Type and options of a layer without its sizes: "MaxPool2d kernel_size=, ceil_mode=True"."""
    return f"{type(layer).__qualname__} {re.sub(r'[0-9.]+', '', layer.extra_repr())}"


@lru_cache(maxsize=2)  # the networks of the registry together take 20 GB
def calibrated(build: Build) -> ImageClassifier:
    """What `build` gives, in eval mode with a spread in its logits."""
    gc.collect()  # optimizers refer to themselves, and so keep copies of the network before
    torch.manual_seed(0)
    model = build()
    calibrate(model, example_images(model, batch=8))
    return model
