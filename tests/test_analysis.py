"""Check counts and shapes against manual calculations and PyTorch's FLOP counter."""

import copy
import sys
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import cnnarch
from cnnarch import ImageClassifier
from cnnarch.analysis import count_macs, count_parameters, stage_shapes, summary
from cnnarch.testing import example_images


def test_macs_of_a_grouped_convolution_count_only_the_channels_in_a_group() -> None:
    # 8 output channels of 5x5 pixels, each pixel a sum over 2 channels of 3x3.
    layer = nn.Conv2d(4, 8, 3, groups=2, bias=True)
    assert count_macs(layer, (4, 7, 7)) == 8 * 5 * 5 * 2 * 9


@pytest.mark.parametrize(
    ("layer", "size", "expected"),
    [
        # Each of 64 x 28 x 28 input values is multiplied by 32 kernels of 2x2.
        (nn.ConvTranspose2d(64, 32, 2, 2), (64, 28, 28), 64 * 28 * 28 * 32 * 4),
        (nn.ConvTranspose2d(8, 8, 3, groups=4), (8, 5, 5), 8 * 25 * 2 * 9),
        (nn.Conv1d(4, 6, 3), (4, 10), 6 * 8 * 4 * 3),
        (nn.ConvTranspose1d(4, 6, 3), (4, 10), 4 * 10 * 6 * 3),
        (nn.Conv3d(2, 3, 2), (2, 4, 5, 6), 3 * 3 * 4 * 5 * 2 * 8),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_macs_of_every_kind_of_convolution(
    layer: nn.Module, size: tuple[int, ...], expected: int
) -> None:
    assert count_macs(layer, size) == expected


def test_layers_whose_macs_are_unknown_are_named() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.scale = nn.Linear(4, 4), nn.Bilinear(4, 4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.linear(x)
            return self.scale(x, x)

    for count in (count_macs, summary):
        with pytest.warns(UserWarning, match=r"not counted: Bilinear \(scale\)"):
            count(Mixed(), (4,))


def test_factors_of_channels_raise_no_warning() -> None:
    """Like norms, they are not counted."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factors = nn.Parameter(torch.ones(3, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.factors * x

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert count_macs(nn.Sequential(nn.Conv2d(3, 3, 1), Scaled()), (3, 2, 2)) == 3 * 3 * 4


def test_frozen_parameters_are_not_counted() -> None:
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    assert count_parameters(layer) == 6


def test_macs_are_half_of_pytorchs_flops(model: ImageClassifier) -> None:
    """PyTorch counts multiplications and additions separately. It also counts pooling by matmul."""
    side = model.min_input_size if model.fixed_input_size else 224
    size = (model.in_channels, side, side)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(example_images(model, 1, side))
    assert counter.get_total_flops() / 2 == pytest.approx(count_macs(model, size), rel=0.01)


def test_counting_does_not_change_the_network(model: ImageClassifier) -> None:
    network = copy.deepcopy(model).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    images = example_images(network, 1)
    count_macs(network, tuple(images.shape[1:]))
    stage_shapes(network, tuple(images.shape[1:]))
    assert network.training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert not any(m._forward_hooks for m in network.modules())


def test_a_summary_row_contains_shape_parameters_and_macs() -> None:
    # conv1 of Table 1: 7x7, 64, stride 2 on 224 pixels.
    table = summary(cnnarch.resnet18())
    first = table.rows[0]
    assert first.shape == (64, 112, 112)
    assert first.params == 64 * 3 * 7 * 7
    assert first.macs == 64 * 3 * 7 * 7 * 112 * 112
    assert table.params == 11_689_512
    assert table.macs == 1_814_073_344
    assert sum(row.params for row in table.rows) == table.params
    text = str(table)
    assert "resnet18, input 3x224x224" in text
    assert "64x112x112" in text
    assert text.splitlines()[-1].split() == ["total", "11,689,512", "1,814,073,344"]


def test_a_network_without_a_card_needs_a_size() -> None:
    with pytest.raises(ValueError, match="Conv2d has no card"):
        count_macs(nn.Conv2d(1, 1, 1))


def test_counting_the_largest_resnet_takes_no_memory() -> None:
    resource = pytest.importorskip("resource")
    with torch.device("meta"):
        model = cnnarch.resnet152()
    count_macs(model)  # exclude imports on first use from the measurement
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count_macs(model, (3, 1024, 1024))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    unit = 1 if sys.platform == "darwin" else 1024
    assert grown * unit < 20 * 2**20  # the weights alone are 230 MiB


def test_subclasses_of_shape_preserving_layers_are_run() -> None:
    """CReLU (Shang et al., 2016) doubles the channels; the norm halves height and width."""

    class CReLU(nn.ReLU):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.cat([x, -x], 1))

    class Halving(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x[..., ::2, ::2])

    net = nn.Sequential(nn.Conv2d(3, 8, 3), CReLU(), nn.Conv2d(16, 4, 1))
    assert count_macs(net, (3, 10, 10)) == 64 * 8 * 27 + 64 * 4 * 16
    net = nn.Sequential(nn.Conv2d(3, 8, 3), Halving(8), nn.Conv2d(8, 4, 1))
    assert count_macs(net, (3, 10, 10)) == 64 * 8 * 27 + 16 * 4 * 8


def test_a_norm_with_the_wrong_number_of_channels_raises() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(16))
    with pytest.raises(RuntimeError, match="BatchNorm2d with 16 channels"):
        count_macs(net, (3, 10, 10))


class Reshaped(nn.Module):
    """Applies a linear layer to each pixel, with all pixels on the first axis."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return self.linear(x.permute(0, 2, 3, 1).reshape(-1, c)).view(n, h, w, 8)


class Keyword(nn.Module):
    """Passes the input of a transposed convolution by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 8, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(input=x, output_size=None)


class Bypassed(nn.Module):
    """Uses a layer's weight without calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.conv.weight)


def test_macs_do_not_depend_on_the_axis_of_the_images() -> None:
    assert count_macs(Reshaped(), (8, 4, 4)) == 4 * 4 * 8 * 8


def test_macs_of_a_layer_called_with_keywords() -> None:
    assert count_macs(Keyword(), (3, 4, 4)) == 4 * 4 * 3 * 8 * 2 * 2


def test_a_layer_whose_weight_another_module_uses_is_named() -> None:
    with pytest.warns(UserWarning, match=r"not counted: Conv2d \(conv\)"):
        assert count_macs(Bypassed(), (3, 8, 8)) == 0
