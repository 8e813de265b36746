"""EfficientNet-Lite: EfficientNet without what mobile accelerators do badly (2020)."""

from collections.abc import Callable
from typing import ClassVar, Unpack

from torch import nn

from cnnarch._cards import Builder, Paper, Stated, register
from cnnarch.blocks.compound_scaling import Scaling
from cnnarch.contract.build import WeightsSource, build
from cnnarch.models.efficientnet import DEPARTS, EfficientNet, Options

__all__ = [
    "EfficientNetLite",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "efficientnet_lite3",
    "efficientnet_lite4",
]

README = Paper(
    "EfficientNet-lite, README of the authors' code (there is no paper)",
    "The TensorFlow Authors",
    2020,
    url="https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
)
MADDS = "the README's MAdds count more than convolutions and linear layers"

LITE0 = Scaling(1.0, 1.0, 224, 0.2)
LITE1 = Scaling(1.0, 1.1, 240, 0.2)
LITE2 = Scaling(1.1, 1.2, 260, 0.3)
LITE3 = Scaling(1.2, 1.4, 280, 0.3)
LITE4 = Scaling(1.4, 1.8, 300, 0.3)


class EfficientNetLite(EfficientNet):
    """EfficientNet without squeeze-and-excitation, with ReLU6 in place of SiLU.

    Stem and head keep the baseline's width, the first and the last stage its depth, however the
    rest is scaled. Arguments, shapes and errors are those of `EfficientNet`.
    """

    act: ClassVar[type[nn.Module]] = nn.ReLU6
    se_ratio: ClassVar[float] = 0.0
    fixed_depth: ClassVar[tuple[str, ...]] = ("stage2", "stage8")
    fixed_ends: ClassVar[bool] = True


def _readme(
    scaling: Scaling, params: int, macs: int, *printed: str
) -> Callable[[Builder], Builder]:
    """Register a builder with what the README's table prints: params, MAdds, FP32 accuracy."""
    stated = (
        Stated("params", printed[0], "README"),
        Stated("macs", printed[1], "README", MADDS),
        Stated("top1_err", printed[2], "README, printed as an accuracy, 32-bit floats"),
    )
    size = scaling.input_size
    return register(
        README, params=params, macs=macs, input_size=size, stated=stated, departs=DEPARTS
    )


@_readme(LITE0, 4_652_008, 385_187_552, "4.7M", "407M", "24.9")
def efficientnet_lite0(
    *, weights: WeightsSource = None, **options: Unpack[Options]
) -> EfficientNetLite:
    """EfficientNet-Lite0: width and depth of the baseline."""
    return build("efficientnet_lite0", weights, EfficientNetLite, LITE0, **options)


@_readme(LITE1, 5_416_680, 600_185_232, "5.4M", "631M", "23.3")
def efficientnet_lite1(
    *, weights: WeightsSource = None, **options: Unpack[Options]
) -> EfficientNetLite:
    """EfficientNet-Lite1: width 1.0, depth 1.1."""
    return build("efficientnet_lite1", weights, EfficientNetLite, LITE1, **options)


@_readme(LITE2, 6_092_072, 859_736_272, "6.1M", "899M", "22.4")
def efficientnet_lite2(
    *, weights: WeightsSource = None, **options: Unpack[Options]
) -> EfficientNetLite:
    """EfficientNet-Lite2: width 1.1, depth 1.2."""
    return build("efficientnet_lite2", weights, EfficientNetLite, LITE2, **options)


@_readme(LITE3, 8_197_096, 1_383_321_872, "8.2M", "1.44B", "20.2")
def efficientnet_lite3(
    *, weights: WeightsSource = None, **options: Unpack[Options]
) -> EfficientNetLite:
    """EfficientNet-Lite3: width 1.2, depth 1.4."""
    return build("efficientnet_lite3", weights, EfficientNetLite, LITE3, **options)


@_readme(LITE4, 13_006_568, 2_553_034_336, "13.0M", "2.64B", "18.5")
def efficientnet_lite4(
    *, weights: WeightsSource = None, **options: Unpack[Options]
) -> EfficientNetLite:
    """EfficientNet-Lite4: width 1.4, depth 1.8."""
    return build("efficientnet_lite4", weights, EfficientNetLite, LITE4, **options)
