"""gMLP: MLPs with a gate across patches in place of attention (Liu et al., 2021)."""

from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.gmlp import GMLPLayer
from cnnarch.blocks.initialization import lecun_normal_
from cnnarch.blocks.mixer import LayerNorm2d
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.patches import PatchNetwork, PatchOptions
from cnnarch.facts.builders import builder

__all__ = ["GMLP", "gmlp_b16", "gmlp_s16", "gmlp_ti16"]

LAYERS = 30
PATCH_SIZE = 16


class GMLPRow(NamedTuple):
    """A row of Table 1: d_model and d_ffn. All variants have 30 layers and 16x16 patches."""

    hidden_size: int
    ffn_size: int


TI = GMLPRow(128, 768)
S = GMLPRow(256, 1536)
B = GMLPRow(512, 3072)


class GMLP(PatchNetwork):
    """gMLP: a convolution that embeds patches, gMLP layers, pooled linear head.

    Each layer is a stage, and the stride of all stages is 16. The last stage ends with the final
    LayerNorm. Weights use LeCun initialization, except in the gates.

    Args:
        hidden_size: number of channels in the maps, the paper's d_model.
        ffn_size: number of hidden units in each layer, the paper's d_ffn, which must be even.
        layers: number of layers.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        image_size: side length of the images, in pixels, a multiple of 16. Other sizes are not
            accepted because the gates have weights for each patch.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the branch of the last layer for an image in training,
            in [0, 1). The probability increases linearly from 0 in the first layer.

    Shape:
        (N, in_channels, image_size, image_size) -> (N, num_classes)

    Raises:
        ValueError: `image_size` is not a multiple of 16, a count is not a positive integer,
            `ffn_size` is odd, or a rate is out of range.
    """

    def __init__(
        self,
        hidden_size: int,
        ffn_size: int,
        layers: int = LAYERS,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: int = 224,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        check_integer("hidden_size", hidden_size, 1)

        def layer(tokens: int, rate: float) -> GMLPLayer:
            return GMLPLayer(tokens, hidden_size, ffn_size, drop_path=rate)

        super().__init__(
            layer,
            layers,
            PATCH_SIZE,
            hidden_size,
            LayerNorm2d(hidden_size),
            "gmlp_layer",
            _classifier,
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            dropout=dropout,
            drop_path=drop_path,
        )


def _classifier(num_features: int, num_classes: int) -> nn.Linear:
    return lecun_normal_(nn.Linear(num_features, num_classes))


@builder
def gmlp_ti16(*, weights: WeightsSource = None, **options: Unpack[PatchOptions]) -> GMLP:
    """gMLP-Ti: 30 layers of 128 channels, patches of 16x16."""
    return build("gmlp_ti16", weights, GMLP, *TI, **options)


@builder
def gmlp_s16(*, weights: WeightsSource = None, **options: Unpack[PatchOptions]) -> GMLP:
    """gMLP-S: 30 layers of 256 channels, patches of 16x16."""
    return build("gmlp_s16", weights, GMLP, *S, **options)


@builder
def gmlp_b16(*, weights: WeightsSource = None, **options: Unpack[PatchOptions]) -> GMLP:
    """gMLP-B: 30 layers of 512 channels, patches of 16x16."""
    return build("gmlp_b16", weights, GMLP, *B, **options)
