"""ConvNet against manual calculations and a functional reimplementation."""

import pytest
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, batch_norm, conv2d, linear, max_pool2d

import cnnarch
from cnnarch.models.convnet import ConvNet
from cnnarch.testing import assert_close, assert_parameters
from tests.oracles.in_order import randomize_norms

SMALL_FORMS = {"convnet": ConvNet}


def test_the_parameter_count_matches_a_manual_calculation() -> None:
    first, second = 25 * 16 + 16 + 2 * 16, 25 * 16 * 32 + 32 + 2 * 32  # convolution, bias, norm
    assert_parameters(cnnarch.convnet(), first + second + 32 * 7 * 7 * 10 + 10)


@pytest.mark.parametrize("size", [(28, 28), (4, 4), (5, 31), (64, 64)], ids=str)
def test_it_matches_two_convolutions_and_a_linear_layer_at_any_size(size: tuple[int, int]) -> None:
    model = cnnarch.convnet(in_channels=3)
    for conv in (model.stem.conv, model.stages[1][0].conv):
        nn.init.normal_(conv.bias)
    x = torch.randn(4, 3, *size)
    randomize_norms(model, x)
    tensors = {name.rpartition(".")[0]: None for name in model.state_dict()}
    first, norm1, second, norm2, last = (model.get_submodule(path) for path in tensors)
    y = x
    for conv, norm in ((first, norm1), (second, norm2)):
        y = conv2d(y, conv.weight, conv.bias, padding=2)
        y = batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-5)
        y = max_pool2d(y.relu(), 2)
    y = linear(adaptive_avg_pool2d(y, 7).flatten(1), last.weight, last.bias)
    with torch.no_grad():
        assert_close(model(x), y)


def test_an_export_with_dynamic_height_and_width_accepts_28_pixels() -> None:
    """The average pool has no effect at 28 pixels. Exports must accept this size."""
    model = cnnarch.convnet().eval()
    free = torch.export.Dim.DYNAMIC
    shapes = ({0: free, 2: free, 3: free},)
    example = torch.randn(2, 1, 64, 71)
    program = torch.export.export(model, (example,), dynamic_shapes=shapes).module()
    for size in ((28, 28), (41, 50)):
        x = torch.randn(3, 1, *size)
        with torch.no_grad():
            assert_close(program(x), model(x))


def test_a_side_of_three_pixels_is_too_small() -> None:
    with pytest.raises(ValueError, match="at least 4x4 pixels, got 4x3"):
        cnnarch.convnet()(torch.zeros(1, 1, 4, 3))


def test_feature_info_and_num_features() -> None:
    model = cnnarch.convnet()
    assert [tuple(row) for row in model.feature_info] == [
        ("conv1", 16, 1),
        ("stage1", 16, 2),
        ("stage2", 32, 4),
    ]
    assert model.num_features == 7 * 7 * 32
