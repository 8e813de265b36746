"""EfficientNet-Lite in timm and in efficientnet_lite_pytorch, a copy of efficientnet_pytorch."""

from cnnarch.weights.porting._layout import Layout
from cnnarch.weights.porting.efficientnet import efficientnet_pytorch, pytorch, tensorflow, timm

__all__ = ["LAYOUTS"]

LAYOUTS = (
    Layout("timm", timm, pytorch, builders="efficientnet_lite*"),
    Layout("timm", timm, tensorflow, builders="tf_efficientnet_lite*"),
    Layout("efficientnet_pytorch", efficientnet_pytorch, tensorflow),
)
