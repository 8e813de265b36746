"""Networks of other libraries that look like ours and are not, for the loader, tests and docs."""

from typing import NamedTuple

__all__ = ["NEAR_TWINS", "NearTwin", "hidden_near_twin"]


class NearTwin(NamedTuple):
    """A network that another library names or sizes as ours, but that is another network.

    Args:
        builder: ours, which its tensors are not for.
        library: as in `Layout.library`.
        name: theirs.
        reason: what is different.
        shown: whether its state dict shows it. If not, only a checkpoint that says what it is
            can be refused.
    """

    builder: str
    library: str
    name: str
    reason: str
    shown: bool = True


COMPRESSED = "Its transitions halve the channels, as only DenseNet-BC's do in the paper."
GROUP_NORM = "GroupNorm in place of BatchNorm."
INSTANCE_NORM = "InstanceNorm on some channels."
BLURRED = "Strided convolutions are followed by a blurring pool, which has no tensors."
RELU_BEFORE_SQUEEZE = "Its branches end in a ReLU before the squeeze."
WIDER_SQUEEZE = "The squeeze is rounded up to 8 channels or more."

NEAR_TWINS = (
    NearTwin("alexnet", "pytorchcv", "alexnet", "One tower, and alpha of its LRN is 1e-4 / 5."),
    NearTwin("densenet_40_12_cifar", "pytorchcv", "densenet40_k12_cifar10", COMPRESSED),
    NearTwin("densenet_100_12_cifar", "pytorchcv", "densenet100_k12_cifar10", COMPRESSED),
    NearTwin("densenet_100_24_cifar", "pytorchcv", "densenet100_k24_cifar10", COMPRESSED),
    NearTwin("densenet121", "timm", "densenetblur121d", "Another stem, blurred pools."),
    NearTwin("densenet264", "timm", "densenet264d", "Wider, and another stem."),
    NearTwin("densenet121", "pytorchcv", "ibn_densenet121", INSTANCE_NORM),
    NearTwin("efficientnet_b0", "timm", "efficientnet_b0_gn", GROUP_NORM),
    NearTwin("efficientnet_b0", "timm", "efficientnet_blur_b0", BLURRED, shown=False),
    NearTwin("mobilenet_v1", "timm", "mobilenetv1_100h", "A hidden layer in the head."),
    NearTwin("mobilenet_v1", "pytorchcv", "mobilenetb_w1", "No norm between the convolutions."),
    NearTwin("nin_cifar", "pytorchcv", "nin_cifar10", "Its pools pad every side."),
    NearTwin("resnet18", "timm", "resnetblur18", BLURRED, shown=False),
    NearTwin("resnet50", "timm", "resnetblur50", BLURRED, shown=False),
    NearTwin("resnet50", "timm", "resnetaa50", BLURRED, shown=False),
    NearTwin("resnet50", "timm", "resnet50_gn", GROUP_NORM),
    NearTwin("resnet50", "pytorchcv", "ibn_resnet50", INSTANCE_NORM),
    NearTwin("se_resnet18", "timm", "legacy_seresnet18", RELU_BEFORE_SQUEEZE),
    NearTwin("se_resnet34", "timm", "legacy_seresnet34", RELU_BEFORE_SQUEEZE),
    NearTwin("se_resnet18", "timm", "seresnet18", WIDER_SQUEEZE),
    NearTwin("se_resnet34", "timm", "seresnet34", WIDER_SQUEEZE),
    NearTwin("vgg11_lrn", "torchvision", "vgg11", "No local response normalisation."),
    NearTwin("vgg11_bn", "pytorchcv", "bn_vgg11", "Its convolutions have no biases."),
)
"""In the same order. Names that say plainly what is different (`wide_resnet50_2`) are left out."""


def hidden_near_twin(builder: str | None, name: str | None) -> NearTwin | None:
    """The network of that name whose tensors look as if they were for `builder`, if it is one."""
    found = (n for n in NEAR_TWINS if not n.shown and (n.builder, n.name) == (builder, name))
    return next(found, None)
