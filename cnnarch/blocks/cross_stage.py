"""Cross-stage partial connections: only half of a stage's channels pass through its blocks.

Source: Wang et al., "CSPNet: A New Backbone that can Enhance Learning Capability of CNN",
arXiv 1911.11929, sec. 3.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct, MakeAct

__all__ = ["CrossStage"]


class CrossStage(nn.Module):
    r"""$y = V\,[a;\ U F(b)]$ and $[a;\ b] = E x$ with blocks F and 1x1 convolutions E, U and V.

    The output of E (`expand`) is split into two halves. U (`project`) and V (`merge`) are the
    paper's two transitions. The half $a$ and its gradient bypass the blocks.
    If `grad_checkpointing` is set, the backward pass recomputes each block.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels.
        width: number of channels in each half.
        blocks: modules that are applied to the second half, in order, and keep its shape.
        act: creates the activation.
        linear: whether `expand` has no activation.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H, W)

    Raises:
        ValueError: a count is not a positive integer.

    >>> from cnnarch.blocks import Residual
    >>> CrossStage(64, 128, 32, [Residual(32, 32)])(torch.zeros(1, 64, 56, 56)).shape
    torch.Size([1, 128, 56, 56])
    """

    grad_checkpointing = False  # the stage of blocks checkpoints itself

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        blocks: Sequence[nn.Module],
        *,
        act: MakeAct = nn.ReLU,
        linear: bool = False,
    ) -> None:
        check_integer("width", width, 1)
        super().__init__()
        self.out_channels = out_channels
        self.expand = ConvNormAct(in_channels, 2 * width, 1, act=None if linear else act)
        self.blocks = Stage(*blocks)
        self.project = ConvNormAct(width, width, 1, act=act)
        self.merge = ConvNormAct(2 * width, out_channels, 1, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the blocks to one half of the channels, and merge both halves."""
        kept, changed = self.expand(x).chunk(2, dim=1)
        return self.merge(torch.cat([kept, self.project(self.blocks(changed))], dim=1))
