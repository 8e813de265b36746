"""LRN against the paper's formula, and BatchNorm against PyTorch's."""

import io

import pytest
import torch
from torch import Tensor, nn

from cnnarch.blocks import LRN, BatchNorm
from cnnarch.testing import assert_close

TORCH_TWIN = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
SHAPES = [(8, 5), (4, 5, 6), (3, 5, 4, 2)]


def lrn_as_printed(a: Tensor, n: int, alpha: float, beta: float, k: float) -> Tensor:
    """Compute the formula of Krizhevsky et al., 2012, sec. 3.3, one channel at a time."""
    b = torch.empty_like(a)
    channels = a.shape[1]
    for i in range(channels):
        total = torch.zeros_like(a[:, 0])
        for j in range(max(0, i - n // 2), min(channels - 1, i + n // 2) + 1):
            total += a[:, j] ** 2
        b[:, i] = a[:, i] / (k + alpha * total) ** beta
    return b


@pytest.mark.parametrize("channels", [1, 3, 4, 11])
@pytest.mark.parametrize(
    "constants", [(5, 1e-4, 0.75, 2.0), (5, 1.0, 0.75, 1.0), (3, 0.3, 0.5, 1.0), (1, 2.0, 1.0, 0.1)]
)
def test_lrn_matches_the_papers_formula(
    channels: int, constants: tuple[int, float, float, float]
) -> None:
    n, alpha, beta, k = constants
    x = 20 * torch.randn(2, channels, 3, 4, dtype=torch.float64)
    layer = LRN(n, alpha=alpha, beta=beta, k=k)
    assert_close(layer(x), lrn_as_printed(x, n, alpha, beta, k), 1e-12)


def test_lrn_has_the_papers_constants() -> None:
    layer = LRN()
    assert (layer.n, layer.alpha, layer.beta, layer.k) == (5, 1e-4, 0.75, 2.0)
    assert str(layer) == "LRN(5, alpha=0.0001, beta=0.75, k=2.0)"


def test_alpha_is_not_divided_by_n_unlike_in_pytorch() -> None:
    x = 30 * torch.randn(2, 9, 4, 4, requires_grad=True)
    ours, theirs = LRN(), nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)
    assert_close(ours(x), theirs(x), 1e-6)
    seed = torch.randn(2, 9, 4, 4)
    (ours_grad,) = torch.autograd.grad(ours(x), x, seed)
    (theirs_grad,) = torch.autograd.grad(theirs(x), x, seed)
    assert_close(ours_grad, theirs_grad, 1e-5)


def test_a_channel_without_neighbors_counts_only_itself() -> None:
    # 3 / (2 + 1e-4 * 9) ** 0.75, by hand
    assert LRN()(torch.full((1, 1, 1, 1), 3.0)).item() == pytest.approx(1.783208, abs=1e-6)


def test_lrn_gradients_are_correct_to_second_order() -> None:
    x = torch.randn(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    layer = LRN(3, alpha=0.5, beta=0.75, k=1.0)
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)


def test_lrn_preserves_dtype_and_memory_format() -> None:
    x = torch.randn(2, 8, 5, 6).to(memory_format=torch.channels_last)
    y = LRN()(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert LRN()(x.bfloat16()).dtype == torch.bfloat16


def test_lrn_of_large_float16_activations_is_finite() -> None:
    x = torch.linspace(500, 1000, 5).half().view(1, 5, 1, 1)  # their squares overflow
    y = LRN()(x)
    assert_close(y.float() - x.float(), LRN()(x.float()) - x.float(), 1e-2)


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"n": 4}, "n must be odd, got 4"),
        ({"n": 0}, "n must be an integer of at least 1, got 0"),
        ({"alpha": 0.0}, "alpha must be a number above 0, got 0.0"),
        ({"beta": -0.75}, "beta must be a number above 0, got -0.75"),
        ({"k": 0}, "k must be a number above 0, got 0"),
    ],
)
def test_invalid_lrn_constants_are_rejected(constants: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LRN(**constants)  # type: ignore[arg-type]


def pair_of_norms(shape: tuple[int, ...]) -> tuple[BatchNorm, nn.Module]:
    ours = BatchNorm(5, eps=1e-3, momentum=0.2)
    theirs = TORCH_TWIN[len(shape)](5, eps=1e-3, momentum=0.2)
    nn.init.uniform_(ours.weight, 0.5, 1.5)
    nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm_matches_pytorch_in_training_and_eval_mode(shape: tuple[int, ...]) -> None:
    ours, theirs = pair_of_norms(shape)
    for step in range(3):
        x = (3 * torch.randn(shape) + step).requires_grad_()
        seed = torch.randn(shape)
        assert_close(ours(x), theirs(x), 1e-5)
        before = [t.clone() for t in (*ours.buffers(), *theirs.buffers())]
        gradients = [torch.autograd.grad(m(x), (x, m.weight, m.bias), seed) for m in (ours, theirs)]
        for a, b in zip(*gradients, strict=True):
            assert_close(a, b, 1e-5)
        for (name, a), b in zip(ours.named_buffers(), theirs.buffers(), strict=True):
            torch.testing.assert_close(a, b, msg=name)
        assert any(not torch.equal(a, b) for a, b in zip(before, ours.buffers(), strict=False))
    ours.eval()
    theirs.eval()
    x = torch.randn(shape)
    assert_close(ours(x), theirs(x), 1e-5)
    assert_close(ours(x[:1]), theirs(x[:1]), 1e-5)


def test_the_running_variance_is_unbiased() -> None:
    norm = BatchNorm(1)
    norm(torch.tensor([[0.0], [2.0]]))  # mean 1, variance 1, unbiased variance 2
    assert norm.running_mean.item() == pytest.approx(0.9 * 0 + 0.1 * 1)
    assert norm.running_var.item() == pytest.approx(0.9 * 1 + 0.1 * 2)
    assert norm.num_batches_tracked.item() == 1


def test_the_statistics_depend_on_the_mode_and_not_on_whether_gradients_are_enabled() -> None:
    x = 5 * torch.randn(8, 5)
    norm = BatchNorm(5)
    with torch.no_grad():
        y = norm(x)
    assert norm.num_batches_tracked == 1
    torch.testing.assert_close(y.mean(0), torch.zeros(5), atol=1e-6, rtol=0)
    norm.eval()
    frozen = norm.running_mean.clone()
    norm(x.requires_grad_()).sum().backward()
    assert torch.equal(norm.running_mean, frozen)
    assert norm.num_batches_tracked == 1


def test_statistics_are_buffers_so_they_are_saved_and_moved() -> None:
    norm = BatchNorm(5)
    assert norm.state_dict().keys() == nn.BatchNorm2d(5).state_dict().keys()
    assert {n for n, _ in norm.named_parameters()} == {"weight", "bias"}
    assert norm.double().running_var.dtype == torch.float64
    assert not norm.running_mean.requires_grad
    norm(torch.randn(4, 5, dtype=torch.float64))
    file = io.BytesIO()
    torch.save(norm.state_dict(), file)
    file.seek(0)
    fresh = BatchNorm(5).double()
    fresh.load_state_dict(torch.load(file))
    assert torch.equal(fresh.running_mean, norm.running_mean)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 4), r"the second of size 5, got \(2, 4\)"),
        (torch.zeros(5), r"expected 2 to 4 dimensions, .* got \(5,\)"),
        (torch.zeros(1, 5, 1, 1), r"two values per channel, got \(1, 5, 1, 1\)"),
    ],
)
def test_an_invalid_batch_norm_input_is_rejected(x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchNorm(5)(x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_features": 0}, "num_features must be an integer of at least 1, got 0"),
        ({"eps": 0.0}, "eps must be a number above 0, got 0.0"),
        ({"momentum": 0.0}, r"momentum must be in \(0, 1\], got 0.0"),
        ({"momentum": 1.5}, r"momentum must be in \(0, 1\], got 1.5"),
    ],
)
def test_invalid_batch_norm_constants_are_rejected(
    arguments: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        BatchNorm(**{"num_features": 5, **arguments})  # type: ignore[arg-type]


def test_batch_norm_prints_its_constants() -> None:
    assert str(BatchNorm(5)) == "BatchNorm(5, eps=1e-05, momentum=0.1)"
