"""ResNeXt for 32x32 images in pytorchcv, with the same tensor names as its CIFAR ResNets."""

from cnnarch.weights.porting._layout import Layout
from cnnarch.weights.porting.resnet_cifar import pytorchcv

LAYOUTS = (Layout("pytorchcv", pytorchcv),)
