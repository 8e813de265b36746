"""`weights.export` refuses networks that the other library's network cannot equal."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
import torchvision
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.swa_utils import AveragedModel

import cnnarch
from cnnarch.dilation import dilate
from cnnarch.testing import assert_close, calibrate, example_images
from cnnarch.weights import WeightsError, export


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_dilated_network_is_refused(library: str) -> None:
    model = cnnarch.resnet50(num_classes=3)
    dilate(model, 8)
    with pytest.raises(WeightsError, match=r"dilated, but .*replace_stride_with_dilation"):
        export(model, library)


def test_the_advice_for_a_dilated_network_gives_the_same_logits() -> None:
    model = cnnarch.resnet50(num_classes=3, stride_in_1x1=False)
    calibrate(model, example_images(model, 4))
    dilate(model.eval(), 8)
    plain = cnnarch.resnet50(num_classes=3, stride_in_1x1=False)
    plain.load_state_dict(dict(model.state_dict()))
    theirs = torchvision.models.resnet50(
        num_classes=3, replace_stride_with_dilation=[False, True, True]
    )
    theirs.load_state_dict(export(plain))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert_close(model(images), theirs.eval()(images), 1e-5)


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "group": (lambda m: cnnarch.convert_norm(m, "group"), r"stem\.norm is GroupNorm"),
    "part": (lambda m: cnnarch.convert_norm(m.stages[0], "group"), r"stages\.0.* is GroupNorm"),
    "activation": (lambda m: setattr(m.stem, "act", nn.SiLU()), r"stem\.act is SiLU"),
    "eps": (lambda m: setattr(m.stem.norm, "eps", 0.1), r"stem\.norm is .*eps=0\.1"),
    "pruned": (
        lambda m: torch.nn.utils.prune.l1_unstructured(m.stem.conv, "weight", 0.5),  # type: ignore[no-untyped-call]
        r"stem\.conv\.weight_orig was added",
    ),
    "spectral": (lambda m: spectral_norm(m.stem.conv), r"stem\.conv is ParametrizedConv2d"),
    "compiled": (
        lambda m: setattr(m.stages, "0", torch.compile(m.stages[0], backend="eager")),
        r"stages\.0 is OptimizedModule",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_with_other_layers_is_refused_by_naming_them(change: str) -> None:
    apply, message = CHANGES[change]
    model = cnnarch.resnet18(num_classes=3)
    apply(model)
    with pytest.raises(WeightsError, match=f"cannot be exported to torchvision.*{message}"):
        export(model)


EQUAL: dict[str, Callable[[Any], Any]] = {
    "frozen": lambda m: cnnarch.convert_norm(m, "frozen"),
    "sync": lambda m: cnnarch.convert_norm(m, "sync"),
    "freeze": lambda m: cnnarch.freeze(m, 2),
    "averaged": AveragedModel,
    "compiled": lambda m: torch.compile(m, backend="eager"),
}


@pytest.mark.parametrize("kind", EQUAL)
def test_a_network_that_computes_the_same_is_exported(kind: str) -> None:
    model = cnnarch.resnet18(num_classes=3)
    calibrate(model, example_images(model, 4))
    wrapper = EQUAL[kind](model)
    changed = wrapper if isinstance(wrapper, nn.Module) else model
    theirs = torchvision.models.resnet18(num_classes=3)
    state = export(changed)
    missing = {name for name in theirs.state_dict() if name not in state}
    assert not missing
    theirs.load_state_dict(state)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert_close(model.eval()(images), theirs.eval()(images), 1e-5)
