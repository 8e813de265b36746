"""ResNeXt in torchvision, timm and pytorchcv, with the same tensor names as ResNet."""

from cnnarch.weights.porting._layout import Layout
from cnnarch.weights.porting.resnet import pytorchcv, torchvision

LAYOUTS = (
    Layout("torchvision", torchvision),
    Layout("timm", torchvision),
    Layout("pytorchcv", pytorchcv),
)
