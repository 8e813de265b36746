"""Captum's attribution works on the networks. The checks for hooks are in `cnnarch.testing`."""

import copy
import warnings

import pytest
import torch
from captum.attr import DeepLift
from torch import Tensor, nn

import cnnarch
from cnnarch.blocks import ECA, LRN, RBF, SE, ChannelAttention, KernelAttention, SpatialAttention
from cnnarch.testing import calibrate, example_images

NO_RULE = (
    *(LRN, SE, ECA, ChannelAttention, SpatialAttention, KernelAttention, RBF),
    *(nn.LayerNorm, nn.GroupNorm, nn.GELU, nn.SiLU, nn.ReLU6),
)
"""Layers without a DeepLift rule.

DeepLift has rules for activations such as ReLU, Sigmoid and Tanh, for Softmax and for max pooling.
It treats all other layers as linear, which is wrong for products and squares of maps.
"""


def without_a_rule(model: nn.Module) -> set[str]:
    """Return the types of the layers that DeepLift cannot attribute."""
    return {type(m).__name__ for m in model.modules() if isinstance(m, NO_RULE)}


def replace_max_pools(model: nn.Module) -> None:
    """Replace max pooling with average pooling.

    With Captum's rule for max pooling, contributions do not sum to the logit difference. See
    `test_captums_rule_for_max_pooling_is_incomplete`.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.MaxPool2d):
                geometry = (child.kernel_size, child.stride, child.padding, child.ceil_mode)
                setattr(parent, name, nn.AvgPool2d(*geometry))
            elif isinstance(child, nn.ConstantPad2d):  # pads with -inf before max pooling
                child.value = 0.0


@pytest.fixture
def copied(model: cnnarch.ImageClassifier) -> cnnarch.ImageClassifier:
    """A copy of the network in eval mode that a test may change."""
    return copy.deepcopy(model)


def deeplift(model: nn.Module, images: Tensor, baseline: Tensor) -> tuple[Tensor, Tensor]:
    """Return each pixel's contribution, and the logit's difference from the baseline.

    The logit is the largest one: in networks whose logits follow a ReLU, others may be zero.
    """
    target = int(model(images)[0].argmax())
    with warnings.catch_warnings():  # DeepLift warns that it registers hooks
        warnings.simplefilter("ignore")
        contributions = DeepLift(model).attribute(images, baseline, target)
    return contributions.detach(), (model(images) - model(baseline))[:, target].detach().sum()


def is_complete(contributions: Tensor, difference: Tensor) -> bool:
    return bool((contributions.sum() - difference).abs() < 1e-6 * contributions.abs().sum())


def test_deeplift_runs(copied: cnnarch.ImageClassifier) -> None:
    images = example_images(copied, 1)
    for norm in (m for m in copied.modules() if isinstance(m, nn.GroupNorm)):
        nn.init.normal_(norm.bias)  # or the baseline would be constant, and its gradients infinite
    contributions, _ = deeplift(copied, images, torch.zeros_like(images))
    assert contributions.shape == images.shape
    assert contributions.isfinite().all()
    assert contributions.any()


def test_deeplift_contributions_sum_to_the_difference_of_the_logits(
    copied: cnnarch.ImageClassifier,
) -> None:
    """The test uses float64 because float32 rounding errors accumulate in deep networks."""
    replace_max_pools(copied.double())
    calibrate(copied, example_images(copied, 8).double())  # averages are smaller than maxima
    images = example_images(copied, 1).double()
    found = deeplift(copied, images, torch.randn_like(images))
    assert without_a_rule(copied) or is_complete(*found)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lenet5", set()),
        ("lenet5_bn", set()),
        ("lenet5_1998", {"RBF"}),
        ("convnet", set()),
        ("alexnet_owt", set()),
        ("alexnet", {"LRN"}),
        ("vgg11", set()),
        ("nin_cifar", set()),
        ("googlenet_bn", set()),
        ("googlenet", {"LRN"}),
        ("bn_inception", set()),
        ("mobilenet_v1", set()),
        ("resnet18", set()),
        ("resnet20_cifar", set()),
        ("densenet121", set()),
        ("densenet_bc_40_12_cifar", set()),
        ("se_resnet110_cifar", {"SE"}),
        ("cbam_resnet18", {"ChannelAttention", "SpatialAttention"}),
        ("efficientnet_b0", {"SE", "SiLU"}),
        ("efficientnet_lite0", {"ReLU6"}),
        ("xception", set()),
        ("resnetv2_50x1_bit", {"GroupNorm"}),
        ("darknet53", set()),
        ("mixer_s32", {"GELU", "LayerNorm", "LayerNorm2d"}),
    ],
)
def test_deeplift_has_no_rule_for_these_layers(name: str, expected: set[str]) -> None:
    with torch.device("meta"):
        assert without_a_rule(cnnarch.get_model(name)) == expected


@pytest.mark.parametrize(("pool", "complete"), [(nn.AvgPool2d(2), True), (nn.MaxPool2d(2), False)])
def test_captums_rule_for_max_pooling_is_incomplete(pool: nn.Module, complete: bool) -> None:
    """The model uses no cnnarch layer. If this test fails, remove `replace_max_pools`."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), pool, nn.ReLU(), nn.Flatten(), nn.Linear(196, 2))
    images, baseline = torch.randn(2, 1, 3, 16, 16, dtype=torch.float64)
    assert is_complete(*deeplift(model.double(), images, baseline)) is complete


def test_feature_info_calls_neither_hooks_nor_replaced_forwards() -> None:
    model, called = cnnarch.resnet20_cifar(), list[str]()
    model.stages[-1].register_forward_hook(lambda *_: called.append("hook"))
    norm = model.stem.norm
    original = norm.forward

    def replaced(x: Tensor) -> Tensor:
        called.append("forward")
        return original(x)

    norm.forward = replaced  # type: ignore[method-assign]
    assert model.feature_info[-1] == ("8x8", 64, 4)
    assert called == []
    model(torch.zeros(2, 3, 32, 32))
    assert called == ["forward", "hook"]
