"""MLP-Mixer: MLPs that mix the patches and the channels of an image (Tolstikhin et al., 2021)."""

from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.initialization import lecun_normal_
from cnnarch.blocks.mixer import LayerNorm2d, MixerLayer
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.patches import PatchNetwork, PatchOptions
from cnnarch.facts.builders import builder

__all__ = [
    "MLPMixer",
    "mixer_b16",
    "mixer_b32",
    "mixer_h14",
    "mixer_l16",
    "mixer_l32",
    "mixer_s16",
    "mixer_s32",
]


class MixerConfig(NamedTuple):
    """A column of Table 1."""

    layers: int
    patch_size: int  # the paper's P
    hidden_size: int  # C
    mlp_dim_c: int  # D_C, over channels
    mlp_dim_s: int  # D_S, over tokens


S_32 = MixerConfig(8, 32, 512, 2048, 256)
S_16 = MixerConfig(8, 16, 512, 2048, 256)
B_32 = MixerConfig(12, 32, 768, 3072, 384)
B_16 = MixerConfig(12, 16, 768, 3072, 384)
L_32 = MixerConfig(24, 32, 1024, 4096, 512)
L_16 = MixerConfig(24, 16, 1024, 4096, 512)
H_14 = MixerConfig(32, 14, 1280, 5120, 640)


class MLPMixer(PatchNetwork):
    """MLP-Mixer: a convolution that embeds patches, Mixer layers, pooled linear head.

    Each layer is a stage, and the stride of all stages is the patch size. The last stage ends with
    the final LayerNorm. Weights use LeCun initialization, as in the authors' code.

    Args:
        layers: number of Mixer layers.
        patch_size: side length of a patch, in pixels.
        hidden_size: number of channels in the maps, the paper's C.
        mlp_dim_c: hidden width of the MLPs over channels, the paper's D_C.
        mlp_dim_s: hidden width of the MLPs over tokens, the paper's D_S.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        image_size: side length of the images, in pixels, a multiple of `patch_size`. Other sizes
            are not accepted because the MLPs over tokens have weights for each patch.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping a residual branch of the last layer for an image in
            training, in [0, 1). The probability increases linearly from 0 in the first layer.

    Shape:
        (N, in_channels, image_size, image_size) -> (N, num_classes)

    Raises:
        ValueError: `image_size` is not a multiple of `patch_size`, a count is not a positive
            integer, or `dropout` or `drop_path` is out of range.
    """

    def __init__(
        self,
        layers: int,
        patch_size: int,
        hidden_size: int,
        mlp_dim_c: int,
        mlp_dim_s: int,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: int = 224,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        check_integer("hidden_size", hidden_size, 1)

        def layer(tokens: int, rate: float) -> MixerLayer:
            return MixerLayer(tokens, hidden_size, mlp_dim_s, mlp_dim_c, drop_path=rate)

        super().__init__(
            layer,
            layers,
            patch_size,
            hidden_size,
            LayerNorm2d(hidden_size),
            "mixer_layer",
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
def mixer_s32(*, weights: WeightsSource = None, **options: Unpack[PatchOptions]) -> MLPMixer:
    """Mixer-S/32: 8 layers of 512 channels, patches of 32x32."""
    return build("mixer_s32", weights, MLPMixer, *S_32, **options)


@builder
def mixer_s16(*, weights: WeightsSource = None, **options: Unpack[PatchOptions]) -> MLPMixer:
    """Mixer-S/16: 8 layers of 512 channels, patches of 16x16."""
    return build("mixer_s16", weights, MLPMixer, *S_16, **options)


@builder
def mixer_b32(*, weights: WeightsSource = None, **options: Unpack[PatchOptions]) -> MLPMixer:
    """Mixer-B/32: 12 layers of 768 channels, patches of 32x32."""
    return build("mixer_b32", weights, MLPMixer, *B_32, **options)


@builder
def mixer_b16(*, weights: WeightsSource = None, **options: Unpack[PatchOptions]) -> MLPMixer:
    """Mixer-B/16: 12 layers of 768 channels, patches of 16x16."""
    return build("mixer_b16", weights, MLPMixer, *B_16, **options)


@builder
def mixer_l32(*, weights: WeightsSource = None, **options: Unpack[PatchOptions]) -> MLPMixer:
    """Mixer-L/32: 24 layers of 1024 channels, patches of 32x32."""
    return build("mixer_l32", weights, MLPMixer, *L_32, **options)


@builder
def mixer_l16(*, weights: WeightsSource = None, **options: Unpack[PatchOptions]) -> MLPMixer:
    """Mixer-L/16: 24 layers of 1024 channels, patches of 16x16."""
    return build("mixer_l16", weights, MLPMixer, *L_16, **options)


@builder
def mixer_h14(*, weights: WeightsSource = None, **options: Unpack[PatchOptions]) -> MLPMixer:
    """Mixer-H/14: 32 layers of 1280 channels, patches of 14x14."""
    return build("mixer_h14", weights, MLPMixer, *H_14, **options)
