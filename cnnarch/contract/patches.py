"""The base class of all-MLP networks: patches, layers that keep the map's size, a final norm."""

from collections.abc import Callable, Sequence

from torch import nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.initialization import lecun_normal_
from cnnarch.blocks.stochastic_depth import drop_path_rates
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import DropoutOptions

MakeLayer = Callable[[int, float], nn.Module]
"""Builds a layer from its number of tokens (pixels of the map) and its drop-path rate."""


class PatchOptions(DropoutOptions, total=False):
    """Options of the networks that cut images of a fixed size into patches."""

    image_size: int
    drop_path: float


class PatchNetwork(ImageClassifier):
    """A convolution that embeds patches, layers of which each is a stage, pooled linear head.

    The stride of all stages is the patch size. The last stage ends with the final norm. The stem
    uses LeCun initialization.

    Args:
        layer: builds a layer from its number of tokens and its drop-path rate.
        layers: number of layers.
        patch_size: side length of a patch, in pixels.
        hidden_size: number of channels in the maps.
        norm: the final norm, applied to the last map.
        name: name of the layers; the stages are called `name` with an underscore and a number.
        make_classifier: creates the last layer from its input and output widths.
        num_classes: number of logits. With 0 the network returns the pooled features.
        in_channels: number of channels in the input image.
        image_size: side length of the images, in pixels, a multiple of `patch_size`.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: drop-path rate of the last layer, in [0, 1). The rate increases linearly from 0
            in the first layer.

    Shape:
        (N, in_channels, image_size, image_size) -> (N, num_classes)

    Raises:
        ValueError: `image_size` is not a multiple of `patch_size`, a count is not a positive
            integer, or a rate is out of range.
    """

    def __init__(
        self,
        layer: MakeLayer,
        layers: int,
        patch_size: int,
        hidden_size: int,
        norm: nn.Module,
        name: str,
        make_classifier: Callable[[int, int], nn.Module],
        *,  # options of every network of this kind
        num_classes: int,
        in_channels: int,
        image_size: int,
        dropout: float,
        drop_path: float,
    ) -> None:
        check_integer("layers", layers, 1)
        check_integer("in_channels", in_channels, 1)
        tokens = count_patches(image_size, patch_size)
        stem = lecun_normal_(nn.Conv2d(in_channels, hidden_size, patch_size, patch_size))
        (rates,) = drop_path_rates(drop_path, (layers,))
        stages: Sequence[Stage] = [Stage(layer(tokens, rate)) for rate in rates]
        stages[-1].add_module("norm", norm)
        super().__init__(
            stem,
            stages,
            ClassifierHead(
                hidden_size, num_classes, dropout=dropout, make_classifier=make_classifier
            ),
            names=("stem", *(f"{name}_{i + 1}" for i in range(layers))),
            min_input_size=image_size,
            fixed_input_size=True,
        )


def count_patches(image_size: int, patch_size: int) -> int:
    """Return the number of patches in a square image.

    Raises:
        ValueError: a size is not a positive integer, or the image does not consist of whole
            patches.
    """
    check_integer("patch_size", patch_size, 1)
    check_integer("image_size", image_size, patch_size)
    if image_size % patch_size:
        raise ValueError(
            f"image_size must be a multiple of the patch size {patch_size}, got {image_size}"
        )
    return (image_size // patch_size) ** 2
