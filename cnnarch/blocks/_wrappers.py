"""Look inside the modules and tensors with which PyTorch wraps a network."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel


def unwrapped(model: Any) -> Any:
    """Return the network inside torch.compile, (Distributed)DataParallel and AveragedModel.

    Raises:
        ValueError: it is wrapped in FullyShardedDataParallel, which hides the parameters.
    """
    while (inside := content(model)) is not None:
        model = inside
    if isinstance(model, nn.Module) and any(map(_is_older_fsdp, model.modules())):
        raise ValueError(
            "FullyShardedDataParallel hides the network's parameters: load weights before you "
            "wrap the network, or use torch.distributed.fsdp.fully_shard"
        )
    return model


def content(module: Any) -> Any:
    """Return the module that a wrapper contains, or None if `module` is not a wrapper."""
    if isinstance(module, nn.DataParallel | DistributedDataParallel | AveragedModel):
        return module.module
    return getattr(module, "_orig_mod", None)  # torch.compile


def _is_older_fsdp(module: nn.Module) -> bool:
    return hasattr(module, "_fsdp_wrapped_module")


def uncompiled(name: str) -> str:
    """Return the name of a tensor or module without the parts that torch.compile adds."""
    return name.replace("_orig_mod.", "")


def is_sharded(tensor: Any) -> bool:
    """Return whether a tensor is a DTensor, as in networks sharded by FSDP2."""
    return hasattr(tensor, "device_mesh")


def gathered(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the whole tensors; every process of a sharded network must call this."""
    return {k: t.full_tensor() if is_sharded(t) else t for k, t in tensors.items()}
