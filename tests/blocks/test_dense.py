"""Dense blocks against the paper (Huang et al., 2016): connections and their order."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, batch_norm, conv2d

from cnnarch.blocks import Dense, DenseLayer, Transition
from cnnarch.testing import assert_close
from tests.oracles.in_order import randomize_norms


def unit(x: Tensor, norm: nn.BatchNorm2d, weight: Tensor) -> Tensor:
    """Compute the paper's BN-ReLU-Conv from its tensors, in eval mode."""
    statistics = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    activated = batch_norm(x, *statistics, training=False, eps=1e-5).clamp(min=0)
    return conv2d(activated, weight, padding=weight.shape[-1] // 2)


def second_layer(layer: DenseLayer, x: Tensor) -> Tensor:
    """Return the norms and kernels of a layer in registration order."""
    norms = [m for m in layer.modules() if isinstance(m, nn.BatchNorm2d)]
    convs = [m for m in layer.modules() if isinstance(m, nn.Conv2d)]
    for norm, conv in zip(norms, convs, strict=True):
        x = unit(x, norm, conv.weight)
    return x


@pytest.mark.parametrize("bottleneck", [None, 1, 4])
def test_every_layer_receives_all_preceding_maps_and_the_output_keeps_their_order(
    bottleneck: int | None,
) -> None:
    block = Dense(5, 3, 4, bottleneck=bottleneck)
    x = torch.randn(2, 5, 7, 6)
    randomize_norms(block, x)
    expected = x
    for layer in block:
        expected = torch.cat([expected, second_layer(layer, expected)], 1)
    assert expected.shape == (2, 5 + 3 * 4, 7, 6)
    assert_close(block(x), expected)
    assert torch.equal(block(x)[:, :5], x)


def test_a_bottleneck_layer_is_1x1_to_4k_then_3x3_to_k() -> None:
    """DenseNet-B of sec. 3: "we let each 1x1 convolution produce 4k feature-maps"."""
    kernels = [m.weight.shape for m in DenseLayer(64, 32).modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [(128, 64, 1, 1), (32, 128, 3, 3)]


def test_without_a_bottleneck_a_layer_is_one_3x3_convolution() -> None:
    convs = [m for m in DenseLayer(16, 12, bottleneck=None).modules() if isinstance(m, nn.Conv2d)]
    assert [c.weight.shape for c in convs] == [(12, 16, 3, 3)]


def test_a_layer_accepts_separate_or_concatenated_maps() -> None:
    layer = DenseLayer(5, 4)
    randomize_norms(layer, torch.randn(2, 5, 8, 8))
    a, b = torch.randn(2, 2, 8, 8), torch.randn(2, 3, 8, 8)
    assert torch.equal(layer(a, b), layer(torch.cat([a, b], 1)))


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_a_transition_is_norm_relu_1x1_convolution_and_2x2_average_pool(
    size: tuple[int, int],
) -> None:
    transition = Transition(6, 3)
    x = torch.randn(2, 6, *size)
    randomize_norms(transition, x)
    expected = avg_pool2d(unit(x, transition.norm, transition.conv.weight), 2)
    assert expected.shape == (2, 3, size[0] // 2, size[1] // 2)
    assert_close(transition(x), expected)


def test_convolutions_have_no_bias_and_use_he_initialization() -> None:
    """Weights are from N(0, 2 / fan_out): their standard deviation matches to within 5 sigma."""
    torch.manual_seed(0)
    for conv in (m for m in Dense(64, 4, 32).modules() if isinstance(m, nn.Conv2d)):
        assert conv.bias is None
        fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
        spread = conv.weight.std().item() / (2 / fan_out) ** 0.5
        assert abs(spread - 1) < 5 / (2 * conv.weight.numel()) ** 0.5


def test_dropout_follows_every_convolution_in_training_only() -> None:
    layer = DenseLayer(8, 16, dropout=0.5)
    x = torch.randn(4, 8, 8, 8)
    outputs: list[Tensor] = []
    for conv in (layer.reduce, layer.conv):
        conv.register_forward_hook(lambda _, __, out: outputs.append(out))
    layer(x)
    assert [0.4 < (out == 0).float().mean() < 0.6 for out in outputs] == [True, True]
    transition = Transition(16, 16, dropout=0.5)
    zeros = torch.randn(4, 16, 8, 8)
    dropped = nn.Sequential(*list(transition)[:-1])(zeros)
    assert 0.4 < (dropped == 0).float().mean() < 0.6
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_the_layout_does_not_depend_on_the_dropout_rate() -> None:
    with_dropout, without = Dense(8, 2, 4, dropout=0.2), Dense(8, 2, 4)
    assert [n for n, _ in with_dropout.named_modules()] == [n for n, _ in without.named_modules()]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_changes_neither_gradients_nor_statistics(dropout: float) -> None:
    plain = Dense(6, 4, 5, dropout=dropout)
    saving = copy.deepcopy(plain)
    saving.grad_checkpointing = True
    x = torch.randn(3, 6, 8, 8)
    gradients = []
    for block in (plain, saving):
        torch.manual_seed(2)
        images = x.clone().requires_grad_()
        block(images).square().sum().backward()
        assert images.grad is not None
        gradients.append([images.grad, *(p.grad for p in block.parameters())])
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(plain.buffers(), saving.buffers(), strict=True):
        assert torch.equal(a, b)


def test_checkpointing_recomputes_each_layer_and_its_concatenation() -> None:
    """Each layer is recomputed, never the whole block; without gradients, nothing is recomputed."""
    block = Dense(6, 3, 5)
    block.grad_checkpointing = True
    calls: list[int] = []
    for layer in block:
        layer.register_forward_pre_hook(lambda _, maps: calls.append(len(maps)))
    with torch.no_grad():
        block(torch.randn(2, 6, 8, 8))
    assert calls == [1, 2, 3]
    calls.clear()
    block(torch.randn(2, 6, 8, 8)).sum().backward()
    assert calls == [1, 2, 3, 3, 2, 1]


def test_with_checkpointing_autograd_saves_nothing_inside_the_layers() -> None:
    block = Dense(8, 12, 8)
    kept: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    saved = []
    for block.grad_checkpointing in (False, True):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            block(torch.randn(2, 8, 16, 16, requires_grad=True))
        saved.append(sum(kept.values()))
    assert saved[1] < 0.1 * saved[0]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 2, 4), {}, "in_channels must be an integer of at least 1, got 0"),
        ((8, 0, 4), {}, "num_layers must be an integer of at least 1, got 0"),
        ((8, 2, 1.5), {}, "growth_rate must be an integer of at least 1, got 1.5"),
        ((8, 2, 4), {"bottleneck": 0}, "bottleneck must be an integer of at least 1, got 0"),
        ((8, 2, 4), {"dropout": 1}, r"dropout must be in \[0, 1\), got 1"),
    ],
)
def test_arguments_out_of_range_are_rejected(
    arguments: tuple[int, int, int], options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Dense(*arguments, **options)


def test_a_transition_to_zero_channels_is_rejected() -> None:
    with pytest.raises(ValueError, match="out_channels must be an integer of at least 1, got 0"):
        Transition(8, 0)
