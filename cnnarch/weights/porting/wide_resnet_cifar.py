"""Wide ResNet for 32x32 images in pytorchcv, with the names of pre-activation ResNets."""

from cnnarch.weights.porting._layout import Layout
from cnnarch.weights.porting.preresnet_cifar import pytorchcv

LAYOUTS = (Layout("pytorchcv", pytorchcv),)
