"""BatchNorm whose statistics never change."""

from typing import Any, Self

from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm


class FrozenBatchNorm(nn.Module):
    r"""BatchNorm that always uses its running statistics: $y = \gamma (x - \mu) / \sigma + \beta$.

    `FrozenBatchNorm.freeze(norm)` freezes an existing BatchNorm in place: it stays the same object
    with the same tensors and hooks, and only its class changes. No container's `train()` changes
    it, nor do `torch.optim.swa_utils.update_bn` and `nn.SyncBatchNorm.convert_sync_batchnorm`.

    Shape:
        (N, num_features), (N, num_features, L) or (N, num_features, H, W) -> the same
    """

    computes_batch_norm = True  # like nn.BatchNorm2d, so it can be folded for inference
    num_features: int
    eps: float
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor

    @staticmethod
    def can_freeze(module: nn.Module) -> bool:
        """Return whether a module computes BatchNorm with running statistics."""
        forwards = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
        has_statistics = getattr(module, "running_mean", None) is not None
        return has_statistics and type(module).forward in forwards

    @classmethod
    def freeze(cls, norm: nn.Module) -> None:
        """Freeze a BatchNorm in place; its weight and bias keep their `requires_grad`."""
        norm.eval()
        norm.thawed_class = type(norm)  # type: ignore[assignment]
        norm.__class__ = cls

    def fix(self) -> None:
        """Turn the weight and bias into buffers, which makes freezing permanent."""
        vars(self).pop("thawed_class", None)
        for name in ("weight", "bias"):
            if (parameter := self._parameters.get(name)) is not None:
                del self._parameters[name]
                self.register_buffer(name, parameter.detach())

    @property
    def can_thaw(self) -> bool:
        """Whether `thaw` restores a BatchNorm; False after `fix`."""
        return "thawed_class" in vars(self)

    def thaw(self) -> None:
        """Restore the class from before `freeze`."""
        self.__class__ = vars(self).pop("thawed_class")

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each channel."""
        statistics = (self.running_mean, self.running_var)
        return batch_norm(x, *statistics, self.weight, self.bias, False, 0.0, self.eps)

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002 (it stays in eval mode)
        """Do nothing."""
        return self

    def reset_running_stats(self) -> None:
        """Do nothing."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Keep the counter if the state dict lacks it, as those of old checkpoints do."""
        if getattr(self, "num_batches_tracked", None) is not None:
            state_dict.setdefault(f"{prefix}num_batches_tracked", self.num_batches_tracked)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """Return the same settings as BatchNorm."""
        return _BatchNorm.extra_repr(self)  # type: ignore[arg-type, no-untyped-call]
