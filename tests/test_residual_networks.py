"""Stochastic depth and zero initialization, options of every network of residual branches."""

import inspect
from collections.abc import Iterator

import pytest
import timm
import torch
import torchvision
from timm.layers import DropPath
from torch import nn

import cnnarch
from cnnarch import ImageClassifier
from cnnarch.blocks import Residual, StochasticDepth
from cnnarch.contract.residual import ResidualNetwork
from cnnarch.models.resnet import PlainBlock, ResNet
from tests.small_forms import Build, small_forms

FORMS = {
    name: build
    for name, build in small_forms().items()
    if "zero_init_residual" in inspect.signature(build).parameters and "plain" not in name
}
every_form = pytest.mark.parametrize("build", FORMS.values(), ids=FORMS)
TINY = ((1, 2, 1, 1), (4, 4, 8, 8))


def blocks(model: ImageClassifier) -> Iterator[nn.Module]:
    return (module for module in model.stages.modules() if hasattr(module, "branch"))


def rates(model: nn.Module) -> list[float]:
    return [m.rate for m in model.modules() if isinstance(m, StochasticDepth)]


def test_every_residual_network_has_both_options() -> None:
    for name in cnnarch.list_models():
        network = cnnarch.get_model_builder(name).__annotations__["return"]
        if issubclass(network, ResidualNetwork) and "plain" not in name:
            assert {"drop_path", "zero_init_residual"} <= {*inspect.signature(network).parameters}


@every_form
def test_drop_path_ends_every_branch_but_the_first_and_adds_no_tensors(build: Build) -> None:
    with torch.device("meta"):
        usual, model = build(), build(drop_path=0.5)
    first, *others = blocks(model)
    assert not rates(first)
    assert [[*block.branch][-1].rate for block in others] == rates(model)
    assert rates(model)[-1] == 0.5
    assert not rates(usual)
    assert model.state_dict().keys() == usual.state_dict().keys()


def test_the_rate_increases_linearly_from_0_in_the_first_block() -> None:
    assert rates(ResNet(Residual, *TINY, drop_path=0.4)) == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "wide_resnet50_2"])
def test_the_rates_match_timm(name: str) -> None:
    with torch.device("meta"):
        ours = cnnarch.get_model(name, drop_path=0.3)
        theirs = timm.create_model(name, drop_path_rate=0.3)
    expected = [m.drop_prob for m in theirs.modules() if isinstance(m, DropPath)]
    assert rates(ours) == pytest.approx(expected)


def test_an_image_whose_branch_is_dropped_gets_the_shortcut() -> None:
    block = [*blocks(ResNet(Residual, (1, 1, 1, 2), TINY[1], drop_path=0.5))][-1].train()
    x = torch.rand(64, 8, 2, 2)
    dropped = (block(x) == x).flatten(1).all(1)  # the identity of a map without negative values
    assert 8 < dropped.sum() < 56
    assert not (block.eval()(x) == x).flatten(1).all(1).any()


@every_form
def test_zero_init_residual_makes_every_branch_return_zero(build: Build) -> None:
    """Also with SE or CBAM at the end of the branch, and in pre-activation blocks."""
    model, outputs = build(zero_init_residual=True).train(), []
    for block in blocks(model):
        block.branch.register_forward_hook(lambda _module, _inputs, y: outputs.append(y))
    model(torch.randn(2, model.in_channels, 32, 32))
    assert len(outputs) == len([*blocks(model)])
    assert not any(y.any() for y in outputs)


def test_zero_init_residual_zeroes_the_same_norms_as_torchvision() -> None:
    for name in ("resnet18", "resnet50"):
        ours = cnnarch.get_model(name, zero_init_residual=True)
        theirs = torchvision.models.get_model(name, zero_init_residual=True)
        zeros = [
            [not m.weight.any() for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
            for model in (ours, theirs)
        ]
        assert zeros[0] == zeros[1]


def test_a_network_with_zero_branches_learns_their_weights() -> None:
    model = ResNet(Residual, *TINY, num_classes=2, zero_init_residual=True)
    model(torch.randn(4, 3, 32, 32)).logsumexp(1).sum().backward()
    for block in blocks(model):
        assert block.branch.conv2.norm.weight.grad.any()


def test_blocks_without_a_branch_are_refused() -> None:
    for option, value in (("drop_path", 0.1), ("zero_init_residual", True)):
        with pytest.raises(ValueError, match=f"{option} requires blocks with a residual branch"):
            ResNet(PlainBlock, *TINY, **{option: value})
        with pytest.raises(ValueError, match="got PlainBlock"):
            cnnarch.plain18(**{option: value})
