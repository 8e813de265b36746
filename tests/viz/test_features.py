"""Tests for feature maps and filters."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import cnnarch
from cnnarch import viz
from cnnarch.training import load_data


def drawn(axes: Any) -> Any:
    return np.asarray(axes.images[0].get_array())


def titles(figure: Any) -> list[str]:
    """Return the cells' titles, whether centered or left-aligned."""
    both = [axes.get_title() or axes.get_title(loc="left") for axes in figure.axes]
    return [title for title in both if title]


@pytest.mark.parametrize("layer", ["C3", "stages.1"])
def test_maps_are_the_layers_output(layer: str) -> None:
    model = cnnarch.lenet5().eval()
    x = torch.randn(1, 32, 32)
    figure = viz.feature_maps(model, x, [layer], columns=4)
    with torch.no_grad():
        expected = model.forward_stages(x[None], [2])[0][0]  # row 0 is the stem
    for axes, channel in zip(figure.axes[1:], expected, strict=False):
        np.testing.assert_allclose(drawn(axes), channel, atol=1e-6)
    assert titles(figure) == ["input", "C3: 16 x 10 x 10"]


def test_all_stages_are_shown_by_default() -> None:
    figure = viz.feature_maps(cnnarch.resnet18(small_images=True), torch.randn(3, 32, 32))
    assert [t.split(":")[0] for t in titles(figure)[1:]] == [
        "conv1",
        *(f"conv{i}_x" for i in range(2, 6)),
    ]


def test_a_single_layer_must_be_passed_in_a_list() -> None:
    with pytest.raises(TypeError, match=r"layers must be a list such as \['conv4_x'\]"):
        viz.feature_maps(cnnarch.resnet18(), torch.rand(3, 64, 64), "conv4_x")


def test_a_network_without_stages_requires_layers() -> None:
    with pytest.raises(ValueError, match="Sequential has no stages: specify the layers"):
        viz.feature_maps(nn.Sequential(nn.Conv2d(3, 1, 3)), torch.randn(1, 3, 8, 8))


def test_a_layer_with_one_map_is_drawn() -> None:
    model = nn.Sequential(nn.Conv2d(3, 1, 3), nn.ReLU())
    figure = viz.feature_maps(model, torch.randn(1, 3, 8, 8), ["0"])
    assert len([a for a in figure.axes if a.images]) == 2
    figure.canvas.draw()


def test_single_pixel_maps_share_a_range() -> None:
    """If each map were scaled by its own range, all of them would be black."""
    figure = viz.feature_maps(cnnarch.lenet5(), torch.randn(1, 32, 32), ["stages.3"])
    images = [axes.images[0] for axes in figure.axes[1:] if axes.images]
    assert len({image.get_clim() for image in images}) == 1
    assert images[0].get_clim()[0] < images[0].get_clim()[1]


def test_a_data_set_is_accepted() -> None:
    data = load_data("digits", image_resolution=32)
    figure = viz.feature_maps(cnnarch.lenet5(), data.test, ["stem"])
    expected = data.test.pixels[torch.tensor([0])]
    assert drawn(figure.axes[0]).shape == (32, 32)
    assert expected.shape == (1, 1, 8, 8)


def test_an_unknown_layer_is_reported_with_suggestions() -> None:
    message = r"no layer 'stages\.9'; did you mean 'stages.*\(stages: C1, S2, C3, S4, C5\)"
    with pytest.raises(ValueError, match=message):
        viz.feature_maps(cnnarch.lenet5(), torch.randn(1, 32, 32), ["stages.9"])
    with pytest.raises(ValueError, match="no layer 'zzz'; available: C1, S2, C3, S4, C5"):
        viz.feature_maps(cnnarch.lenet5(), torch.randn(1, 32, 32), ["zzz"])


def test_a_layer_without_maps_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"'head\.flatten' returns no maps"):
        viz.feature_maps(cnnarch.lenet5(), torch.randn(1, 32, 32), ["head.flatten"])


def test_more_than_one_image_is_rejected() -> None:
    with pytest.raises(ValueError, match="expected one image, got 2"):
        viz.feature_maps(cnnarch.lenet5(), torch.randn(2, 1, 32, 32))


@pytest.mark.parametrize("layers", [["stem"], ["unknown"]])
def test_mode_and_hooks_are_restored(layers: list[str]) -> None:
    """The mode and hooks are also restored after an error."""
    model = cnnarch.lenet5().train()
    model.head.eval()
    try:
        viz.feature_maps(model, torch.randn(1, 32, 32), layers)
    except ValueError:
        assert layers == ["unknown"]
    assert model.training
    assert not model.head.training
    assert not any(m._forward_hooks for m in model.modules())


def test_filters_over_three_channels_are_shown_in_color() -> None:
    model = cnnarch.resnet18()
    figure = viz.filters(model, rows=2, columns=4)
    pictures = [drawn(axes) for axes in figure.axes if axes.images]
    assert len(pictures) == 8
    weight = model.get_submodule("stem.conv").weight.detach()[0]
    expected = (weight / weight.abs().max() + 1) / 2
    np.testing.assert_allclose(pictures[0], expected.permute(1, 2, 0), atol=1e-6)
    assert figure.get_suptitle() == "stem.conv: 8 of 64 filters, 3 x 7 x 7"


def test_zero_is_gray_in_filters() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3))
    nn.init.zeros_(model[0].weight)
    for axes in viz.filters(model).axes:
        assert (drawn(axes) == 0.5).all()


@pytest.mark.parametrize(
    ("model", "layer", "message"),
    [
        (nn.Linear(2, 2), None, "Linear has no convolutional layers"),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), "1", "'1' is ReLU, not a convolution"),
        (nn.Sequential(nn.Conv2d(1, 1, 1)), "conv", "no layer 'conv'"),
    ],
)
def test_layers_other_than_convolutions_are_rejected(
    model: nn.Module, layer: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        viz.filters(model, layer)


@pytest.mark.parametrize("channels", [3, 8])
def test_1x1_filters_are_drawn(channels: int) -> None:
    model = nn.Sequential(nn.Conv2d(channels, 2, 1))
    viz.filters(model).canvas.draw()
