"""Which network of another library is which of ours: for the catalog, the tests and the docs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["NEAR_TWINS", "TWINS", "NearTwin", "Twin", "twins"]


class Twin(NamedTuple):
    """A network that another library has too, the same tensor for tensor.

    Args:
        builder: ours.
        library: as in `Layout.library`.
        name: theirs, as their factory takes it.
        options: what our builder is given to be the same network.
        note: what to know before taking one for the other.
        arguments: what their factory is given to be the same network.
        tolerance: largest difference between the logits that the same tensors give, over the
            largest logit: 0.0 where the operations are the same.
    """

    builder: str
    library: str
    name: str
    options: Mapping[str, Any] = {}
    note: str = ""
    arguments: Mapping[str, Any] = {}
    tolerance: float = 0.0


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


DEPTHS = (18, 34, 50, 101, 152)
BOTTLENECKS = (50, 101, 152)
VGGS = ("vgg11", "vgg13", "vgg16", "vgg19")
MIXERS = ("mixer_s32", "mixer_s16", "mixer_b32", "mixer_b16", "mixer_l32", "mixer_l16")
DENSE_BC = ((100, 12), (250, 24), (190, 40))
SMALL_SETS: tuple[tuple[str, dict[str, Any]], ...] = (("cifar10", {}), ("svhn", {}), ("cifar100", {"num_classes": 100}))

PAPER_STRIDE = {"stride_in_1x1": True}
PADDED_POOL = {"ceil_pool": False}
NO_PAPER_STRIDE = {**PADDED_POOL, "stride_in_1x1": False}
OPTION_B = {"shortcut": "B"}
PYTORCH = {"norm_eps": 1e-5}
TENSORFLOW = {"norm_eps": 1e-3, "padding": "same"}

TWINS = (
    Twin("alexnet_owt", "torchvision", "alexnet"),
    Twin("alexnet_owt", "pytorchcv", "alexnetb"),
    *(Twin(f"densenet{d}", "torchvision", f"densenet{d}") for d in (121, 161, 169, 201)),
    *(Twin(f"densenet{d}", "timm", f"densenet{d}") for d in (121, 161, 169, 201)),
    *(Twin(f"densenet{d}", "pytorchcv", f"densenet{d}") for d in (121, 161, 169, 201)),
    *(
        Twin(f"densenet_bc_{d}_{k}_cifar", "pytorchcv", f"densenet{d}_k{k}_bc_{data}", options)
        for d, k in DENSE_BC
        for data, options in SMALL_SETS
    ),
    *(Twin(f"efficientnet_b{i}", "torchvision", f"efficientnet_b{i}", PYTORCH) for i in range(5)),
    *(
        Twin(f"efficientnet_b{i}", "torchvision", f"efficientnet_b{i}", {"norm_eps": 1e-3})
        for i in (5, 6, 7)
    ),
    *(Twin(f"efficientnet_b{i}", "timm", f"efficientnet_b{i}", PYTORCH) for i in range(9)),
    Twin("efficientnet_l2", "timm", "efficientnet_l2", PYTORCH),
    *(Twin(f"efficientnet_b{i}", "timm", f"tf_efficientnet_b{i}", TENSORFLOW) for i in range(9)),
    Twin("efficientnet_l2", "timm", "tf_efficientnet_l2", TENSORFLOW),
    *(
        Twin(f"efficientnet_b{i}", "efficientnet_pytorch", f"efficientnet-b{i}", TENSORFLOW)
        for i in range(9)
    ),
    Twin("efficientnet_l2", "efficientnet_pytorch", "efficientnet-l2", TENSORFLOW),
    *(Twin(f"efficientnet_b{i}", "pytorchcv", f"efficientnet_b{i}", PYTORCH) for i in range(9)),
    *(Twin(f"efficientnet_b{i}", "pytorchcv", f"efficientnet_b{i}b", TENSORFLOW) for i in range(8)),
    *(Twin(f"efficientnet_b{i}", "pytorchcv", f"efficientnet_b{i}c", TENSORFLOW) for i in range(9)),
    *(Twin(f"efficientnet_lite{i}", "timm", f"efficientnet_lite{i}", PYTORCH) for i in range(5)),
    *(
        Twin(f"efficientnet_lite{i}", "timm", f"tf_efficientnet_lite{i}", TENSORFLOW)
        for i in range(5)
    ),
    *(
        Twin(f"efficientnet_lite{i}", "efficientnet_pytorch", f"efficientnet-lite{i}", TENSORFLOW)
        for i in range(5)
    ),
    Twin(
        "googlenet_bn",
        "torchvision",
        "googlenet",
        {"aux_logits": True},
        "Its auxiliary heads are left out unless ours has them.",
        {"init_weights": False},
    ),
    Twin("bn_inception", "cadene", "bninception"),
    Twin("bn_inception", "pytorchcv", "bninception"),
    *(Twin(name, "timm", f"{name}_224") for name in MIXERS),
    Twin("mobilenet_v1", "timm", "mobilenetv1_100", {"activation": "relu6"}),
    Twin("mobilenet_v1", "timm", "mobilenetv1_125", {"activation": "relu6", "width": 1.25}),
    Twin("mobilenet_v1", "pytorchcv", "mobilenet_w1"),
    Twin("mobilenet_v1", "pytorchcv", "mobilenet_w3d4", {"width": 0.75}),
    Twin("mobilenet_v1", "pytorchcv", "mobilenet_wd2", {"width": 0.5}),
    Twin("mobilenet_v1", "pytorchcv", "mobilenet_wd4", {"width": 0.25}),
    *(Twin(f"resnet{d}", "torchvision", f"resnet{d}") for d in DEPTHS),
    *(Twin(f"resnet{d}", "timm", f"resnet{d}") for d in DEPTHS),
    *(Twin(f"resnet{d}", "pytorchcv", f"resnet{d}") for d in (18, 34)),
    *(Twin(f"resnet{d}", "pytorchcv", f"resnet{d}", PAPER_STRIDE) for d in BOTTLENECKS),
    *(Twin(f"resnet{d}", "pytorchcv", f"resnet{d}b") for d in BOTTLENECKS),
    *(
        Twin(f"resnet{d}_cifar", "pytorchcv", f"resnet{d}_{data}", {**OPTION_B, **options})
        for d in (20, 56, 110, 1202)
        for data, options in SMALL_SETS
    ),
    *(Twin(f"se_resnet{d}", "cadene", f"se_resnet{d}") for d in BOTTLENECKS),
    *(Twin(f"se_resnet{d}", "timm", f"legacy_seresnet{d}") for d in BOTTLENECKS),
    *(Twin(f"se_resnet{d}", "timm", f"seresnet{d}", NO_PAPER_STRIDE) for d in BOTTLENECKS),
    *(Twin(f"se_resnet{d}", "pytorchcv", f"seresnet{d}", PADDED_POOL) for d in DEPTHS),
    *(Twin(f"se_resnet{d}", "pytorchcv", f"seresnet{d}b", NO_PAPER_STRIDE) for d in BOTTLENECKS),
    *(Twin(f"se_resnext{d}_32x4d", "cadene", f"se_resnext{d}_32x4d") for d in (50, 101)),
    *(Twin(f"se_resnext{d}_32x4d", "timm", f"legacy_seresnext{d}_32x4d") for d in (50, 101)),
    *(Twin(f"se_resnext{d}_32x4d", "timm", f"seresnext{d}_32x4d", PADDED_POOL) for d in (50, 101)),
    *(
        Twin(f"se_resnext{d}_32x4d", "pytorchcv", f"seresnext{d}_32x4d", PADDED_POOL)
        for d in (50, 101)
    ),
    *(
        Twin("se_resnet110_cifar", "pytorchcv", f"seresnet110_{data}", {**OPTION_B, **options})
        for data, options in SMALL_SETS
    ),
    Twin("senet154", "cadene", "senet154"),
    Twin("senet154", "timm", "legacy_senet154"),
    Twin("senet154", "timm", "senet154", PADDED_POOL),
    Twin("senet154", "pytorchcv", "senet154", PADDED_POOL),
    *(Twin(name, "torchvision", name) for vgg in VGGS for name in (vgg, f"{vgg}_bn")),
    *(Twin(name, "timm", name) for vgg in VGGS for name in (vgg, f"{vgg}_bn")),
    *(Twin(name, "pytorchcv", name) for name in VGGS),
    *(Twin(f"{name}_bn", "pytorchcv", f"bn_{name}b") for name in VGGS),
)
"""Families in the order of the docs; a row a network of theirs."""

NEAR_TWINS: tuple[NearTwin, ...] = ()


def twins(builder: str | None = None, library: str | None = None) -> list[Twin]:
    """Rows of one of our builders, of one library, of both or all."""
    return [t for t in TWINS if builder in (None, t.builder) and library in (None, t.library)]
