"""EfficientNet-Lite in timm and in efficientnet_lite_pytorch, a fork of efficientnet_pytorch."""

from cnnarch.weights.porting._layout import Layout
from cnnarch.weights.porting.efficientnet import PYTORCH, TENSORFLOW, efficientnet_pytorch, timm

LAYOUTS = (
    Layout("timm", timm, PYTORCH, architectures="efficientnet_lite*"),
    Layout("timm", timm, TENSORFLOW, architectures="tf_efficientnet_lite*"),
    Layout("efficientnet_pytorch", efficientnet_pytorch, TENSORFLOW),
)
