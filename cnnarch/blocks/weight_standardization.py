"""Weight standardization: each filter of a convolution has mean 0 and variance 1.

Source: Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight
Standardization", arXiv 1903.10520.
"""

from torch import Tensor, nn

from cnnarch.blocks._checks import check_positive

__all__ = ["StandardizedConv2d"]


class StandardizedConv2d(nn.Conv2d):
    r"""A convolution with the weights $\hat W_i = (W_i - \mu_i) / \sqrt{\sigma_i^2 + \epsilon}$.

    $\mu_i$ and $\sigma_i^2$ are the mean and the variance of the weights of output channel i. The
    layer stores and trains $W$, so the scale of $W$ has no effect on the output. It is used with
    GroupNorm, which normalizes activations without statistics of the batch.
    `cnnarch.inference.fuse` replaces the layer with an ordinary convolution.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels.
        kernel_size: side length of the square kernel, or its height and width, in pixels.
        stride: stride of the convolution, in pixels.
        padding: number of zeros added to each side, or to the sides of each direction, in pixels.
        dilation: distance between neighboring elements of the kernel, in pixels.
        groups: number of groups in the convolution.
        bias: whether the convolution has a bias, which is not standardized.
        eps: constant added to the variance.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride) if the padding keeps
        the size

    Raises:
        ValueError: `eps` is not a number above 0.

    >>> import torch
    >>> conv = StandardizedConv2d(3, 64, 7, 2, 3)
    >>> conv(torch.zeros(1, 3, 224, 224)).shape
    torch.Size([1, 64, 112, 112])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
        *,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        eps: float = 1e-8,
    ) -> None:
        check_positive("eps", eps)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        )
        self.eps = eps

    def standardized_weight(self) -> Tensor:
        """Return the weights that the convolution uses, of the same shape as `weight`."""
        # BatchNorm with the output channels as channels, in training mode, divides by the same.
        channels = self.weight.reshape(1, self.out_channels, -1)
        standardized = nn.functional.batch_norm(channels, None, None, training=True, eps=self.eps)
        return standardized.reshape_as(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the standardized weights."""
        weight = self.standardized_weight()
        return nn.functional.conv2d(
            x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )

    def extra_repr(self) -> str:
        """Return the options of the convolution and eps."""
        options: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{options}, eps={self.eps:g}"
