"""EfficientNet-Lite: EfficientNet without operations that mobile accelerators lack (2020)."""

from typing import ClassVar, Unpack

from torch import nn

from cnnarch.blocks.compound_scaling import Scaling
from cnnarch.contract.build import WeightsSource, build
from cnnarch.facts.builders import builder
from cnnarch.models.efficientnet import EfficientNet, Options

__all__ = [
    "EfficientNetLite",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "efficientnet_lite3",
    "efficientnet_lite4",
]

LITE0 = Scaling(1.0, 1.0, 224, 0.2)
LITE1 = Scaling(1.0, 1.1, 240, 0.2)
LITE2 = Scaling(1.1, 1.2, 260, 0.3)
LITE3 = Scaling(1.2, 1.4, 280, 0.3)
LITE4 = Scaling(1.4, 1.8, 300, 0.3)


class EfficientNetLite(EfficientNet):
    """EfficientNet without squeeze-and-excitation and with ReLU6 instead of SiLU.

    The width of the stem and head and the depth of the first and last stages are not scaled.
    Arguments, shapes and errors are the same as for `EfficientNet`.
    """

    act: ClassVar[type[nn.Module]] = nn.ReLU6
    has_se: ClassVar[bool] = False
    fixed_depth: ClassVar[tuple[str, ...]] = ("stage2", "stage8")
    fixed_ends: ClassVar[bool] = True


@builder
def efficientnet_lite0(
    *, weights: WeightsSource = None, **options: Unpack[Options]
) -> EfficientNetLite:
    """EfficientNet-Lite0: the baseline's width and depth."""
    return build("efficientnet_lite0", weights, EfficientNetLite, LITE0, **options)


@builder
def efficientnet_lite1(
    *, weights: WeightsSource = None, **options: Unpack[Options]
) -> EfficientNetLite:
    """EfficientNet-Lite1: width 1.0, depth 1.1."""
    return build("efficientnet_lite1", weights, EfficientNetLite, LITE1, **options)


@builder
def efficientnet_lite2(
    *, weights: WeightsSource = None, **options: Unpack[Options]
) -> EfficientNetLite:
    """EfficientNet-Lite2: width 1.1, depth 1.2."""
    return build("efficientnet_lite2", weights, EfficientNetLite, LITE2, **options)


@builder
def efficientnet_lite3(
    *, weights: WeightsSource = None, **options: Unpack[Options]
) -> EfficientNetLite:
    """EfficientNet-Lite3: width 1.2, depth 1.4."""
    return build("efficientnet_lite3", weights, EfficientNetLite, LITE3, **options)


@builder
def efficientnet_lite4(
    *, weights: WeightsSource = None, **options: Unpack[Options]
) -> EfficientNetLite:
    """EfficientNet-Lite4: width 1.4, depth 1.8."""
    return build("efficientnet_lite4", weights, EfficientNetLite, LITE4, **options)
