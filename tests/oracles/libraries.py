"""Networks from other libraries, with random values in every tensor."""

import importlib
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn

from cnnarch.facts.cards import NearTwin, Twin

MANY = 6000  # number of tensors in a thousand convolutions and their norms


def build(twin: Twin | NearTwin, device: str = "meta", **arguments: Any) -> nn.Module:
    """Build another library's network in eval mode.

    Args:
        twin: the row that names the network.
        device: device for its tensors.
        **arguments: additional arguments for the library's factory.
    """
    arguments = {**getattr(twin, "arguments", {}), **arguments}
    with torch.device(device), _regnet_widths_on_cpu():
        model: nn.Module = _factory(twin.library, twin.name)(**arguments)
    return model.eval()


@contextmanager
def _regnet_widths_on_cpu() -> Iterator[None]:
    """Let torchvision's RegNets compute their widths, which need the values of small tensors."""
    from torchvision.models.regnet import BlockParams

    compute = BlockParams.from_init_params

    def on_cpu(*args: Any, **parameters: Any) -> Any:
        with torch.device("cpu"):
            return compute(*args, **parameters)

    with mock.patch.object(BlockParams, "from_init_params", on_cpu):
        yield


def _factory(library: str, name: str) -> Any:
    if library == "torchvision":
        return lambda **k: _get("torchvision.models", "get_model")(name, weights=None, **k)
    if library == "timm":
        return lambda **k: _get("timm", "create_model")(name, **k)
    if library == "pytorchcv":
        return lambda **k: _get("pytorchcv.model_provider", "get_model")(name, **k)
    if library == "cadene":
        return lambda **k: _cadene(_get("pretrainedmodels", name), **k)
    package = "efficientnet_lite_pytorch" if "lite" in name else "efficientnet_pytorch"
    return lambda **k: _get(package, "EfficientNet").from_name(name, **k)


def _cadene(factory: Any, **arguments: Any) -> nn.Module:
    """Build a network of pretrainedmodels, which adapts some networks of torchvision.

    It uses deprecated arguments of torchvision and binds `forward` to the instance. Our copies for
    counting drop such functions, so `forward` becomes a method of a subclass.
    """
    with warnings.catch_warnings(action="ignore"):
        model: nn.Module = factory(pretrained=None, **arguments)
    if bound := vars(model).pop("forward", None):
        kind = type(model)
        model.__class__ = type(kind.__name__, (kind,), {"forward": bound.__func__})
    return model


def _get(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def randomize(model: nn.Module) -> None:
    """Fill a network with random values, including BatchNorm's running statistics."""
    if next(model.parameters()).is_meta:
        model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    values = model.state_dict()
    # A smaller gain prevents overflow after a thousand residual blocks.
    gain = 0.25 if len(values) > MANY else 1.0
    for name, tensor in values.items():
        if name.endswith("num_batches_tracked"):
            tensor.zero_()
        elif tensor.dim() > 1:
            tensor.normal_(0, gain / math.sqrt(tensor[0].numel()), generator=generator)
        elif name.endswith(("weight", "running_var")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.normal_(0, 0.2, generator=generator)
