"""Names that the command takes besides the networks' own."""

__all__ = ["USUAL"]

USUAL = {
    "alexnet": "alexnet",
    "cnn": "convnet",
    "densenet": "densenet121",
    "efficientnet": "efficientnet_b0",
    "googlenet": "googlenet",
    "lenet": "lenet5",
    "mixer": "mixer_s16",
    "mobilenet": "mobilenet_v1",
    "nin": "nin",
    "resnet": "resnet18",
    "senet": "se_resnet18",
    "vgg": "vgg11",
}
"""The network that the command takes a family's name for; the library knows exact names only."""
