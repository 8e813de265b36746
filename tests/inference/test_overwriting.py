"""In an engine's copy, activations overwrite their input if nothing else reads it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.contract.inplace import supports_inplace
from cnnarch.inference._copies import inference_copy
from cnnarch.inference._overwriting import overwrite_where_safe
from cnnarch.inference.engines import Workload
from cnnarch.inference.engines.eager import Eager
from cnnarch.inference.fuse import fuse
from cnnarch.testing import assert_close, example_images


class Calls(nn.Module):
    """A module with layers, whose `forward` is supplied by the test."""

    def __init__(self, call: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.ReLU()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.call = call

    def forward(self, x: Tensor) -> Any:
        return self.call(self, x)


def after_a_convolution(net: Any, x: Tensor) -> Tensor:
    return net.act(net.conv(x))


def after_a_sum(net: Any, x: Tensor) -> Tensor:
    return net.act(net.conv(x) + x)


def of_a_concatenation(net: Any, x: Tensor) -> Tensor:
    return net.act(torch.cat([x, x], 1))


def used_twice_and_safe_both_times(net: Any, x: Tensor) -> Tensor:
    return net.act(net.conv(net.act(net.conv(x))))


@pytest.mark.parametrize(
    "call", [after_a_convolution, after_a_sum, of_a_concatenation, used_twice_and_safe_both_times]
)
def test_input_that_only_the_activation_reads_is_overwritten(call: Callable[..., Any]) -> None:
    check(Calls(call), overwrites=True)


def test_input_from_a_folded_norm_is_overwritten() -> None:
    model = Calls(lambda net, x: net.act(net.norm(net.conv(x))), norm=nn.BatchNorm2d(3))
    check(fuse(model), overwrites=True)


def of_the_network_input(net: Any, x: Tensor) -> Tensor:
    return net.act(x)


def of_the_network_input_through_identity(net: Any, x: Tensor) -> Tensor:
    return net.act(net.identity(x))


def of_a_view(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    return net.act(y.flatten(1)) + y.flatten(1)


def of_a_flattened_map(net: Any, x: Tensor) -> Tensor:
    return net.act(net.flatten(x))


def read_by_a_sum(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    return net.act(y) + y


def read_by_the_caller(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = net.conv(x)
    return y, net.act(y)


def used_twice_and_once_on_the_network_input(net: Any, x: Tensor) -> Tensor:
    return net.act(net.conv(net.act(x)))


def of_a_weight(net: Any, x: Tensor) -> Tensor:
    return x * net.act(net.conv.weight).sum()


def cannot_be_traced(net: Any, x: Tensor) -> Tensor:
    return net.act(net.conv(x)) if x.sum() > 1e6 else net.act(x)


@pytest.mark.parametrize(
    "call",
    [
        of_the_network_input,
        of_the_network_input_through_identity,
        of_a_view,
        of_a_flattened_map,
        read_by_a_sum,
        read_by_the_caller,
        used_twice_and_once_on_the_network_input,
        of_a_weight,
        cannot_be_traced,
    ],
)
def test_input_that_something_else_reads_is_kept(call: Callable[..., Any]) -> None:
    check(Calls(call, identity=nn.Identity(), flatten=nn.Flatten()), overwrites=False)


@torch.no_grad()
def check(model: nn.Module, *, overwrites: bool) -> None:
    copied, x = inference_copy(model), torch.randn(2, 3, 6, 6)
    kept = x.clone()
    expected = model(x)
    overwrite_where_safe(copied)
    assert copied.act.inplace is overwrites
    for _ in range(2):  # a second call reveals whether a weight was overwritten
        torch.testing.assert_close(copied(x), expected, rtol=0, atol=0)
    assert torch.equal(x, kept)
    assert not model.act.inplace


def test_dropout_does_not_overwrite_its_input() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout()).eval()
    overwrite_where_safe(model)
    assert not model[1].inplace


def called(model: nn.Module, images: Tensor) -> list[nn.Module]:
    """Return the modules that run; auxiliary heads run only in training."""
    ran: list[nn.Module] = []
    for module in model.modules():
        module.register_forward_hook(lambda module, *_: ran.append(module))
    model(images)
    return ran


@torch.no_grad()
def test_the_eager_engine_overwrites_inputs_without_changing_any_networks_output(
    model: cnnarch.ImageClassifier,
) -> None:
    images = example_images(model)
    kept = images.clone()
    fused = fuse(model)
    copied = inference_copy(fused)
    overwrite_where_safe(copied)
    assert torch.equal(copied(images), fused(images))
    assert torch.equal(images, kept)
    overwriters = [m for m in called(copied, images) if supports_inplace(m)]
    assert all(module.inplace for module in overwriters)
    assert not any(getattr(module, "inplace", False) for module in fused.modules())
    engine = Eager(Workload(model, images, 1), "float32")
    assert_close(engine(images), model(images), 1e-4)
    assert torch.equal(images, kept)
