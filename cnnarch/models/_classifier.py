"""The contract that every network keeps: a stem, stages and a head."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypedDict

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_images
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.head import ClassifierHead
from cnnarch.models._meta import without_memory

__all__ = ["FeatureInfo", "ImageClassifier", "ModelOptions"]


class ModelOptions(TypedDict, total=False):
    """Options of every network."""

    num_classes: int
    in_channels: int


class FeatureInfo(NamedTuple):
    """One row of a network: the paper's name, the width and the stride in pixels of its map."""

    name: str
    channels: int
    stride: int


class ImageClassifier(nn.Module):
    """An image classifier: images to logits, and every map on the way.

    Args:
        stem: owns the first convolution and ends before the first pool.
        stages: each begins with its downsampling and ends after its last norm or pool.
        head: from the last map to the logits.
        names: the paper's name of the stem and of each stage.
        min_input_size: the smallest side in pixels that every layer accepts.
        fixed_input_size: whether `min_input_size` is the only side it accepts.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes), or (N, num_features) if num_classes is 0

    Raises:
        ValueError: an input that is not a batch of images of `in_channels` channels, or is
            too small.
    """

    builder: str | None = None
    """Name of the function that built it; `options` are what it was given."""

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[Stage],
        head: ClassifierHead,
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
        self.head = head
        self.in_channels = next(m for m in stem.modules() if isinstance(m, nn.Conv2d)).in_channels
        self.min_input_size = min_input_size
        self.fixed_input_size = fixed_input_size
        self.cam_layer = f"stages.{len(stages) - 1}"
        self.options: dict[str, Any] = {}
        self.frozen: set[str] = set()
        self._names = tuple(names)

    if TYPE_CHECKING:  # nn.Module says Any

        def __call__(self, x: Tensor) -> Tensor: ...

    def forward(self, x: Tensor) -> Tensor:
        """Logits, never softmax."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last stage's map: (N, in_channels, H, W) -> (N, C, h, w)."""
        return self.forward_stages(x, [-1])[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits from `forward_features`' map, or what the classifier reads: (N, num_features)."""
        result: Tensor = self.head.pre_logits(x) if pre_logits else self.head(x)
        return result

    def forward_stages(self, x: Tensor, stages: Sequence[int | str] | None = None) -> list[Tensor]:
        """The maps of the rows of `feature_info` asked for, in that order.

        Args:
            x: images, (N, in_channels, H, W).
            stages: indices (negative ones count from the end) or names; None means all. Layers
                after the last one asked for are not run.

        Raises:
            ValueError: there is no such row.
        """
        rows = range(len(self._names)) if stages is None else stages
        wanted = [self.stage_index(row) for row in rows]
        x = check_images(x, self.in_channels, self.min_input_size, self.fixed_input_size)
        maps: dict[int, Tensor] = {}
        for index, module in enumerate([self.stem, *self.stages][: max(wanted, default=-1) + 1]):
            x = module(x)
            if index in wanted:
                maps[index] = x
        return [maps[index] for index in wanted]

    def stage_index(self, stage: int | str) -> int:
        """Index, from 0 for the stem, of a row of `feature_info` by index or name."""
        count = len(self._names)
        if isinstance(stage, str) and stage in self._names:
            return self._names.index(stage)
        if isinstance(stage, int) and -count <= stage < count:
            return stage % count
        listed = ", ".join(f"{i} {name!r}" for i, name in enumerate(self._names))
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
            strides = [
                256 // (b.shape[-1] - a.shape[-1]) for a, b in zip(maps, larger, strict=True)
            ]
        return tuple(map(FeatureInfo, self._names, [m.shape[1] for m in maps], strides))

    @property
    def num_classes(self) -> int:
        """Width of the logits; 0 where the classifier is left out."""
        return self.head.num_classes

    @property
    def num_features(self) -> int:
        """Width of what the classifier reads."""
        return self.head.num_features

    def reset_classifier(self, num_classes: int) -> None:
        """Put fresh classifiers of `num_classes` in place, auxiliary ones too; 0 for pre-logits."""
        like = next(self.parameters())
        for head in [m for m in self.modules() if isinstance(m, ClassifierHead)]:
            with like.device:
                head.reset_classifier(num_classes)
            head.to(like.dtype).train(self.training)
        self.options["num_classes"] = num_classes

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

    def save_pretrained(self, directory: str | PathLike[str]) -> None:
        """Write weights and config; `cnnarch.from_pretrained(directory)` rebuilds the network."""
        from cnnarch.weights import save_pretrained

        save_pretrained(self, directory)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As in torch; keys of another library raise with a hint."""
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            if self.state_dict().keys() & state_dict.keys():
                raise
            hint = "no key is cnnarch's; for those of others use cnnarch.weights.load"
            raise RuntimeError(f"{error}\n{hint}") from error


torch.fx.wrap("check_images")  # reads the shape, which symbolic tracing does not have
