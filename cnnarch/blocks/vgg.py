"""VGG block: a few small convolutions, then a pool that halves the map's height and width.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", arXiv 1409.1556, sec. 2.
"""

from torch import nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct, MakeNorm
from cnnarch.blocks.initialization import xavier_uniform_

__all__ = ["VGGBlock"]


class VGGBlock(Stage):
    r"""$y = \mathrm{pool}(\phi(W_d * \dots \phi(W_1 * x)))$: 3x3 convolutions, ReLU, 2x2 pool.

    Two 3x3 convolutions have the receptive field of one 5x5 convolution, and three have that of
    one 7x7, with fewer weights and more non-linearities (sec. 2.3). Weights use Glorot
    initialization, which, according to the paper, makes pre-training unnecessary (footnote in
    sec. 3.1). Biases are initialized to 0.

    Args:
        in_channels: number of input channels.
        channels: number of output channels of every convolution.
        depth: number of convolutions.
        last_kernel_size: side length of the last kernel, 1 in the paper's configuration C.
        norm: creates the normalization layer after each convolution, given its channels.
            The convolutions keep their biases, as in the published networks with BatchNorm.
        pool: whether the block ends with a pool.

    Shape:
        (N, in_channels, H, W) -> (N, channels, H / 2, W / 2), or H x W without the pool

    Raises:
        ValueError: a count is not a positive integer.

    >>> import torch
    >>> VGGBlock(64, 128, 2)(torch.zeros(1, 64, 32, 32)).shape
    torch.Size([1, 128, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        depth: int,
        *,
        last_kernel_size: int = 3,
        norm: MakeNorm | None = None,
        pool: bool = True,
    ) -> None:
        check_integer("depth", depth, 1)
        check_integer("last_kernel_size", last_kernel_size, 1)
        super().__init__()
        self.out_channels = channels
        for kernel_size in (*[3] * (depth - 1), last_kernel_size):
            layer = ConvNormAct(in_channels, channels, kernel_size, bias=True, norm=norm)
            xavier_uniform_(layer.conv)
            self.append(layer)
            in_channels = channels
        if pool:
            self.append(nn.MaxPool2d(2))
