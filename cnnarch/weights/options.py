"""Whether what a checkpoint depends on and the options of a network contradict each other."""

from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = ["FREE", "contradicted", "norms"]

FREE = (
    *("num_classes", "in_channels", "dropout", "drop_path", "aux_logits"),
    *("small_images", "image_size"),
)
"""Options that a checkpoint has a value of but does not depend on.

These are words that mean the same in every family. Another value gives another form of the
network, for which the tensors are as good or which their shapes do not fit. Each other option
that a family has is one that its checkpoints need.
"""

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
_ABSENT = object()


def norms(model: nn.Module) -> list[Any]:
    """The normalisation layers that have an eps."""
    return [m for m in model.modules() if isinstance(m, _NORMS)]


def contradicted(model: nn.Module, needs: Mapping[str, Any]) -> dict[str, Any]:
    """The needs that a network does not meet.

    The network's options decide; an option that it does not have is not met. `norm_eps` can be
    changed after building, so every norm has to agree too. Of a module that has no options
    nothing else is known.
    """
    options = getattr(model, "options", None)
    wrong = {}
    if isinstance(options, Mapping):
        wrong = {k: v for k, v in needs.items() if options.get(k, _ABSENT) != v}
    eps = needs.get("norm_eps")
    if eps is not None and any(norm.eps != eps for norm in norms(model)):
        wrong["norm_eps"] = eps
    return wrong
