"""Compare the options that a checkpoint requires with those of a network, and record them."""

from collections.abc import Mapping
from typing import Any

from torch import nn

FREE = (
    *("num_classes", "in_channels", "dropout", "drop_path", "aux_logits"),
    *("small_images", "image_size", "norm_momentum", "zero_init_residual"),
)
"""Options on which a checkpoint's values do not depend.

They have the same meaning in every family. With a different value, the tensors either remain valid
or have the wrong shapes. All other options of a family must match the checkpoint.
"""

METADATA_KEY = "cnnarch"
"""The key in the metadata of state dicts and .safetensors files that describes the network."""

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
_ABSENT = object()


def find_norms(model: nn.Module) -> list[Any]:
    """Return the normalization layers that have an eps."""
    modules = model.modules()
    return [m for m in modules if isinstance(m, _NORMS) or hasattr(type(m), "computes_batch_norm")]


def find_conflicts(model: nn.Module, required: Mapping[str, Any]) -> dict[str, Any]:
    """Return the required options for which the network has a different value.

    A missing option is a conflict. Since `norm_eps` can be changed after building, the
    eps of every norm is also compared. For modules without `options`, only eps can conflict.
    """
    options = getattr(model, "options", None)
    conflicts = {}
    if isinstance(options, Mapping):
        conflicts = {k: v for k, v in required.items() if options.get(k, _ABSENT) != v}
    eps = required.get("norm_eps")
    if eps is not None and any(norm.eps != eps for norm in find_norms(model)):
        conflicts["norm_eps"] = eps
    return conflicts
