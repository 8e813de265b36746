"""A stem and stages: what gives the feature maps of a network, with or without a head."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from cnnarch.contract.checks import check_images
from cnnarch.contract.meta import without_memory

__all__ = ["FeatureInfo", "Trunk", "check_trunk"]


class FeatureInfo(NamedTuple):
    """One row of a network: the paper's name, the width and the stride in pixels of its map."""

    name: str
    channels: int
    stride: int


class Trunk(nn.Module):
    """Images to feature maps: a stem, then stages, one row of `feature_info` each.

    Args:
        stem: owns the first convolution and ends before the first pool.
        stages: each begins with its downsampling and ends after its last norm or pool.
        names: the paper's name of the stem and of each stage.
        min_input_size: the smallest side in pixels that every layer accepts.
        fixed_input_size: whether `min_input_size` is the only side it accepts.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        *,
        names: Sequence[str],
        min_input_size: int = 1,
        fixed_input_size: bool = False,
    ) -> None:
        if len(names) != 1 + len(stages):
            raise ValueError(f"{1 + len(stages)} names are needed, got {len(names)}")
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.stage_names = tuple(names)
        self.min_input_size = min_input_size
        self.fixed_input_size = fixed_input_size
        self.frozen: set[str] = set()

    @property
    def in_channels(self) -> int:
        """Channels of the images, those that the first convolution reads."""
        convolutions = (m for m in self.stem.modules() if isinstance(m, nn.Conv2d))
        return next(convolutions).in_channels

    def forward_stages(self, x: Tensor, stages: Sequence[int | str] | None = None) -> list[Tensor]:
        """The maps of the rows of `feature_info` asked for, in that order.

        Args:
            x: images, (N, in_channels, H, W).
            stages: indices (negative ones count from the end) or names; None means all. Layers
                after the last one asked for are not run.

        Raises:
            ValueError: there is no such row, or the network does not accept the images.
        """
        rows = self.stage_names if stages is None else stages
        wanted = self.stage_indices(rows)
        x = check_images(x, self.in_channels, self.min_input_size, self.fixed_input_size)
        maps: dict[int, Tensor] = {}
        for index, module in enumerate([self.stem, *self.stages][: max(wanted, default=-1) + 1]):
            x = module(x)
            if index in wanted:
                maps[index] = x
        return [maps[index] for index in wanted]

    def stage_indices(self, stages: Sequence[int | str]) -> list[int]:
        """Indices of several rows of `feature_info`, each by index or name.

        Raises:
            TypeError: it is not a sequence of rows, but one row.
            ValueError: there is no such row; the error lists those there are.
        """
        if isinstance(stages, str | int):
            raise TypeError(f"stages must be a list such as [{stages!r}], got {stages!r}")
        return [self.stage_index(stage) for stage in stages]

    def stage_index(self, stage: int | str) -> int:
        """Index, from 0 for the stem, of a row of `feature_info` by index or name.

        Raises:
            ValueError: there is no such row; the error lists those there are.
        """
        count = len(self.stage_names)
        if isinstance(stage, str) and stage in self.stage_names:
            return self.stage_names.index(stage)
        number = isinstance(stage, int) and not isinstance(stage, bool)
        if number and -count <= int(stage) < count:
            return int(stage) % count
        listed = ", ".join(f"{i} {name!r}" for i, name in enumerate(self.stage_names))
        raise ValueError(f"there is no stage {stage!r}; the stages are {listed}")

    @cached_property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Name, channels and stride of the stem's map and of each stage's.

        Strides are exact: k * stride more pixels of input give k more pixels of map.
        """
        twin, shape = without_memory(self), (1, self.in_channels)
        side = self.min_input_size + 256 * (not self.fixed_input_size)
        maps = twin.forward_stages(torch.empty(*shape, side, side, device="meta"))
        if self.fixed_input_size:
            strides = [side // m.shape[-1] for m in maps]
        else:  # by how much maps grow: one size alone is off by what padding adds
            larger = twin.forward_stages(torch.empty(*shape, side + 256, side + 256, device="meta"))
            growth = [b.shape[-1] - a.shape[-1] for a, b in zip(maps, larger, strict=True)]
            strides = [256 // pixels for pixels in growth]
        return tuple(map(FeatureInfo, self.stage_names, [m.shape[1] for m in maps], strides))

    def set_grad_checkpointing(self, enabled: bool = True) -> None:
        """Trade time for memory in training; gradients and BatchNorm statistics stay the same.

        Ignored under torch.compile, which decides for itself what to compute again.
        """
        for module in self.modules():
            if hasattr(module, "grad_checkpointing"):
                setattr(module, "grad_checkpointing", enabled)  # noqa: B010 - any module's own

    def train(self, mode: bool = True) -> Self:
        """Set training mode, but leave what `cnnarch.freeze` holds in eval mode there."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self


def check_trunk(model: object) -> Trunk:
    """The model, if it is a network or a backbone.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(model, Trunk):
        kind = type(model).__name__
        raise TypeError(f"model must be a network or a backbone of cnnarch, got {kind}")
    return model


torch.fx.wrap("check_images")  # reads the shape, which symbolic tracing does not have
