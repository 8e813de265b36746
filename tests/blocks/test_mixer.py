"""The Mixer layer against the paper's equations (Tolstikhin et al., 2021, sec. 2)."""

import copy

import pytest
import torch
from torch import Tensor, nn

from cnnarch.blocks import LayerNorm2d, MixerLayer
from cnnarch.testing import assert_close

H, W, C = 3, 4, 8
TOKENS, TOKEN_DIM, CHANNEL_DIM = 12, 5, 20


def normalize(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Normalize along the last axis with the biased variance and an eps of 1e-6, as in Flax."""
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight + norm.bias
    )


def perceptron(x: Tensor, mlp: nn.Module) -> Tensor:
    """Compute W_2 GELU(W_1 x) along the last axis, with GELU(x) = x Phi(x)."""
    first, second = (m for m in mlp.modules() if isinstance(m, nn.Conv2d))
    hidden = x @ first.weight[:, :, 0, 0].T + first.bias
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    return hidden @ second.weight[:, :, 0, 0].T + second.bias


def second_layer(layer: MixerLayer, x: Tensor) -> Tensor:
    """Compute equation (1) for a tokens-by-channels matrix."""
    table = x.flatten(2).transpose(1, 2)
    mixed = perceptron(normalize(table, layer.token_norm).transpose(1, 2), layer.token_mlp)
    table = table + mixed.transpose(1, 2)
    table = table + perceptron(normalize(table, layer.channel_norm), layer.channel_mlp)
    return table.transpose(1, 2).reshape(x.shape)


def random_layer(**options: float) -> MixerLayer:
    layer = MixerLayer(TOKENS, C, TOKEN_DIM, CHANNEL_DIM, **options)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer.eval()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_output_matches_the_papers_equations(
    batch: int, channels_last: bool, gradients: bool
) -> None:
    layer, x = random_layer(), torch.randn(batch, C, H, W)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    with torch.set_grad_enabled(gradients):
        assert_close(layer(x), second_layer(layer, x))


def test_gradients_match_the_papers_equations() -> None:
    layer = random_layer()
    x = torch.randn(2, C, H, W)
    gradients = []
    for forward in (layer, lambda images: second_layer(layer, images)):
        layer.zero_grad()
        images = x.clone().requires_grad_()
        forward(images).square().sum().backward()
        assert images.grad is not None
        gradients.append([images.grad, *(p.grad for p in layer.parameters())])
    for a, b in zip(*gradients, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_shape_and_memory_format_are_preserved(layout: torch.memory_format) -> None:
    y = random_layer()(torch.randn(2, C, H, W).contiguous(memory_format=layout))
    assert y.shape == (2, C, H, W)
    assert y.is_contiguous(memory_format=layout)


def test_the_parameters_are_those_of_two_mlps_and_two_norms() -> None:
    """2 S D_S + D_S + S for tokens, 2 C D_C + D_C + C for channels, 2 C for each norm."""
    over_tokens = 2 * TOKENS * TOKEN_DIM + TOKEN_DIM + TOKENS
    over_channels = 2 * C * CHANNEL_DIM + CHANNEL_DIM + C
    count = sum(p.numel() for p in random_layer().parameters())
    assert count == over_tokens + over_channels + 4 * C


def test_norms_normalize_each_pixel_with_the_papers_eps() -> None:
    """An eps of 1e-5 would shrink values of this size by a third."""
    x = torch.randn(2, C, H, W) * 3e-3
    expected = normalize(x.permute(0, 2, 3, 1), LayerNorm2d(C)).permute(0, 3, 1, 2)
    assert_close(LayerNorm2d(C)(x), expected)
    layer = random_layer()
    assert (layer.token_norm.eps, layer.channel_norm.eps) == (1e-6, 1e-6)


def test_weights_use_lecun_initialization_truncated_at_two_standard_deviations() -> None:
    """Flax's default: the truncated variance is 1 / fan_in, here to within 5 sigma."""
    torch.manual_seed(0)
    layer = MixerLayer(196, 512, 256, 2048)
    for conv in (m for m in layer.modules() if isinstance(m, nn.Conv2d)):
        std = conv.in_channels**-0.5
        assert abs(conv.weight.std().item() / std - 1) < 5 / (2 * conv.weight.numel()) ** 0.5
        assert 2.2 < conv.weight.abs().max().item() / std <= 2 / 0.8796
        assert torch.equal(conv.bias, torch.zeros(conv.out_channels))


def test_drop_path_drops_each_branch_for_whole_images_in_training_only() -> None:
    layer = random_layer(drop_path=0.5)
    dropped: list[Tensor] = []
    for mlp in (layer.token_mlp, layer.channel_mlp):
        mlp.register_forward_hook(lambda _, __, out: dropped.append(out.flatten(1)))
    x = torch.randn(200, C, H, W)
    assert_close(layer(x), second_layer(layer, x))
    dropped.clear()
    layer.train()(x)
    for branch in dropped:
        zeros = (branch == 0).all(1)
        assert 0.35 < zeros.float().mean() < 0.65
        assert not (branch[~zeros] == 0).any()
    assert not torch.equal(*((branch == 0).all(1) for branch in dropped))


def test_autocast_computes_in_bfloat16() -> None:
    layer, x = random_layer(), torch.randn(40, C, H, W)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = layer(x)
    assert_close(rough.float(), second_layer(layer, x), 0.05)
    assert not torch.equal(rough.float(), layer(x))


def test_copies_compute_the_same_output() -> None:
    layer, x = random_layer(), torch.randn(40, C, H, W)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8, 5, 20), "tokens must be an integer of at least 1, got 0"),
        ((12, -8, 5, 20), "channels must be an integer of at least 1, got -8"),
        ((12, 8, 2.5, 20), "token_dim must be an integer of at least 1, got 2.5"),
        ((12, 8, 5, 0), "channel_dim must be an integer of at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_rejected(
    arguments: tuple[int, int, int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MixerLayer(*arguments)
