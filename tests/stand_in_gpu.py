"""A stand-in for a GPU: tensors that claim to be on "cuda:0" but compute on the CPU.

Unlike `FakeTensorMode`, it computes values, so that `.item()`, `.cpu().numpy()`, `Module.to` and
whole public calls work. An operation raises if it mixes tensors from both devices, draws numbers
with a generator of the wrong device, or indexes across devices. Backward passes, streams, CUDA
graphs and pinned memory need a real GPU: see tests/gpu.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

DEVICE = torch.device("cuda", 0)
aten = torch.ops.aten


class StandInTensor(Tensor):
    """A tensor on the stand-in GPU; `host` contains its values."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> "StandInTensor":
        shape, layout = host.shape, (host.stride(), host.storage_offset())
        options = {"dtype": host.dtype, "device": DEVICE}
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined,no-any-return]
            cls, shape, strides=layout[0], storage_offset=layout[1], **options
        )

    def __init__(self, host: Tensor) -> None:
        self.host = host

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied: Tensor = StandInTensor(self.host.detach().clone())
        if isinstance(self, nn.Parameter):
            copied = nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    def __repr__(self, **_: object) -> str:
        return f"StandInTensor({self.host})"

    def tolist(self) -> Any:
        return self.host.tolist()

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["host"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: object) -> "StandInTensor":
        return StandInTensor(inner["host"])

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> object:
    leaves = tree_leaves((args, kwargs))
    ours = [leaf for leaf in leaves if isinstance(leaf, StandInTensor)]
    others = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    others = [leaf for leaf in others if not isinstance(leaf, StandInTensor)]
    requested = [leaf.type for leaf in leaves if isinstance(leaf, torch.device)]
    is_copy = bool(requested) or func is aten.copy_.default
    if func is aten._has_compatible_shallow_copy_type.default:
        return not ours
    may_mix = func is aten.index.Tensor and isinstance(args[0], StandInTensor)
    if ours and not (is_copy or may_mix) and any(tensor.dim() for tensor in others):
        raise RuntimeError(f"{func} expects all tensors on the same device, got cuda:0 and cpu")
    on_gpu = requested[0] == "cuda" if requested else bool(ours)
    if on_gpu and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError(f"{func} expects a generator on cuda, got one on the CPU")
    host_args, host_kwargs = tree_map(_on_host, (args, kwargs))
    found = func(*host_args, **host_kwargs)
    if func is aten.copy_.default:
        return args[0]
    if not on_gpu:
        return found
    found = tree_map_only(Tensor, StandInTensor, found)
    if requested or func is aten.detach.default:
        return found
    return return_and_correct_aliasing(func, args, kwargs, found)


def _on_host(value: object) -> object:
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    return value.host if isinstance(value, StandInTensor) else value


class _StandInMode(TorchDispatchMode):
    """Runs every operation, including those that create tensors, with `_run`.

    PyTorch does not initialize CUDA while a mode with the key of fake tensors is active.
    """

    def __init__(self) -> None:
        super().__init__()
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        return _run(func, args, kwargs or {})


@contextmanager
def stand_in_gpu() -> Iterator[None]:
    """Make "cuda" the stand-in device."""
    torch._C._ensureCUDADeviceGuardSet()
    torch._C._set_only_lift_cpu_tensors(True)
    # `Module.to` creates new parameters; it cannot exchange the data of a stand-in.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with torch.backends.cudnn.flags(enabled=False), _StandInMode():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        torch._C._set_only_lift_cpu_tensors(False)


def on_gpu(tensor: Tensor) -> Tensor:
    """Return a copy of a CPU tensor on the stand-in GPU."""
    return tensor if isinstance(tensor, StandInTensor) else StandInTensor(tensor.detach().clone())
