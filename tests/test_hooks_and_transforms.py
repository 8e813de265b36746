"""Attribution sees networks that compute in plain lines; `cnnarch.testing` checks hooks."""

import copy
import warnings

import pytest
import torch
from captum.attr import DeepLift
from torch import Tensor, nn

import cnnarch
from cnnarch.blocks import LRN, RBF, SE
from cnnarch.testing import calibrate, example_images

NO_RULE = (LRN, SE, RBF, nn.LayerNorm, nn.GELU, nn.SiLU, nn.ReLU6)
"""Layers for which DeepLift has no rule: it knows activations such as ReLU, Sigmoid and Tanh,
Softmax and max-pools, takes the rest for linear, and no product or square of maps is that."""


def without_a_rule(model: nn.Module) -> set[str]:
    """Types of the layers whose share DeepLift cannot give."""
    return {type(m).__name__ for m in model.modules() if isinstance(m, NO_RULE)}


def average_max_pools(model: nn.Module) -> None:
    """Captum's rule for max-pools does not add up beside other activations; see the last test."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.MaxPool2d):
                geometry = (child.kernel_size, child.stride, child.padding, child.ceil_mode)
                setattr(parent, name, nn.AvgPool2d(*geometry))
            elif isinstance(child, nn.ConstantPad2d):  # with minus infinity, before a max-pool
                child.value = 0.0


@pytest.fixture
def twin(model: cnnarch.ImageClassifier) -> cnnarch.ImageClassifier:
    """The network in eval mode, for the test alone."""
    return copy.deepcopy(model)


def deeplift(model: nn.Module, images: Tensor, baseline: Tensor) -> tuple[Tensor, Tensor]:
    """What each pixel adds to the first logit, and how far that is from the baseline's."""
    with warnings.catch_warnings():  # it says that it sets hooks
        warnings.simplefilter("ignore")
        shares = DeepLift(model).attribute(images, baseline, 0)
    return shares.detach(), (model(images) - model(baseline))[:, 0].detach().sum()


def is_whole(shares: Tensor, difference: Tensor) -> bool:
    return bool((shares.sum() - difference).abs() < 1e-6 * shares.abs().sum())


def test_deeplift_runs(twin: cnnarch.ImageClassifier) -> None:
    images = example_images(twin, 1)
    shares, _ = deeplift(twin, images, torch.zeros_like(images))
    assert shares.shape == images.shape
    assert shares.isfinite().all()
    assert shares.any()


def test_deeplift_explains_the_whole_difference_where_it_has_rules(
    twin: cnnarch.ImageClassifier,
) -> None:
    """In float64, as deep networks add up the rounding of single precision."""
    average_max_pools(twin.double())
    calibrate(twin, example_images(twin, 8).double())  # averages are smaller than maxima
    images = example_images(twin, 1).double()
    found = deeplift(twin, images, torch.randn_like(images))
    assert without_a_rule(twin) or is_whole(*found)


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
        ("efficientnet_b0", {"SE", "SiLU"}),
        ("efficientnet_lite0", {"ReLU6"}),
        ("mixer_s32", {"GELU", "LayerNorm", "LayerNorm2d"}),
    ],
)
def test_deeplift_has_rules_for_all_layers_but_these(name: str, expected: set[str]) -> None:
    with torch.device("meta"):
        assert without_a_rule(cnnarch.get_model(name)) == expected


@pytest.mark.parametrize(("pool", "whole"), [(nn.AvgPool2d(2), True), (nn.MaxPool2d(2), False)])
def test_captums_rule_for_max_pools_does_not_add_up(pool: nn.Module, whole: bool) -> None:
    """Without any layer of ours. With a Captum that passes, the networks keep their max-pools."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), pool, nn.ReLU(), nn.Flatten(), nn.Linear(196, 2))
    images, baseline = torch.randn(2, 1, 3, 16, 16, dtype=torch.float64)
    assert is_whole(*deeplift(model.double(), images, baseline)) is whole


def test_facts_of_a_network_run_no_hook_and_no_replaced_forward() -> None:
    model, called = cnnarch.resnet20_cifar(), list[str]()
    model.stages[-1].register_forward_hook(lambda *_: called.append("hook"))
    norm = model.stem.norm
    plain = norm.forward

    def replaced(x: Tensor) -> Tensor:
        called.append("forward")
        return plain(x)

    norm.forward = replaced  # type: ignore[method-assign]
    assert model.feature_info[-1] == ("8x8", 64, 4)
    assert called == []
    model(torch.zeros(2, 3, 32, 32))
    assert called == ["forward", "hook"]
