"""Layers found only in the original LeNet-5."""

import pytest
import torch
from torch.nn.functional import conv2d, cross_entropy

from cnnarch.blocks import RBF, PartialConv, ScaledTanh, Subsampling
from cnnarch.testing import assert_close, assert_parameters


def test_the_scaled_tanh_is_bounded_and_is_one_at_one() -> None:
    y = ScaledTanh()(torch.tensor([-1e3, -1.0, 0.0, 1.0, 1e3]))
    torch.testing.assert_close(
        y, torch.tensor([-1.7159, -1.0, 0.0, 1.0, 1.7159]), atol=1e-4, rtol=0
    )


def test_subsampling_sums_four_pixels_then_scales_and_shifts() -> None:
    layer = Subsampling(2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, -2.0]).view(2, 1, 1))
        layer.bias.copy_(torch.tensor([1.0, 3.0]).view(2, 1, 1))
    x = torch.arange(20.0).view(1, 1, 4, 5).repeat(1, 2, 1, 1)  # the last column is ignored
    sums = torch.tensor([[0.0 + 1 + 5 + 6, 2 + 3 + 7 + 8], [10 + 11 + 15 + 16, 12 + 13 + 17 + 18]])
    expected = torch.stack([0.5 * sums + 1, -2 * sums + 3])[None]
    torch.testing.assert_close(layer(x), expected)


def test_subsampling_has_two_parameters_per_map() -> None:
    assert_parameters(Subsampling(6), 12)  # sec. II.B, S2
    assert_parameters(Subsampling(16), 32)  # S4


def test_a_partial_convolution_is_a_full_convolution_with_zeroed_weights() -> None:
    table = ((2, 0), (1, 2), (0, 1, 2), (1,))
    layer = PartialConv(3, table, 3)
    dense = torch.zeros(4, 3, 3, 3)
    kernels = iter([k for conv in layer.convs for k in conv.weight])
    for row, (seen, kernel) in enumerate(zip(table, kernels, strict=True)):
        dense[row, list(seen)] = kernel.detach()
    bias = torch.cat([conv.bias.detach() for conv in layer.convs])
    x = torch.randn(2, 3, 7, 6)
    assert_close(layer(x), conv2d(x, dense, bias))


def test_maps_with_the_same_number_of_inputs_share_a_grouped_convolution() -> None:
    layer = PartialConv(4, ((0, 1), (1, 2), (2, 3), (0, 1, 2, 3)), 5)
    assert [(c.in_channels, c.out_channels, c.groups) for c in layer.convs] == [
        (6, 3, 3),
        (4, 1, 1),
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ((), r"must list input maps for each output map, got \(\)"),
        (((0,), ()), "must list input maps for each output map"),
        (((0, 3),), "indices must be 0 to 2, got 3"),
        (((-1,),), "indices must be 0 to 2, got -1"),
    ],
)
def test_an_invalid_table_is_rejected(table: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PartialConv(3, table, 3)


def test_rbf_returns_the_negative_squared_distance() -> None:
    layer = RBF(3, 2)
    layer.codes = torch.tensor([[1.0, 1.0, -1.0], [-1.0, 1.0, 1.0]])
    x = torch.tensor([[1.0, 1.0, -1.0], [0.0, 0.5, 2.0]])
    assert layer(x).tolist() == [[0.0, -8.0], [-(1 + 0.25 + 9), -(1 + 0.25 + 1)]]


def test_codes_are_fixed_random_signs_saved_with_the_parameters() -> None:
    torch.manual_seed(1)
    first = RBF(84, 10)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = RBF(84, 10)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.codes, second.codes)
    assert set(first.codes.unique().tolist()) == {-1.0, 1.0}
    assert abs(first.codes.mean()) < 0.1
    assert list(first.parameters()) == []
    assert list(first.state_dict()) == ["codes"]
    # Pairs of random codes differ in 42 of 84 signs on average; 16 is over 5 sigma below that.
    apart = (RBF(84, 1000).codes @ RBF(84, 1000).codes.T - 84) / -2
    assert (apart + 84 * torch.eye(1000)).min() >= 16


def test_codes_use_the_default_device_and_dtype() -> None:
    with torch.device("meta"):
        assert RBF(84, 10).codes.is_meta
    assert RBF(84, 10).double().codes.dtype == torch.float64
    assert str(RBF(84, 10)) == "RBF(84, 10)"


def test_the_cross_entropy_of_the_logits_is_the_papers_criterion() -> None:
    """Eq. 9 without the rubbish class: y_D + log(sum_i exp(-y_i)), where y are the distances."""
    layer, x = RBF(84, 10).double(), torch.randn(4, 84, dtype=torch.float64)
    target = torch.tensor([3, 1, 4, 1])
    y = (x[:, None] - layer.codes[None]).square().sum(2)
    expected = (y[range(4), target] + (-y).exp().sum(1).log()).mean()
    torch.testing.assert_close(cross_entropy(layer(x), target), expected)
