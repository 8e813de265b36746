"""Gradient checkpointing: store only a block's input and recompute the rest in the backward pass.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

__all__ = ["Stage", "checkpointed"]


def checkpointed(module: nn.Module, forward: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Call `forward(*inputs)` without storing its activations for the backward pass.

    Gradients, random numbers and BatchNorm statistics match those of a direct call.

    Args:
        module: the module that `forward` belongs to; its BatchNorm statistics are updated only
            once.
        forward: the function to call, usually `module` itself.
        *inputs: arguments to `forward`.
    """
    return checkpoint(
        forward,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _running_statistics_frozen(module)),
    )


def should_checkpoint(enabled: bool) -> bool:
    """Return whether to checkpoint: only if enabled, in grad mode, and not while compiling.

    Compilers decide for themselves what to store and what to recompute.
    """
    return enabled and torch.is_grad_enabled() and not torch.compiler.is_compiling()


class Stage(nn.Sequential):
    """A sequence of blocks, each checkpointed if `grad_checkpointing` is set.

    Blocks with their own `grad_checkpointing` attribute, such as `Dense`, are called directly.

    Args:
        *blocks: the blocks, named "0", "1", ... regardless of the opening modules.
            Parameter names are therefore the same with and without an opening pool.
        **opening: named modules that run before the blocks, such as `pool=nn.MaxPool2d(3, 2)`.

    Shape:
        (N, C, H, W) -> (N, C', H / s, W / s), where C' and s depend on the blocks

    >>> stage = Stage(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), pool=nn.MaxPool2d(2))
    >>> stage(torch.zeros(1, 8, 16, 16)).shape
    torch.Size([1, 8, 8, 8])
    """

    grad_checkpointing = False

    def __init__(self, *blocks: nn.Module, **opening: nn.Module) -> None:
        super().__init__()
        for name, module in opening.items():
            self.add_module(name, module)
        for block in blocks:
            self.append(block)

    def append(self, module: nn.Module) -> Self:
        """Append a block."""
        number = sum(name.isdigit() for name in self._modules)
        self.add_module(str(number), module)
        return self

    def forward(self, x: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """Run the modules in order and append each output to `maps`, if given."""
        save_memory = should_checkpoint(self.grad_checkpointing)
        for block in self:
            overwrites = getattr(block, "inplace", False)  # recomputing needs the input
            if save_memory and not overwrites and not hasattr(block, "grad_checkpointing"):
                x = checkpointed(block, block, x)
            else:
                x = block(x)
            if maps is not None:
                maps.append(x)
        return x


@contextmanager
def _running_statistics_frozen(module: nn.Module) -> Iterator[None]:
    """Keep BatchNorm's running statistics and batch counters unchanged during recomputation.

    Momentum 0 leaves the statistics unchanged. Turning off `track_running_stats` would make the
    saved tensors differ from those of the forward pass, which `torch.utils.checkpoint` rejects.
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
