"""Which network of another library is which of ours: for the catalog, the tests and the docs."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

__all__ = ["TWINS", "Twin", "twins"]


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


DEPTHS = (18, 34, 50, 101, 152)
BOTTLENECKS = (50, 101, 152)
VGGS = (11, 13, 16, 19)
DENSENETS = (121, 161, 169, 201)
SMALL_SETS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("cifar10", {}),
    ("svhn", {}),
    ("cifar100", {"num_classes": 100}),
)

PAPER_STRIDE = {"stride_in_1x1": True}
PADDED_POOL = {"ceil_pool": False}
NO_PAPER_STRIDE = {**PADDED_POOL, "stride_in_1x1": False}
OPTION_B = {"shortcut": "B"}
PYTORCH = {"norm_eps": 1e-5}
PAPER_EPS = {"norm_eps": 1e-3}
TENSORFLOW = {"norm_eps": 1e-3, "padding": "same"}

FIXED_KERNEL = (
    "Their last pool averages with a kernel of a fixed size; ours takes every image size."
)
CHANNELS_LAST = "Ours computes with channels last in memory on CPUs."
FIXED_PADDING = "They pad for one image size, which their factory is given; ours pads for any."
OWN_SWISH = "They multiply by a sigmoid where we have SiLU."


def _close(note: str, rows: Iterable[Twin]) -> Iterator[Twin]:
    """Rows of networks that compute the same in another way."""
    return (row._replace(tolerance=1e-5, note=note) for row in rows)


def _numbered(
    ours: str, library: str, theirs: str, numbers: Iterable[object], options: Mapping[str, Any] = {}
) -> Iterator[Twin]:
    """Rows of variants whose two names differ in a number alone, written `#`."""
    for number in numbers:
        n = str(number)
        yield Twin(ours.replace("#", n), library, theirs.replace("#", n), options)


def _small(
    ours: str, theirs: str, numbers: Iterable[object], options: Mapping[str, Any]
) -> Iterator[Twin]:
    """Rows of pytorchcv's networks for small images, one for each data set."""
    for data, classes in SMALL_SETS:
        yield from _numbered(ours, "pytorchcv", f"{theirs}_{data}", numbers, {**options, **classes})


