"""Gradient checkpointing changes only memory use and time."""

import copy

import pytest
import torch
from torch import Tensor, nn

from cnnarch.blocks import ConvNormAct, Residual, Stage


def stage() -> Stage:
    return Stage(
        ConvNormAct(3, 8, 3),
        nn.Sequential(ConvNormAct(8, 8, 3), nn.Dropout(0.5)),
        Residual(8, 16, 2),
    )


def step(model: Stage, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Run both passes with a fixed seed; return the output and the input's gradient."""
    torch.manual_seed(7)
    x = x.clone().requires_grad_()
    y = model(x)
    y.square().mean().backward()
    return y.detach(), x.grad


@pytest.fixture
def pair() -> tuple[Stage, Stage]:
    plain = stage().train()
    saving = copy.deepcopy(plain)
    saving.grad_checkpointing = True
    return plain, saving


def test_gradients_statistics_and_dropout_match_a_step_without_checkpointing(
    pair: tuple[Stage, Stage],
) -> None:
    plain, saving = pair
    for _ in range(3):
        x = torch.randn(4, 3, 8, 8)
        for ours, expected in zip(step(saving, x), step(plain, x), strict=True):
            assert torch.equal(ours, expected)
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert a.grad is not None, name
        assert torch.equal(a.grad, b.grad), name
    for (name, a), b in zip(plain.named_buffers(), saving.named_buffers(), strict=True):
        assert torch.equal(a, b[1]), name
    counters = [v for k, v in saving.state_dict().items() if k.endswith("num_batches_tracked")]
    assert {c.item() for c in counters} == {3}


def test_a_cumulative_moving_average_is_also_unchanged(pair: tuple[Stage, Stage]) -> None:
    """BatchNorm with momentum=None divides by its batch counter."""
    for model in pair:
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.momentum = None
    plain, saving = pair
    for _ in range(2):
        x = torch.randn(4, 3, 8, 8)
        step(plain, x), step(saving, x)
    for a, b in zip(plain.buffers(), saving.buffers(), strict=True):
        assert torch.equal(a, b)
    assert saving[0].norm.momentum is None


def test_frozen_statistics_stay_frozen(pair: tuple[Stage, Stage]) -> None:
    _, saving = pair
    saving[0].eval()
    before = saving[0].norm.running_mean.clone()
    step(saving, torch.randn(4, 3, 8, 8))
    assert torch.equal(saving[0].norm.running_mean, before)
    assert saving[0].norm.num_batches_tracked == 0
    assert saving[0].norm.momentum == 0.1


def calls(model: Stage) -> list[int]:
    """Count how many times the first convolution in each block runs."""
    counts = [0] * len(model)
    for i, block in enumerate(model):
        conv = next(m for m in block.modules() if isinstance(m, nn.Conv2d))

        def count(*_: object, i: int = i) -> None:
            counts[i] += 1

        conv.register_forward_hook(count)
    return counts


def test_the_backward_pass_recomputes_every_block(pair: tuple[Stage, Stage]) -> None:
    plain, saving = pair
    for model, expected in ((plain, [1, 1, 1]), (saving, [2, 2, 2])):
        counts = calls(model)
        step(model, torch.randn(2, 3, 8, 8))
        assert counts == expected


def test_nothing_is_recomputed_without_gradients(pair: tuple[Stage, Stage]) -> None:
    _, saving = pair
    counts = calls(saving)
    with torch.no_grad():
        saving(torch.randn(2, 3, 8, 8))
    assert counts == [1, 1, 1]


def test_a_block_with_its_own_grad_checkpointing_attribute_is_called_directly() -> None:
    inner = Stage(ConvNormAct(3, 4, 3))
    outer = Stage(inner)
    outer.grad_checkpointing = True
    counts = calls(outer)
    step(outer, torch.randn(2, 3, 8, 8))
    assert counts == [1]
    inner.grad_checkpointing = True
    step(outer, torch.randn(2, 3, 8, 8))
    assert counts == [1 + 2]


def test_fewer_values_are_saved_for_backward(pair: tuple[Stage, Stage]) -> None:
    """Count the values that autograd saves, excluding the parameters."""
    kept = []
    for model in pair:
        parameters = {p.data_ptr() for p in model.parameters()}
        saved: list[int] = []

        def pack(t: Tensor, parameters: set[int] = parameters, saved: list[int] = saved) -> Tensor:
            if t.data_ptr() not in parameters:
                saved.append(t.numel())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model(torch.randn(4, 3, 16, 16))
        kept.append(sum(saved))
    plain, saving = kept
    assert saving < plain / 2


def test_checkpointing_is_off_when_compiling(pair: tuple[Stage, Stage]) -> None:
    torch.compiler.reset()
    for model in pair:
        model[1][1].p = 0.0  # compiled code draws different random numbers
    plain, saving = pair
    compiled = torch.compile(saving, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 3, 8, 8)
    for run in (plain, compiled):
        run(x).square().mean().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    for a, b in zip(plain.buffers(), saving.buffers(), strict=True):
        torch.testing.assert_close(a, b)
