"""ResNeXt in torchvision, timm and pytorchcv: their tensors are named as ResNet's."""

from cnnarch.weights.porting._layout import Layout
from cnnarch.weights.porting.resnet import pytorchcv, torchvision

__all__ = ["LAYOUTS"]

LAYOUTS = (
    Layout("torchvision", torchvision),
    Layout("timm", torchvision),
    Layout("pytorchcv", pytorchcv),
)
