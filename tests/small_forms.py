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
from typing import Any

import torch
from torch import nn

from cnnarch import ImageClassifier, get_model
from cnnarch.analysis import stage_shapes
from cnnarch.testing import calibrate, example_images

Build = Callable[..., ImageClassifier]
MANY_PARAMETERS = 100_000_000
"""VGG's and SENet-154's: half a gigabyte for each copy."""

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
    """Forms that together have every kind of layer that runs in eval mode.

    Exporters and compilers read each kind of layer by its own rules, and need seconds on any
    network: one form of each kind is enough for them.
    """

    def kinds_of(model: ImageClassifier) -> set[str]:
        run = stage_shapes(model.eval(), tuple(example_images(model, 1).shape[1:]))
        return {kind_of(model.get_submodule(path)) for path in run if path}

    return _enough_for(kinds_of)


@cache
def distinct_stages() -> dict[str, Build]:
    """Forms whose stages together end in every type of layer that a stage ends in.

    For what needs seconds and is a claim about the maps of stages.
    """
    return _enough_for(lambda model: {type([*s.modules()][-1]).__name__ for s in model.stages})


def kind_of(layer: nn.Module) -> str:
    """Type and options of a layer without its sizes: "MaxPool2d kernel_size=, ceil_mode=True"."""
    return f"{type(layer).__qualname__} {re.sub(r'[0-9.]+', '', layer.extra_repr())}"


def _enough_for(kinds_of: Callable[[ImageClassifier], set[str]]) -> dict[str, Build]:
    """The forms that are left when each whose kinds others have is left out, the largest first."""
    with torch.device("meta"):
        models = {name: build() for name, build in small_forms().items()}
    left = {name: kinds_of(model) for name, model in models.items()}
    for name in sorted(models, key=lambda name: -len([*models[name].modules()])):
        if left[name] <= set().union(*(left[other] for other in left if other != name)):
            del left[name]
    return {name: small_forms()[name] for name in left}


@lru_cache(maxsize=8)
def without_memory(name: str, **options: Any) -> ImageClassifier:
    """A network of the registry on the meta device; shared, so leave it as it is."""
    with torch.device("meta"):
        return get_model(name, **options)


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
