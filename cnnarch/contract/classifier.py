"""The base class of every network: a stem, stages and a head."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, TypedDict

from torch import Tensor, nn

from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.head import ClassifierHead, output_width
from cnnarch.contract.recording import recording_options
from cnnarch.contract.trunk import Trunk

if TYPE_CHECKING:
    from cnnarch.preprocessing import Preprocessing


class ModelOptions(TypedDict, total=False):
    """Options of every network."""

    num_classes: int
    in_channels: int


class ImageClassifier(Trunk):
    """An image classifier that returns logits and intermediate feature maps.

    Args:
        stem: the layers before the first pool, including the first convolution.
        stages: each begins with its downsampling and ends after its last norm or pool.
        head: computes the logits from the last map.
        names: the paper's names for the stem and each stage.
        min_input_size: smallest image side, in pixels, that every layer accepts.
        fixed_input_size: whether `min_input_size` is the only accepted side.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes), or (N, num_features) if num_classes is 0

    Raises:
        ValueError: the input is not a batch of images with `in_channels` channels, or the
            image size is not supported.
    """

    preprocessing: "Preprocessing | None" = None
    """The preprocessing that the weights expect, or None if it is unknown."""
    weights_source: str | None = None
    """The value of `weights=`, "" for tensors in memory, or None for newly initialized weights."""

    fused_from: str | None = None
    """Name of the builder of the network that `cnnarch.inference.fuse` copied, or None."""

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

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Wrap the `__init__` of each subclass to record its options."""
        super().__init_subclass__(**keywords)
        if "__init__" in cls.__dict__:
            setattr(cls, "__init__", recording_options(cls.__init__))  # noqa: B010 - mypy rejects =

    if TYPE_CHECKING:  # nn.Module.__call__ returns Any

        def __call__(self, x: Tensor) -> Tensor:
            """Run `forward` and the hooks."""
            ...

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, without softmax."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last stage's map: (N, in_channels, H, W) -> (N, C, h, w)."""
        return self.forward_stages(x, [-1])[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return a map's logits or, with `pre_logits`, the classifier's input (N, num_features)."""
        return self.head.pre_logits(x) if pre_logits else self.head(x)

    def _sizes(self) -> dict[str, int]:
        return {**super()._sizes(), "num_classes": self.num_classes}

    @property
    def categories(self) -> Sequence[str] | None:
        """Class name for each logit, or None if unknown. A new classifier layer has no names."""
        return getattr(self.head._modules.get("classifier"), "categories", None)

    @categories.setter
    def categories(self, names: Sequence[str] | None) -> None:
        if names is not None and len(names) != self.num_classes:
            raise ValueError(f"got {len(names)} class names for {self.num_classes} classes")
        if names is not None:
            self._check_head()
        if (classifier := self.head._modules.get("classifier")) is not None:
            setattr(classifier, "categories", names)  # noqa: B010 - mypy rejects =

    @property
    def num_classes(self) -> int:
        """Number of logits, or 0 if the network has no classifier."""
        if isinstance(self.head, ClassifierHead):
            return self.head.num_classes
        width = output_width(self.head)  # of a head that replaced ours
        return self._options.get("num_classes", 0) if width is None else width

    @property
    def num_features(self) -> int:
        """Number of features that the classifier receives."""
        return self._check_head().num_features

    def get_classifier(self) -> nn.Module:
        """Return the classifier layer, or an `nn.Identity` if the network has none."""
        return self._check_head()._modules.get("classifier") or nn.Identity()

    def reset_classifier(self, num_classes: int) -> None:
        """Replace every classifier, including auxiliary ones, to return `num_classes` logits.

        With `num_classes=0` the network returns the pre-logits. `categories` becomes None.

        Raises:
            ValueError: `num_classes` is negative or not an integer, or the head was replaced.
        """
        self._check_head()
        like = next(self.parameters())
        for head in [m for m in self.modules() if isinstance(m, ClassifierHead)]:
            with like.device:
                head.reset_classifier(num_classes)
            head.to(like.dtype).train(self.training)

    def _check_head(self) -> ClassifierHead:
        """Return the head; raise ValueError if it was replaced with a different module."""
        if not isinstance(self.head, ClassifierHead):
            raise ValueError(
                f"the network's head was replaced with a {type(self.head).__name__}, so its "
                "classifier layer is unknown: change that module directly, or replace "
                "`head.classifier` instead of `head`"
            )
        return self.head

    def save_pretrained(
        self,
        directory: str | PathLike[str],
        *,
        run: str | PathLike[str] | None = None,
        layout: str = "cnnarch",
        license: str | None = None,
    ) -> None:
        """Save the weights and config from which `cnnarch.from_pretrained` rebuilds the network.

        Args:
            directory: the folder, created if it does not exist.
            run: folder of the training run whose results and plots the model card shows.
            layout: "timm" saves the network for timm and transformers.
            license: the license of the weights for the model card.

        Raises:
            WeightsError: as in `cnnarch.weights.save_pretrained`.
        """
        from cnnarch.weights import save_pretrained

        save_pretrained(self, directory, run=run, layout=layout, license=license)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a state dict as `nn.Module` does, with a hint in the error if no key matches."""
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            if self.state_dict().keys() & state_dict.keys():
                raise
            hint = "no key matches; cnnarch.weights.load converts state dicts from other libraries"
            raise RuntimeError(f"{error}\n{hint}") from error
