"""Hooks, torch.func, tracing and attribution see networks that compute in plain lines."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from captum.attr import DeepLift
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import cnnarch
from cnnarch.blocks import LRN, RBF, SE
from cnnarch.testing import assert_close, example_images

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


def smaller(model: cnnarch.ImageClassifier) -> int:
    return model.min_input_size if model.fixed_input_size else max(model.min_input_size, 32)


@pytest.fixture
def twin(model: cnnarch.ImageClassifier) -> cnnarch.ImageClassifier:
    """The network in eval mode, for the test alone."""
    return copy.deepcopy(model)


def as_it_was(kept: dict[str, tuple[Tensor, Tensor]]) -> list[str]:
    """Names of the maps that a later layer has written over."""
    return [name for name, (seen, copied) in kept.items() if not torch.equal(seen, copied)]


@pytest.mark.parametrize("gradients", [False, True])
def test_what_a_hook_keeps_is_not_written_over(
    twin: cnnarch.ImageClassifier, gradients: bool
) -> None:
    kept: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _, __, y: kept.update({name: (y.detach(), y.detach().clone())})

    for name, module in twin.named_modules():
        if not isinstance(module, nn.ModuleList):
            module.register_forward_hook(keep(name))
    with torch.set_grad_enabled(gradients):
        twin(example_images(twin, 1, smaller(twin)))
    assert kept
    assert as_it_was(kept) == []


@pytest.mark.parametrize("gradients", [False, True])
def test_what_a_replaced_forward_keeps_is_not_written_over(
    twin: cnnarch.ImageClassifier, gradients: bool
) -> None:
    kept: dict[str, tuple[Tensor, Tensor]] = {}

    def keeping(name: str, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def replaced(*inputs: Tensor) -> Tensor:
            y = forward(*inputs)
            kept[name] = y.detach(), y.detach().clone()
            return y

        return replaced

    images = example_images(twin, 1, smaller(twin))
    with torch.set_grad_enabled(gradients):
        expected = twin(images)
        for name, module in twin.named_modules():
            if name and not isinstance(module, nn.ModuleList):
                module.forward = keeping(name, module.forward)  # type: ignore[method-assign]
        found = twin(images)
    assert torch.equal(found, expected)
    assert kept
    assert as_it_was(kept) == []


# Averages of a map that has channels last in memory, as the Mixer's, are correct all the same.
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_gradients_of_samples_by_vmap_are_those_one_by_one(
    twin: cnnarch.ImageClassifier,
) -> None:
    twin = twin.double()  # deep networks add up the rounding of single precision
    images = example_images(twin, 2, smaller(twin)).double()
    weights = {name: p.detach() for name, p in twin.named_parameters()}

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        logits: Tensor = functional_call(twin, weights, (image[None],))
        return logits.square().mean()

    together = vmap(grad(loss), in_dims=(None, 0))(weights, images)
    for i, image in enumerate(images):
        twin.zero_grad()
        twin(image[None]).square().mean().backward()
        alone = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
        assert alone.keys() == together.keys()
        rounding = 1e-12 * max(g.abs().max() for g in alone.values())  # where it should be 0
        for name, expected in alone.items():
            difference = (together[name][i] - expected).abs().max()
            assert difference <= 1e-5 * expected.abs().max() + rounding, name


def test_a_trace_with_gradients_gives_the_same_logits(twin: cnnarch.ImageClassifier) -> None:
    images = example_images(twin, 2, smaller(twin))
    with warnings.catch_warnings():  # sizes become constants, and the tracer is deprecated
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(twin, images)
    other = torch.randn_like(images)
    assert_close(traced(other), twin(other), 1e-6)


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
