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
    """The small forms that have a kind of layer which no form of fewer layers has.

    Exporters and compilers read each kind of layer by its own rules, and need seconds on any
    network: one form of each kind is enough for them.
    """
    return _first_of_each(lambda model: {kind_of(m) for m in model.modules() if m is not model})


@cache
def distinct_stages() -> dict[str, Build]:
    """The small forms with a stage that ends in another type of layer than those of fewer layers.

    For what needs seconds and is a claim about the maps of stages.
    """
    return _first_of_each(lambda model: {type([*s.modules()][-1]).__name__ for s in model.stages})


def kind_of(layer: nn.Module) -> str:
    """Type and options of a layer without its sizes: "MaxPool2d kernel_size=, ceil_mode=True"."""
    return f"{type(layer).__qualname__} {re.sub(r'[0-9.]+', '', layer.extra_repr())}"


def _first_of_each(kinds_of: Callable[[ImageClassifier], set[str]]) -> dict[str, Build]:
    """The forms that have a kind which none with fewer layers has, in their order."""
    with torch.device("meta"):
        models = {name: build() for name, build in small_forms().items()}
    seen: set[str] = set()
    first = set()
    for name, model in sorted(models.items(), key=lambda item: len([*item[1].modules()])):
        kinds = kinds_of(model)
        if kinds - seen:
            first.add(name)
            seen |= kinds
    return {name: build for name, build in small_forms().items() if name in first}


@lru_cache(maxsize=2)  # the networks of the registry together take 20 GB
def calibrated(build: Build) -> ImageClassifier:
    """What `build` gives, in eval mode with a spread in its logits."""
    torch.manual_seed(0)
    model = build()
    if sum(p.numel() for p in model.parameters()) > 1e7:
        gc.collect()  # optimizers refer to themselves, and so keep copies of the network before
    calibrate(model, example_images(model, batch=8))
    assert model.feature_info  # computed once, for all copies
    return model
