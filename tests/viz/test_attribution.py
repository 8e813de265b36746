"""Tests for Grad-CAM and integrated gradients."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch import viz


class Corner(nn.Module):
    """Class 0 is the brightness of the upper-left quarter, and class 1 that of the lower-right."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.maps.weight)
        self.cam_layer = "maps"

    def forward(self, x: Tensor) -> Tensor:
        x = self.maps(x)
        return torch.stack([x[:, 0, :4, :4].sum((1, 2)), x[:, 0, 4:, 4:].sum((1, 2))], 1)


def heat(figure: Any, image: int = 0) -> Any:
    count = len(figure.axes) // 2
    return np.asarray(figure.axes[count + image].images[1].get_array())


def test_integrated_gradients_are_large_where_pixels_affect_the_class() -> None:
    image = torch.ones(1, 1, 8, 8)
    for target, (inside, outside) in enumerate([((1, 1), (6, 6)), ((6, 6), (1, 1))]):
        found = heat(viz.integrated_gradients(Corner(), image, [target]))
        assert found[inside] == pytest.approx(1)
        assert found[outside] == pytest.approx(0)


def test_grad_cam_is_the_weighted_sum_of_the_maps() -> None:
    """The formula: ReLU of the sum of the maps, each weighted by the mean of its gradient."""
    torch.manual_seed(0)
    model = cnnarch.resnet20_cifar(num_classes=5).eval()
    x = torch.randn(2, 3, 32, 32)
    figure = viz.gradcam(model, x, [3, 1])
    maps = model.forward_features(x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.forward_head(maps)[[0, 1], [3, 1]].sum(), maps)
    weighted = (gradient.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu().detach()
    large = nn.functional.interpolate(weighted, (32, 32), mode="bilinear")[:, 0]
    for i, expected in enumerate(large):
        low, high = expected.min(), expected.max()
        np.testing.assert_allclose(heat(figure, i), (expected - low) / (high - low), atol=1e-4)
    assert figure.get_suptitle() == "Grad-CAM at 8x8"


def test_the_predicted_class_is_the_default_target() -> None:
    bright = torch.zeros(1, 1, 8, 8)
    bright[:, :, 4:, 4:] = 1
    figure = viz.integrated_gradients(Corner(), bright, classes=["up", "down"])
    assert figure.axes[0].get_title() == "down"


def test_an_earlier_stage_is_used_if_the_last_map_is_one_pixel() -> None:
    """LeNet-5's C5 is 1x1 at 32 pixels; S4 before it is 5x5."""
    figure = viz.gradcam(cnnarch.lenet5(), torch.randn(1, 1, 32, 32))
    assert figure.get_suptitle() == "Grad-CAM at S4"


@pytest.mark.parametrize("layer", ["C5", "stages.3"])
def test_a_named_layer_with_single_pixel_maps_is_rejected(layer: str) -> None:
    with pytest.raises(ValueError, match="the maps of 'C5' are single pixels"):
        viz.gradcam(cnnarch.lenet5(), torch.randn(1, 1, 32, 32), layer=layer)


@pytest.mark.parametrize(
    ("layer", "title"),
    [("conv4_x", "conv4_x"), ("stages.2", "conv4_x"), ("stages.2.0", "stages.2.0")],
)
def test_a_layer_is_given_by_stage_name_or_module_path(layer: str, title: str) -> None:
    model = cnnarch.resnet18(small_images=True, num_classes=3)
    figure = viz.gradcam(model, torch.randn(1, 3, 32, 32), layer=layer)
    assert figure.get_suptitle() == f"Grad-CAM at {title}"


@pytest.mark.parametrize("picture", [viz.gradcam, viz.integrated_gradients])
def test_mode_and_gradients_do_not_change(picture: Any) -> None:
    model = cnnarch.resnet20_cifar(num_classes=5).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    picture(model, torch.randn(2, 3, 32, 32))
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_invalid_arguments_are_rejected() -> None:
    x = torch.randn(2, 3, 32, 32)
    model = cnnarch.resnet20_cifar()
    with pytest.raises(ValueError, match="no layer 'conv9'"):
        viz.gradcam(model, x, layer="conv9")
    with pytest.raises(ValueError, match="expected 2 targets, got 1"):
        viz.gradcam(model, x, [0])
    with pytest.raises(ValueError, match="Flatten has no cam_layer"):
        viz.gradcam(nn.Flatten(), x)


def test_grad_cam_works_on_every_network(model: cnnarch.ImageClassifier) -> None:
    side = model.min_input_size if model.fixed_input_size else max(64, model.min_input_size)
    figure = viz.gradcam(model, torch.randn(1, model.in_channels, side, side), [0])
    assert np.isfinite(heat(figure)).all()
    assert heat(figure).shape == (side, side)
