"""Look inside the modules and tensors with which PyTorch wraps a network."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def unwrapped(model: Any) -> Any:
    """Return the network inside torch.compile, DataParallel and DistributedDataParallel.

    Raises:
        ValueError: it is wrapped in FullyShardedDataParallel, which hides the parameters.
    """
    while True:
        if isinstance(model, nn.DataParallel | DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):  # torch.compile
            model = model._orig_mod
        elif isinstance(model, nn.Module) and any(map(_is_older_fsdp, model.modules())):
            raise ValueError(
                "FullyShardedDataParallel hides the network's parameters: load weights before you "
                "wrap the network, or use torch.distributed.fsdp.fully_shard"
            )
        else:
            return model


def _is_older_fsdp(module: nn.Module) -> bool:
    return hasattr(module, "_fsdp_wrapped_module")


def is_sharded(tensor: Any) -> bool:
    """Return whether a tensor is a DTensor, as in networks sharded by FSDP2."""
    return hasattr(tensor, "device_mesh")


def gathered(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the whole tensors; every process of a sharded network must call this."""
    return {k: t.full_tensor() if is_sharded(t) else t for k, t in tensors.items()}