TWINS = (
    Twin("alexnet_owt", "torchvision", "alexnet"),
    Twin("alexnet_owt", "pytorchcv", "alexnetb"),
    *_close(
        CHANNELS_LAST,
        (
            *_numbered("densenet#", "torchvision", "densenet#", DENSENETS),
            *_numbered("densenet#", "timm", "densenet#", DENSENETS),
        ),
    ),
    *_close(FIXED_KERNEL, _numbered("densenet#", "pytorchcv", "densenet#", DENSENETS)),
    *_close(FIXED_KERNEL, _small("densenet_bc_#_12_cifar", "densenet#_k12_bc", [40, 100], {})),
    *_close(FIXED_KERNEL, _small("densenet_bc_#_24_cifar", "densenet#_k24_bc", [250], {})),
    *_close(FIXED_KERNEL, _small("densenet_bc_#_40_cifar", "densenet#_k40_bc", [190], {})),
    *_numbered("efficientnet_b#", "torchvision", "efficientnet_b#", range(5), PYTORCH),
    *_numbered("efficientnet_b#", "torchvision", "efficientnet_b#", (5, 6, 7), PAPER_EPS),
    *_numbered("efficientnet_b#", "timm", "efficientnet_b#", range(9), PYTORCH),
    Twin("efficientnet_l2", "timm", "efficientnet_l2", PYTORCH),
    *_numbered("efficientnet_b#", "timm", "tf_efficientnet_b#", range(9), TENSORFLOW),
    Twin("efficientnet_l2", "timm", "tf_efficientnet_l2", TENSORFLOW),
    *_close(
        FIXED_PADDING,
        _numbered(
            "efficientnet_#",
            "efficientnet_pytorch",
            "efficientnet-#",
            (*(f"b{i}" for i in range(9)), "l2"),
            TENSORFLOW,
        ),
    ),
    *_close(
        OWN_SWISH,
        (
            *_numbered("efficientnet_b#", "pytorchcv", "efficientnet_b#", range(9), PYTORCH),
            *_numbered("efficientnet_b#", "pytorchcv", "efficientnet_b#b", range(8), TENSORFLOW),
            *_numbered("efficientnet_b#", "pytorchcv", "efficientnet_b#c", range(9), TENSORFLOW),
        ),
    ),
    *_numbered("efficientnet_lite#", "timm", "efficientnet_lite#", range(5), PYTORCH),
    *_numbered("efficientnet_lite#", "timm", "tf_efficientnet_lite#", range(5), TENSORFLOW),
    *_numbered(
        "efficientnet_lite#", "efficientnet_pytorch", "efficientnet-lite#", range(5), TENSORFLOW
    ),
    Twin(
        "googlenet_bn",
        "torchvision",
        "googlenet",
        {"aux_logits": True},
        "Its auxiliary heads are left out unless ours has them.",
        {"init_weights": False},
    ),
    *_close(
        "Their convolutions have biases, which our norms take in; export writes zeros.",
        (
            Twin("bn_inception", "cadene", "bninception"),
            Twin("bn_inception", "pytorchcv", "bninception"),
        ),
    ),
    *_close(
        "Their MLPs are linear layers, ours convolutions.",
        _numbered("mixer_#", "timm", "mixer_#_224", ("s32", "s16", "b32", "b16", "l32", "l16")),
    ),
    Twin("mobilenet_v1", "timm", "mobilenetv1_100", {"activation": "relu6"}),
    Twin("mobilenet_v1", "timm", "mobilenetv1_125", {"activation": "relu6", "width": 1.25}),
    *_close(
        FIXED_KERNEL,
        (
            Twin("mobilenet_v1", "pytorchcv", "mobilenet_w1"),
            Twin("mobilenet_v1", "pytorchcv", "mobilenet_w3d4", {"width": 0.75}),
            Twin("mobilenet_v1", "pytorchcv", "mobilenet_wd2", {"width": 0.5}),
            Twin("mobilenet_v1", "pytorchcv", "mobilenet_wd4", {"width": 0.25}),
        ),
    ),
    *_numbered("resnet#", "torchvision", "resnet#", DEPTHS),
    *_numbered("resnet#", "timm", "resnet#", DEPTHS),
    *_close(
        FIXED_KERNEL,
        (
            *_numbered("resnet#", "pytorchcv", "resnet#", (18, 34)),
            *_numbered("resnet#", "pytorchcv", "resnet#", BOTTLENECKS, PAPER_STRIDE),
            *_numbered("resnet#", "pytorchcv", "resnet#b", BOTTLENECKS),
            *_small("resnet#_cifar", "resnet#", (20, 56, 110, 1202), OPTION_B),
        ),
    ),
    *_numbered("se_resnet#", "timm", "legacy_seresnet#", BOTTLENECKS),
    *_numbered("se_resnet#", "timm", "seresnet#", BOTTLENECKS, NO_PAPER_STRIDE),
    *_numbered("se_resnext#_32x4d", "timm", "legacy_seresnext#_32x4d", (50, 101)),
    *_numbered("se_resnext#_32x4d", "timm", "seresnext#_32x4d", (50, 101), PADDED_POOL),
    *_close(
        FIXED_KERNEL,
        (
            *_numbered("se_resnet#", "cadene", "se_resnet#", BOTTLENECKS),
            *_numbered("se_resnext#_32x4d", "cadene", "se_resnext#_32x4d", (50, 101)),
            *_numbered("se_resnet#", "pytorchcv", "seresnet#", DEPTHS, PADDED_POOL),
            *_numbered("se_resnet#", "pytorchcv", "seresnet#b", BOTTLENECKS, NO_PAPER_STRIDE),
            *_numbered(
                "se_resnext#_32x4d", "pytorchcv", "seresnext#_32x4d", (50, 101), PADDED_POOL
            ),
            *_small("se_resnet#_cifar", "seresnet#", [110], OPTION_B),
        ),
    ),
    Twin("senet154", "timm", "legacy_senet154"),
    Twin("senet154", "timm", "senet154", PADDED_POOL),
    *_close(
        FIXED_KERNEL,
        (
            Twin("senet154", "cadene", "senet154"),
            Twin("senet154", "pytorchcv", "senet154", PADDED_POOL),
        ),
    ),
    *_numbered("vgg#", "torchvision", "vgg#", VGGS),
    *_numbered("vgg#_bn", "torchvision", "vgg#_bn", VGGS),
    *_close(
        "Their hidden layers are convolutions.",
        (
            *_numbered("vgg#", "timm", "vgg#", VGGS),
            *_numbered("vgg#_bn", "timm", "vgg#_bn", VGGS),
        ),
    ),
    *_numbered("vgg#", "pytorchcv", "vgg#", VGGS),
    *_numbered("vgg#_bn", "pytorchcv", "bn_vgg#b", VGGS),
)
"""Families in the order of the docs; a row a network of theirs."""


def twins(builder: str | None = None, library: str | None = None) -> list[Twin]:
    """Rows of one of our builders, of one library, of both or all."""
    return [t for t in TWINS if builder in (None, t.builder) and library in (None, t.library)]
