"""Local response normalization, and BatchNorm written in plain PyTorch for learning."""

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer, check_positive

__all__ = ["LRN", "BatchNorm"]


class LRN(nn.Module):
    r"""Local response normalization: divide each channel by the energy of its neighbors.

    $$b_i = \frac{a_i}{\big(k + \alpha \sum_j a_j^2\big)^\beta}
      \qquad \max(0, i - n/2) \le j \le \min(C - 1, i + n/2)$$

    Here, alpha is used as in the paper, whereas `torch.nn.LocalResponseNorm` and Caffe divide it
    by n. PyTorch's alpha = 1e-4 with n = 5 corresponds to `LRN(5, alpha=1e-4 / 5)`.

    Args:
        n: number of channels in the sum; must be odd to keep the window symmetric.
        alpha: factor by which the sum of squares is multiplied.
        beta: exponent.
        k: constant added to the sum.

    Shape:
        (N, C, H, W) -> (N, C, H, W)

    Raises:
        ValueError: a constant is not greater than 0, or `n` is even.

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
        """Normalize each channel."""
        channels, half = x.shape[1], self.n // 2
        # Multiply by alpha before squaring to keep large float16 activations finite.
        energy = nn.functional.pad(self.alpha * x * x, (0, 0, 0, 0, half, half))
        # Adding n shifted views is two to three times as fast as average pooling over channels.
        windows = [energy[:, i : i + channels] for i in range(self.n)]
        total = self.k + windows[0]
        for window in windows[1:]:
            total = total + window
        return x * total.pow(-self.beta)

    def extra_repr(self) -> str:
        """Return the constants."""
        return f"{self.n}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class BatchNorm(nn.Module):
    r"""Batch normalization in plain PyTorch: $y = \gamma (x - \mu) / \sqrt{v + \epsilon} + \beta$.

    In training mode, $\mu$ and $v$ are each channel's mean and variance over the batch and all
    positions, and their running averages are updated. In eval mode, the running averages are used.
    The results and the state dict match those of `nn.BatchNorm1d` and `nn.BatchNorm2d`. The
    networks use those PyTorch layers because they are faster.

    Args:
        num_features: number of channels.
        eps: constant added to the variance.
        momentum: weight of the newest batch in the running averages, in (0, 1].

    Shape:
        (N, num_features), (N, num_features, L) or (N, num_features, H, W) -> the same

    Raises:
        ValueError: a count or constant is out of range, the input has the wrong shape, or a
            training batch has only one value per channel and therefore no variance.

    Source: Ioffe and Szegedy, "Batch Normalization", arXiv 1502.03167, algorithms 1 and 2.
    """

    computes_batch_norm = True  # like nn.BatchNorm2d, so it can be folded for inference
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
        # Unlike plain tensors, buffers are moved by .to() and saved with the parameters.
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each channel."""
        if not 2 <= x.dim() <= 4 or x.shape[1] != self.num_features:
            raise ValueError(
                f"expected 2 to 4 dimensions, the second of size {self.num_features}, "
                f"got {tuple(x.shape)}"
            )
        # Check only the mode: gradients can also be disabled in training mode.
        if self.training:
            mean, var = self._batch_statistics(x)
        else:
            mean, var = self.running_mean, self.running_var
        shape = (1, -1) + (1,) * (x.dim() - 2)  # one value per channel, for any number of axes
        normalized = (x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        return self.weight.view(shape) * normalized + self.bias.view(shape)

    def _batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and variance of each channel and update their running averages."""
        axes = [axis for axis in range(x.dim()) if axis != 1]
        count = x.numel() // self.num_features
        if count < 2:
            raise ValueError(
                f"training needs at least two values per channel, got {tuple(x.shape)}"
            )
        mean = x.mean(axes)
        var = x.var(axes, correction=0)
        with torch.no_grad():
            # The running average stores the unbiased variance: var times count / (count - 1).
            unbiased = var * count / (count - 1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
            self.num_batches_tracked.add_(1)
        return mean, var

    def extra_repr(self) -> str:
        """Return the number of channels and the constants."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"
