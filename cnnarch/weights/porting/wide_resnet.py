"""Wide ResNet in torchvision and timm, with the same tensor names as ResNet."""

from cnnarch.weights.porting._layout import Layout
from cnnarch.weights.porting.resnet import torchvision

LAYOUTS = (Layout("torchvision", torchvision), Layout("timm", torchvision))
