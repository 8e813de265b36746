"""The contract that every network keeps: a stem, stages and a head."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, TypedDict

from torch import Tensor, nn

from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.head import ClassifierHead
from cnnarch.contract.recording import recording
from cnnarch.contract.trunk import FeatureInfo, Trunk

if TYPE_CHECKING:
    from cnnarch.preprocessing import Preprocessing

__all__ = ["FeatureInfo", "ImageClassifier", "ModelOptions"]


class ModelOptions(TypedDict, total=False):
    """Options of every network."""

    num_classes: int
    in_channels: int


class ImageClassifier(Trunk):
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
    """Name of the function that built it, which `options` rebuild it with; None if none did."""
    preprocessing: "Preprocessing | None" = None
    """How a photograph becomes its input, if the weights say so; `categories` name the logits."""
    categories: Sequence[str] | None = None

    _options: dict[str, Any]

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
        super().__init__(
            stem,
            stages,
            names=names,
            min_input_size=min_input_size,
            fixed_input_size=fixed_input_size,
        )
        self.head = head
        self.cam_layer = f"stages.{len(stages) - 1}"
        self.__dict__.setdefault("_options", {})  # of classes that take no options

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Let each class of networks note the options that they are built with."""
        super().__init_subclass__(**keywords)
        if "__init__" in cls.__dict__:
            setattr(cls, "__init__", recording(cls.__init__))  # noqa: B010 - mypy forbids the plain

    if TYPE_CHECKING:  # nn.Module says Any

        def __call__(self, x: Tensor) -> Tensor:
            """As `forward`, with hooks."""
            ...

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

    @property
    def options(self) -> dict[str, Any]:
        """Every option with its effective value, defaults included; a copy.

        They say how the network was built. `num_classes` and `in_channels` follow the layers; no
        other change of layers shows here, and `save_pretrained` refuses it.
        """
        sizes = {"num_classes": self.num_classes, "in_channels": self.in_channels}
        return {**self._options, **sizes}

    @options.setter
    def options(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)

    @property
    def num_classes(self) -> int:
        """Width of the logits; 0 where the classifier is left out."""
        return self.head.num_classes

    @property
    def num_features(self) -> int:
        """Width of what the classifier reads."""
        return self.head.num_features

    def reset_classifier(self, num_classes: int) -> None:
        """Put fresh classifiers of `num_classes` in place, auxiliary ones too; 0 for pre-logits.

        Raises:
            ValueError: `num_classes` is not an integer of at least 0.
        """
        like = next(self.parameters())
        for head in [m for m in self.modules() if isinstance(m, ClassifierHead)]:
            with like.device:
                head.reset_classifier(num_classes)
            head.to(like.dtype).train(self.training)

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
