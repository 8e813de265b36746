"""The base class of networks and backbones: a stem and stages that compute feature maps."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cnnarch.blocks._wrappers import unwrapped
from cnnarch.contract.meta import Remembered, describe_layers, without_memory
from cnnarch.contract.recording import RecordsOptions


class FeatureInfo(NamedTuple):
    """The stem or a stage.

    Args:
        name: its name in the paper, such as "conv4_x".
        channels: number of channels of its map.
        stride: pixels of the image per pixel of its map.
    """

    name: str
    channels: int
    stride: int


class Trunk(RecordsOptions):
    """A stem and stages that return feature maps, with one row of `feature_info` for each.

    Args:
        stem: the layers before the first pool, including the first convolution.
        stages: each begins with its downsampling and ends after its last norm or pool.
        names: the paper's names for the stem and each stage.
        min_input_size: smallest image side, in pixels, that every layer accepts.
        fixed_input_size: whether `min_input_size` is the only accepted side.
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
            raise ValueError(f"names must have {1 + len(stages)} entries, got {len(names)}")
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.stage_names = tuple(names)
        self.min_input_size = min_input_size
        self.fixed_input_size = fixed_input_size
        self._remembered = Remembered()

    @property
    def in_channels(self) -> int:
        """Number of image channels, taken from the first convolution."""
        convolutions = (m for m in self.stem.modules() if isinstance(m, nn.Conv2d))
        first = next(convolutions, None)  # None if it was replaced with another kind of layer
        return self._options["in_channels"] if first is None else first.in_channels

    def _sizes(self) -> dict[str, int]:
        return {"in_channels": self.in_channels}

    @property
    def stage_paths(self) -> tuple[str, ...]:
        """Module paths of the stem and the stages, in the order of `feature_info`."""
        return ("stem", *(f"stages.{i}" for i in range(len(self.stages))))

    def forward_stages(self, x: Tensor, stages: Sequence[int | str] | None = None) -> list[Tensor]:
        """Return the maps of the requested rows of `feature_info`, in the requested order.

        Args:
            x: images, (N, in_channels, H, W).
            stages: indices, names or module paths of rows. Negative indices count from the end.
                None returns all maps. Layers after the last requested row do not run.

        Raises:
            ValueError: a row does not exist, or the network does not accept the images.
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
        """Return each row's index in `feature_info`, as `stage_index` does.

        Raises:
            TypeError: `stages` is a single row instead of a sequence.
            ValueError: a row does not exist, and the message lists all rows; or stages were added
                or removed.
        """
        if len(self.stage_names) != 1 + len(self.stages):
            raise ValueError(
                f"the network has {len(self.stages)} stages, but stage_names has "
                f"{len(self.stage_names)} names for the stem and the stages: add or remove names "
                "as you add or remove stages"
            )
        if isinstance(stages, str | int):
            raise TypeError(f"stages must be a list such as [{stages!r}], got {stages!r}")
        return [self.stage_index(stage) for stage in stages]

    def stage_index(self, stage: int | str) -> int:
        """Return a row's index in `feature_info`, where the stem is 0.

        Args:
            stage: an index, a name such as "conv4_x", or a module path such as "stages.2".

        Raises:
            ValueError: the row does not exist. The message lists all rows.
        """
        count = len(self.stage_names)
        for rows in (self.stage_names, self.stage_paths):
            if isinstance(stage, str) and stage in rows:
                return rows.index(stage)
        number = isinstance(stage, int) and not isinstance(stage, bool)
        if number and -count <= int(stage) < count:
            return int(stage) % count
        listed = ", ".join(f"{i} {name!r}" for i, name in enumerate(self.stage_names))
        raise ValueError(f"there is no stage {stage!r}; the stages are {listed}")

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Name, channels and stride of the stem's map and of each stage's map.

        Strides are exact: `k * stride` additional input pixels add k pixels to the map. The values
        follow the current layers and are computed only if a layer has changed.
        """
        layers = describe_layers(self.stem, self.stages)
        if self._remembered.layers != layers:
            self._remembered = Remembered(layers, self._compute_feature_info())
        return self._remembered.value

    def _compute_feature_info(self) -> tuple[FeatureInfo, ...]:
        copied, shape = without_memory(self), (1, self.in_channels)
        side = self.min_input_size + 256 * (not self.fixed_input_size)
        maps = copied.forward_stages(torch.empty(*shape, side, side, device="meta"))
        if self.fixed_input_size:
            strides = [side // m.shape[-1] for m in maps]
        else:  # use two sizes, because padding affects the ratio at a single size
            far = side + 4096  # large enough for strides that do not divide it, such as 7
            larger = copied.forward_stages(torch.empty(*shape, far, far, device="meta"))
            growth = [b.shape[-1] - a.shape[-1] for a, b in zip(maps, larger, strict=True)]
            strides = [round((far - side) / pixels) for pixels in growth]
        return tuple(map(FeatureInfo, self.stage_names, [m.shape[1] for m in maps], strides))

    def set_grad_checkpointing(self, enabled: bool = True) -> None:
        """Recompute activations in the backward pass, which saves memory at the cost of time.

        Gradients and BatchNorm statistics stay the same. The setting applies to every module with
        a `grad_checkpointing` attribute. torch.compile ignores it and decides for itself what to
        recompute.
        """
        for module in self.modules():
            if hasattr(module, "grad_checkpointing"):
                setattr(module, "grad_checkpointing", enabled)  # noqa: B010 - mypy rejects =


def as_trunk(model: object) -> Trunk:
    """Return the network or backbone inside the wrappers of torch, or `model` itself.

    Raises:
        TypeError: `model` is neither a network nor a backbone.
    """
    trunk = unwrapped(model)
    if not isinstance(trunk, Trunk):
        kind = type(trunk).__name__
        raise TypeError(f"model must be a cnnarch network or backbone, got {kind}")
    return trunk


def check_images(x: Tensor, in_channels: int, min_size: int, fixed_size: bool) -> Tensor:
    """Return `x` if it is a batch of images that a network accepts; otherwise raise ValueError.

    Networks use the returned tensor because symbolic tracing drops calls with unused results.
    """
    if torch.compiler.is_compiling():  # compiled and exported programs check sizes themselves
        return x
    if x.dim() != 4 or x.shape[1] != in_channels:
        raise ValueError(f"expected images of shape (N, {in_channels}, H, W), got {tuple(x.shape)}")
    height, width = x.shape[-2:]
    accepted = f"{min_size}x{min_size} pixels"
    if fixed_size and (height, width) != (min_size, min_size):
        raise ValueError(f"expected images of {accepted}, got {height}x{width}")
    if min(height, width) < min_size:
        raise ValueError(f"expected images of at least {accepted}, got {height}x{width}")
    return x


torch.fx.wrap("check_images")  # symbolic tracing cannot read shapes
