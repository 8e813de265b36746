"""Cross-stage partial connections (Wang et al., 2019, sec. 3)."""

import pytest
import torch
from torch import nn

from cnnarch.blocks import CrossStage, Residual
from cnnarch.testing import assert_close


def test_the_first_half_bypasses_the_blocks() -> None:
    stage = CrossStage(4, 6, 3, [Residual(3, 3), Residual(3, 3)]).eval()
    x = torch.randn(2, 4, 9, 8)
    y = stage.expand(x)
    first, second = y[:, :3], y[:, 3:]
    second = stage.project(stage.blocks[1](stage.blocks[0](second)))
    assert_close(stage(x), stage.merge(torch.cat([first, second], 1)))
    assert stage(x).shape == (2, 6, 9, 8)


def test_the_split_may_be_linear() -> None:
    kinds = [CrossStage(4, 6, 3, [], act=nn.SiLU, linear=linear) for linear in (False, True)]
    counts = [sum(isinstance(m, nn.SiLU) for m in stage.modules()) for stage in kinds]
    assert counts == [3, 2]


def test_checkpointing_recomputes_each_block_and_keeps_gradients() -> None:
    stage = CrossStage(4, 6, 3, [Residual(3, 3), Residual(3, 3)])
    x = torch.randn(2, 4, 9, 8)
    calls: list[int] = []
    stage.blocks[1].register_forward_pre_hook(lambda *_: calls.append(1))
    stage(x).square().sum().backward()
    expected = [p.grad.clone() for p in stage.parameters()]
    stage.zero_grad()
    stage.grad_checkpointing = stage.blocks.grad_checkpointing = True
    stage(x).square().sum().backward()
    assert len(calls) == 1 + 2
    for parameter, gradient in zip(stage.parameters(), expected, strict=True):
        assert_close(parameter.grad, gradient, 1e-5)


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="width must be an integer of at least 1, got 0"):
        CrossStage(4, 6, 0, [])
