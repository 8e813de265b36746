"""ResMLP: residual layers of linear maps, without norms or attention (Touvron et al., 2021)."""

from typing import NamedTuple, Unpack

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.initialization import normal_
from cnnarch.blocks.resmlp import Affine, ResMLPLayer
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.patches import PatchNetwork, PatchOptions
from cnnarch.facts.builders import builder

__all__ = ["ResMLP", "resmlp_b24", "resmlp_b24_p8", "resmlp_s12", "resmlp_s24", "resmlp_s36"]


class ResMLPRow(NamedTuple):
    """A variant: its number of layers, patch size, width, and initial layer scale (sec. 2)."""

    layers: int
    patch_size: int
    hidden_size: int
    layer_scale: float


S_12 = ResMLPRow(12, 16, 384, 1e-4)
S_24 = ResMLPRow(24, 16, 384, 1e-5)
S_36 = ResMLPRow(36, 16, 384, 1e-6)
B_24 = ResMLPRow(24, 16, 768, 1e-6)
B_24_P8 = ResMLPRow(24, 8, 768, 1e-6)


class Affine2d(Affine):
    """`Affine` for maps: (N, channels, H, W) -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift each channel."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResMLP(PatchNetwork):
    """ResMLP: a convolution that embeds patches, ResMLP layers, pooled linear head.

    Each layer is a stage, and the stride of all stages is the patch size. The last stage ends with
    the final affine layer. Weights are drawn from N(0, 0.02^2); the stem uses LeCun
    initialization.

    Args:
        layers: number of layers.
        patch_size: side length of a patch, in pixels.
        hidden_size: number of channels in the maps.
        layer_scale: initial value of the factors of each branch, greater than 0.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        image_size: side length of the images, in pixels, a multiple of `patch_size`. Other sizes
            are not accepted because the layers over tokens have weights for each patch.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping a branch of the last layer for an image in training, in
            [0, 1). The probability increases linearly from 0 in the first layer.

    Shape:
        (N, in_channels, image_size, image_size) -> (N, num_classes)

    Raises:
        ValueError: `image_size` is not a multiple of `patch_size`, a count is not a positive
            integer, or a rate is out of range.
    """

    def __init__(
        self,
        layers: int,
        patch_size: int,
        hidden_size: int,
        layer_scale: float,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: int = 224,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        check_integer("hidden_size", hidden_size, 1)

        def layer(tokens: int, rate: float) -> ResMLPLayer:
            return ResMLPLayer(tokens, hidden_size, layer_scale=layer_scale, drop_path=rate)

        super().__init__(
            layer,
            layers,
            patch_size,
            hidden_size,
            Affine2d(hidden_size),
            "resmlp_layer",
            _classifier,
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            dropout=dropout,
            drop_path=drop_path,
        )


def _classifier(num_features: int, num_classes: int) -> nn.Linear:
    return normal_(nn.Linear(num_features, num_classes), 0.02)


@builder
def resmlp_s12(*, weights: WeightsSource = None, **options: Unpack[PatchOptions]) -> ResMLP:
    """ResMLP-S12: 12 layers of 384 channels, patches of 16x16."""
    return build("resmlp_s12", weights, ResMLP, *S_12, **options)


@builder
def resmlp_s24(*, weights: WeightsSource = None, **options: Unpack[PatchOptions]) -> ResMLP:
    """ResMLP-S24: 24 layers of 384 channels, patches of 16x16."""
    return build("resmlp_s24", weights, ResMLP, *S_24, **options)


@builder
def resmlp_s36(*, weights: WeightsSource = None, **options: Unpack[PatchOptions]) -> ResMLP:
    """ResMLP-S36: 36 layers of 384 channels, patches of 16x16."""
    return build("resmlp_s36", weights, ResMLP, *S_36, **options)


@builder
def resmlp_b24(*, weights: WeightsSource = None, **options: Unpack[PatchOptions]) -> ResMLP:
    """ResMLP-B24: 24 layers of 768 channels, patches of 16x16."""
    return build("resmlp_b24", weights, ResMLP, *B_24, **options)


@builder
def resmlp_b24_p8(*, weights: WeightsSource = None, **options: Unpack[PatchOptions]) -> ResMLP:
    """ResMLP-B24/8: 24 layers of 768 channels, patches of 8x8."""
    return build("resmlp_b24_p8", weights, ResMLP, *B_24_P8, **options)
