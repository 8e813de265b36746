"""Activations overwrite their input, and nobody can tell."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cnnarch.blocks import ConvNormAct, Residual
from cnnarch.blocks._overwriting import Chain, add

ACTIVATIONS: list[Callable[[], nn.Module]] = [nn.ReLU, nn.ReLU6, nn.SiLU]


def spied(norm: nn.Module) -> list[int]:
    """Addresses of what a norm gives, without a hook on it."""
    addresses: list[int] = []
    plain = norm.forward

    def forward(x: Tensor) -> Tensor:
        y = plain(x)
        addresses.append(y.data_ptr())
        return y

    norm.forward = forward  # type: ignore[method-assign]
    return addresses


class Passing(nn.Sequential):
    """Hands its input on, whatever is in it."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def written_out(block: ConvNormAct, x: Tensor) -> Tensor:
    return block.act(block.norm(block.conv(x)))


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_the_norms_output_is_overwritten_in_inference(act: Callable[[], nn.Module]) -> None:
    block = ConvNormAct(3, 4, 3, act=act).eval()
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        expected = written_out(block, x)
        made = spied(block.norm)
        y = block(x)
    assert y.data_ptr() == made[0]
    assert torch.equal(y, expected)


def test_relu_overwrites_in_training_too_with_the_same_gradients() -> None:
    block, x = ConvNormAct(3, 4, 3), torch.randn(2, 3, 8, 8, requires_grad=True)
    written_out(block, x).square().sum().backward()
    expected = [p.grad for p in (x, *block.parameters())]
    x.grad = None
    block.zero_grad()
    made = spied(block.norm)
    y = block(x)
    y.square().sum().backward()
    assert y.data_ptr() == made[0]
    found = [p.grad for p in (x, *block.parameters())]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_silu_does_not_in_training_where_autograd_would_copy_its_input() -> None:
    block = ConvNormAct(3, 4, 3, act=nn.SiLU)
    made = spied(block.norm)
    assert block(torch.randn(2, 3, 8, 8)).data_ptr() != made[0]


@pytest.mark.parametrize("name", ["conv", "norm", "act"])
def test_a_hook_sees_what_the_layer_gave(name: str) -> None:
    block, seen = ConvNormAct(3, 4, 3).eval(), []
    getattr(block, name).register_forward_hook(lambda _m, _i, output: seen.append(output))
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        block(x)
        values = {"conv": block.conv(x)}
        values["norm"] = block.norm(values["conv"])
        values["act"] = values["norm"].clamp_min(0)
    assert torch.equal(seen[0], values[name])


def test_a_hook_on_every_module_sees_what_the_layers_gave() -> None:
    block, seen = ConvNormAct(3, 4, 3).eval(), {}

    def keep(module: nn.Module, _inputs: object, output: Tensor) -> None:
        seen[module] = output

    handle = nn.modules.module.register_module_forward_hook(keep)
    try:
        block(torch.randn(1, 3, 8, 8))
    finally:
        handle.remove()
    assert seen[block.norm].min() < 0
    assert seen[block.act].min() == 0


@pytest.mark.parametrize(
    "wanted", [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Sequential, ConvNormAct, Residual]
)
def test_backward_hooks_work_on_every_kind_of_module(wanted: type[nn.Module]) -> None:
    block, gradients = Residual(3, 4), []
    for module in block.modules():
        if type(module) is wanted:
            module.register_full_backward_hook(lambda _m, _i, output: gradients.append(output))
    block(torch.randn(2, 3, 8, 8, requires_grad=True)).sum().backward()
    assert gradients


def test_the_input_of_a_block_is_never_overwritten() -> None:
    x = torch.randn(1, 4, 8, 8)
    before = x.clone()
    with torch.no_grad():
        Residual(4, 4).eval()(x)
        Chain(nn.Identity(), nn.ReLU())(x)
        Chain(nn.ReLU(), nn.ReLU())(x)
        add(x, x, nn.Sequential(nn.Identity()))
        add(x, x, nn.Sequential())
        add(x, x, Passing(nn.Conv2d(4, 4, 1)))
    assert torch.equal(x, before)


@pytest.mark.parametrize("training", [False, True])
def test_a_residual_sum_is_written_over_the_last_norms_output(training: bool) -> None:
    block = Residual(4, 4).train(training)
    x = torch.randn(2, 4, 8, 8, requires_grad=training)
    expected = (block.branch(x) + x).clamp_min(0)
    made = spied(block.branch.conv2.norm)
    y = block(x)
    assert y.data_ptr() == made[0]
    assert torch.equal(y, expected)
    gradients = [torch.autograd.grad(z.sum(), x)[0] for z in (y, expected) if training]
    assert all(torch.equal(gradients[0], g) for g in gradients)


@pytest.mark.parametrize("name", ["branch", "branch.conv2", "branch.conv2.norm"])
def test_a_hook_sees_the_branch_without_the_sum(name: str) -> None:
    block, seen = Residual(4, 4).eval(), []
    block.get_submodule(name).register_forward_hook(lambda _m, _i, output: seen.append(output))
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        block(x)
        assert torch.equal(seen[0], block.branch(x))


def test_a_sum_of_two_precisions_keeps_the_finer() -> None:
    block = Residual(4, 4).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert block.branch(torch.randn(1, 4, 8, 8)).dtype == torch.bfloat16
        assert block(torch.randn(1, 4, 8, 8)).dtype == torch.float32


def test_programs_call_the_activation_as_it_is() -> None:
    block, x = ConvNormAct(3, 4, 3).eval(), torch.randn(1, 3, 8, 8)
    exported = torch.export.export(block, (x,))
    assert "relu_" not in exported.graph_module.code
    assert "add_" not in torch.fx.symbolic_trace(Residual(3, 3)).code
    traced = torch.fx.symbolic_trace(block)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == [
        "conv",
        "norm",
        "act",
    ]
