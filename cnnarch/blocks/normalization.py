"""Local response normalisation, and BatchNorm written out."""

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer, check_positive

__all__ = ["LRN", "BatchNorm"]


class LRN(nn.Module):
    r"""Local response normalisation: a channel is damped by the energy of its neighbours.

    $$b_i = \frac{a_i}{\big(k + \alpha \sum_j a_j^2\big)^\beta}
      \qquad \max(0, i - n/2) \le j \le \min(C - 1, i + n/2)$$

    `torch.nn.LocalResponseNorm` and Caffe divide alpha by n; here alpha is the paper's. Theirs
    with alpha = 1e-4 and n = 5 is `LRN(5, alpha=1e-4 / 5)`.

    Args:
        n: number of channels in the sum, odd, so that as many are on either side.
        alpha: factor on the sum of squares.
        beta: exponent.
        k: what is added to the sum.

    Shape:
        (N, C, H, W) -> (N, C, H, W)

    Raises:
        ValueError: a constant that is not above 0, or an even `n`.

    Source: Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural
    Networks", 2012, sec. 3.3.

    >>> LRN(5, alpha=0.5, beta=1, k=1)(torch.full((1, 1, 1, 1), 2.0)).item()  # 2 / (1 + 0.5 * 4)
    0.6666666865348816
    """

    def __init__(
        self, n: int = 5, *, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
    ) -> None:
        check_integer("n", n, 1)
        if n % 2 == 0:
            raise ValueError(f"n must be odd, got {n}")
        for name, value in (("alpha", alpha), ("beta", beta), ("k", k)):
            check_positive(name, value)
        super().__init__()
        self.n = n
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        """Damp each channel."""
        channels, half = x.shape[1], self.n // 2
        # alpha before the square: activations of several hundred stay finite in float16.
        energy = nn.functional.pad(self.alpha * x * x, (0, 0, 0, 0, half, half))
        # Adding n shifted views is two to three times as quick as average pooling over channels.
        windows = [energy[:, i : i + channels] for i in range(self.n)]
        total = self.k + windows[0]
        for window in windows[1:]:
            total = total + window
        return x * total.pow(-self.beta)

    def extra_repr(self) -> str:
        """The constants."""
        return f"{self.n}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class BatchNorm(nn.Module):
    r"""Batch normalisation written out: $y = \gamma (x - \mu) / \sqrt{v + \epsilon} + \beta$.

    In training mode $\mu$ and $v$ are a channel's mean and variance over the batch (and over
    positions), and running averages of them are kept; in evaluation mode the averages are used.
    It computes what `nn.BatchNorm1d` and `nn.BatchNorm2d` compute and has their state dict;
    networks use those, which are quicker.

    Args:
        num_features: number of channels.
        eps: what is added to the variance.
        momentum: weight of the newest batch in the running averages, in (0, 1].

    Shape:
        (N, num_features), (N, num_features, L) or (N, num_features, H, W) -> the same

    Raises:
        ValueError: a count or constant out of range; an input of another shape; one value per
            channel in training mode, which has no variance.

    Source: Ioffe and Szegedy, "Batch Normalization", arXiv 1502.03167, algorithms 1 and 2.
    """

    computes_batch_norm = True  # as nn.BatchNorm2d does, so that inference may fold it
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        check_integer("num_features", num_features, 1)
        check_positive("eps", eps)
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum must be in (0, 1], got {momentum!r}")
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features))  # gamma
        self.bias = nn.Parameter(torch.zeros(num_features))  # beta
        # Buffers, not plain tensors: they follow .to() and are saved with the parameters.
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel."""
        if not 2 <= x.dim() <= 4 or x.shape[1] != self.num_features:
            raise ValueError(
                f"expected 2 to 4 dimensions, the second of {self.num_features}, "
                f"got {tuple(x.shape)}"
            )
        # The mode decides, not whether gradients are on: they may be off in training.
        if self.training:
            mean, var = self._batch_statistics(x)
        else:
            mean, var = self.running_mean, self.running_var
        shape = (1, -1) + (1,) * (x.dim() - 2)  # one value per channel, for any number of axes
        normalised = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        return self.weight.view(shape) * normalised + self.bias.view(shape)

    def _batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel; the running averages move towards them."""
        axes = [axis for axis in range(x.dim()) if axis != 1]
        count = x.numel() // self.num_features
        if count < 2:
            raise ValueError(f"training needs two values per channel, got {tuple(x.shape)}")
        mean = x.mean(axes)
        var = x.var(axes, correction=0)
        with torch.no_grad():
            # A sample's variance is too small by (count - 1) / count; the average corrects it.
            unbiased = var * count / (count - 1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
            self.num_batches_tracked.add_(1)
        return mean, var

    def extra_repr(self) -> str:
        """Channels and constants."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"
