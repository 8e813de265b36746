"""Small networks that cover every structure in every family, used by the contract tests.

Each test module in tests/models defines the small forms of its family in `SMALL_FORMS`, a mapping
from a name to a function that accepts the network's options as keywords. The forms use the
network's class with few blocks and small widths. There is one form for each structure: each kind of
block, and each option that adds, removes or changes a layer.
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
MANY_PARAMETERS = 5_000_000
"""Networks with more parameters, such as ResNet-18, take a second or more to build and compare."""

MODULES = sorted(path.stem for path in (Path(__file__).parent / "models").glob("test_*.py"))


@cache
def small_forms() -> dict[str, Build]:
    """Return all small forms by family and name, such as "resnet-bottleneck"."""
    forms = {}
    for module in MODULES:
        family = module.removeprefix("test_")
        for name, build in importlib.import_module(f"tests.models.{module}").SMALL_FORMS.items():
            forms[family if name == family else f"{family}-{name}"] = build
    return forms


@cache
def distinct_forms() -> dict[str, Build]:
    """Return forms that together contain every kind of layer that runs in eval mode.

    Exporters and compilers take seconds on any network and handle each kind of layer separately,
    so their tests need to see each kind of layer only once. Blocks, which only connect layers, are
    all seen by `make test-all`.
    """

    def kinds_of(model: ImageClassifier) -> set[str]:
        run = stage_shapes(model.eval(), tuple(example_images(model, 1).shape[1:]))
        modules = [model.get_submodule(path) for path in run]
        return {kind_of(module) for module in modules if not [*module.children()]}

    return _enough_for(kinds_of, small_forms())


@cache
def common_forms() -> dict[str, Build]:
    """Return one form of each family, and forms that together contain every kind of layer.

    Outside the contract tests, the other forms are tested by `make test-all` alone.
    """
    first = {name.partition("-")[0]: name for name in reversed(small_forms())}
    chosen = {*first.values(), *distinct_forms()}
    return {name: build for name, build in small_forms().items() if name in chosen}


@cache
def structures() -> dict[str, Build]:
    """Return forms of each family that together contain every kind of its blocks and layers.

    The others combine the same blocks in another way, such as with stride 1 in the stem. Their
    contract is tested by `make test-all` alone.
    """

    def kinds_of(model: ImageClassifier) -> set[str]:
        return {f"{kind_of(module)} {zeros(module)}" for module in model.modules()}

    def zeros(module: nn.Module) -> list[str]:
        return re.findall(r"(?<!\d)0(?:[.]0)?(?![.\d])", module.extra_repr())

    families: dict[str, dict[str, Build]] = {}
    for name, build in small_forms().items():
        families.setdefault(name.partition("-")[0], {})[name] = build
    chosen: dict[str, Build] = {}
    for forms in families.values():
        chosen |= _enough_for(kinds_of, forms)
    return chosen


@cache
def distinct_stages() -> dict[str, Build]:
    """Return forms that together cover every type of layer that ends a stage.

    They are used by slow tests of the stages' output maps.
    """
    return _enough_for(
        lambda model: {type([*s.modules()][-1]).__name__ for s in model.stages}, small_forms()
    )


def kind_of(layer: nn.Module) -> str:
    """Return a layer's type and options without sizes: "MaxPool2d kernel_size=, ceil_mode=True"."""
    return f"{type(layer).__qualname__} {re.sub(r'[0-9.]+(e-[0-9]+)?', '', layer.extra_repr())}"


def _enough_for(
    kinds_of: Callable[[ImageClassifier], set[str]], forms: dict[str, Build]
) -> dict[str, Build]:
    """Drop every form whose kinds are covered by the remaining forms, the largest first.

    Of forms of the same size, the last is dropped first.
    """
    with torch.device("meta"):
        models = {name: build() for name, build in forms.items()}
    left = {name: kinds_of(model) for name, model in models.items()}
    for name in sorted(models, key=lambda name: len([*models[name].modules()]))[::-1]:
        if left[name] <= set().union(*(left[other] for other in left if other != name)):
            del left[name]
    return {name: forms[name] for name in left}


@lru_cache(maxsize=8)
def without_memory(name: str, **options: Any) -> ImageClassifier:
    """Return a registered network on the meta device. It is shared, so do not modify it."""
    with torch.device("meta"):
        return get_model(name, **options)


@lru_cache(maxsize=2)  # all registered networks together need 20 GB
def calibrated(build: Build) -> ImageClassifier:
    """Build a network, calibrate it so its logits vary, and return it in eval mode."""
    torch.manual_seed(0)
    model = build()
    if sum(p.numel() for p in model.parameters()) > 1e7:
        gc.collect()  # reference cycles in optimizers keep earlier copies of the network alive
    calibrate(model, example_images(model, batch=8))
    assert model.feature_info  # computed once for all copies
    return model
