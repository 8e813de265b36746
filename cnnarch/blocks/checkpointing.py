"""Gradient checkpointing: keep a block's input and compute the rest again in backward.

Reference: Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

__all__ = ["Stage", "checkpointed"]


def checkpointed(module: nn.Module, forward: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Call `forward(*inputs)`, a computation of `module`, without keeping its activations.

    Gradients, random draws and BatchNorm statistics are those of a plain call.
    """
    contexts = partial(_contexts, module)
    result = checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)
    assert isinstance(result, Tensor)
    return result


def is_worthwhile(enabled: bool) -> bool:
    """Whether to checkpoint here: asked for, gradients wanted, and not under a compiler.

    Compilers decide for themselves what to keep and what to compute again.
    """
    return enabled and torch.is_grad_enabled() and not torch.compiler.is_compiling()


class Stage(nn.Sequential):
    """Blocks one after another, each checkpointed when `grad_checkpointing` is set.

    A block that has a `grad_checkpointing` of its own decides for itself.

    Args:
        *blocks: called "0", "1", ... whatever is before them, so that a checkpoint fits a
            network whose stage begins without a pool.
        **opening: modules that run before the blocks, by name: `pool=nn.MaxPool2d(3, 2)`.

    Shape:
        (N, C, H, W) -> (N, C', H / s, W / s), as its blocks say.
    """

    grad_checkpointing = False

    def __init__(self, *blocks: nn.Module, **opening: nn.Module) -> None:
        super().__init__()
        for name, module in opening.items():
            self.add_module(name, module)
        for block in blocks:
            self.append(block)

    def append(self, module: nn.Module) -> Self:
        """Add a block after the last."""
        number = sum(name.isdigit() for name in self._modules)
        self.add_module(str(number), module)
        return self

    def forward(self, x: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """Run the blocks in order; the output of each is appended to `maps`, if given."""
        save_memory = is_worthwhile(self.grad_checkpointing)
        for block in self:
            overwrites = getattr(block, "inplace", False)  # its input is gone: never run it again
            if save_memory and not overwrites and not hasattr(block, "grad_checkpointing"):
                x = checkpointed(block, block, x)
            else:
                x = block(x)
            if maps is not None:
                maps.append(x)
        return x


def _contexts(
    module: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the forward pass and of its second run in the backward pass."""
    return nullcontext(), _statistics_kept(module)


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """The second run must not move running statistics again: momentum 0 leaves them as they are.

    The counter of batches is put back. (Switching the tracking off instead would save other
    tensors than the first run did, which checkpointing refuses.)
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    before = [(n.momentum, copy.deepcopy(n.num_batches_tracked)) for n in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum = momentum
            if batches is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(batches)
