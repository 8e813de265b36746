"""EfficientNetV2 in torchvision and timm, with the names of EfficientNet's tensors."""

from cnnarch.weights.porting._layout import Layout, always
from cnnarch.weights.porting.efficientnet import PYTORCH, TENSORFLOW, timm, torchvision

LAYOUTS = (
    Layout("torchvision", torchvision, always(norm_eps=1e-3, padding="symmetric")),
    Layout("timm", timm, PYTORCH, architectures="efficientnetv2_*"),
    Layout("timm", timm, TENSORFLOW, architectures="tf_efficientnetv2_*"),
)
