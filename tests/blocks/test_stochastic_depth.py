"""Stochastic depth drops whole images at the given rate and preserves the expected value."""

import pytest
import torch

from cnnarch.blocks import StochasticDepth

IMAGES = 10_000


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_eval_mode_returns_the_input(rate: float) -> None:
    x = torch.randn(4, 3, 2, 2)
    assert StochasticDepth(rate).eval()(x) is x


def test_rate_0_returns_the_input_in_training() -> None:
    x = torch.randn(4, 3, 2, 2)
    assert StochasticDepth(0.0).train()(x) is x


def test_an_image_is_dropped_or_scaled_as_a_whole() -> None:
    x = torch.randn(64, 3, 2, 2)
    y = StochasticDepth(0.2).train()(x)
    factors = (y / x).flatten(1)
    assert torch.allclose(factors, factors[:, :1].expand_as(factors), atol=1e-5)
    values = sorted({round(v, 4) for v in factors[:, 0].tolist()})
    assert values == [0, 1.25]  # 1 / (1 - 0.2)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.8])
def test_the_dropped_fraction_equals_the_rate_and_the_mean_is_unchanged(rate: float) -> None:
    y = StochasticDepth(rate).train()(torch.ones(IMAGES, 1, 1, 1))
    four_sigma = 4 * (rate * (1 - rate) / IMAGES) ** 0.5
    assert abs((y == 0).float().mean().item() - rate) < four_sigma
    assert abs(y.mean().item() - 1) < four_sigma / (1 - rate)


def test_images_are_dropped_independently() -> None:
    """Adjacent images agree as often as independent draws do: with probability 0.5."""
    kept = StochasticDepth(0.5).train()(torch.ones(IMAGES, 1, 1, 1)).flatten() > 0
    agree = (kept[1:] == kept[:-1]).float().mean().item()
    assert abs(agree - 0.5) < 4 * 0.5 / IMAGES**0.5


def test_a_dropped_image_receives_no_gradient_and_a_kept_one_a_scaled_gradient() -> None:
    x = torch.randn(64, 1, 1, 1, requires_grad=True)
    y = StochasticDepth(0.75).train()(x)
    y.sum().backward()
    assert torch.equal(x.grad, torch.where(y == 0, 0.0, 4.0))


def test_draws_differ_between_calls_and_are_reproducible() -> None:
    layer, x = StochasticDepth(0.5).train(), torch.ones(64, 1, 1, 1)
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(layer(x), first)


def test_preserves_dtype_and_memory_format() -> None:
    x = torch.ones(8, 4, 2, 2, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    y = StochasticDepth(0.5).train()(x)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(64,), (64, 5), (64, 5, 2), (64, 5, 2, 2, 2)])
def test_the_first_dimension_is_the_batch_dimension_for_any_shape(shape: tuple[int, ...]) -> None:
    y = StochasticDepth(0.5).train()(torch.ones(shape)).reshape(64, -1)
    assert set(y[:, 0].tolist()) == {0, 2}
    assert torch.equal(y, y[:, :1].expand_as(y))


def test_traces_and_compiles_in_training_mode() -> None:
    layer, x = StochasticDepth(0.5).train(), torch.ones(64, 2, 1, 1)
    expected = layer(x)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for other in (torch.fx.symbolic_trace(layer), compiled):
        torch.manual_seed(0)
        assert torch.equal(other(x), expected)


@pytest.mark.parametrize("rate", [1.0, -0.1, float("nan"), "0.5", True])
def test_a_rate_out_of_range_is_rejected(rate: object) -> None:
    with pytest.raises(ValueError, match=rf"rate must be in \[0, 1\), got {rate!r}"):
        StochasticDepth(rate)
