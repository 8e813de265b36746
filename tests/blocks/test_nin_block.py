"""The NiN block and the head that averages score maps."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, linear

from cnnarch.blocks import NiNBlock, ScoreMapHead
from cnnarch.testing import assert_close, assert_parameters


def test_the_1x1_layers_are_an_mlp_at_every_pixel() -> None:
    block = NiNBlock(3, (8, 6, 4), 5)
    x = torch.randn(2, 3, 9, 7)
    convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs:
        nn.init.normal_(conv.bias)
    pixels = conv2d(x, convs[0].weight, convs[0].bias, padding=2).relu().movedim(1, -1)
    for conv in convs[1:]:
        pixels = linear(pixels, conv.weight[:, :, 0, 0], conv.bias).relu()
    assert_close(block(x), pixels.movedim(-1, 1))


def test_a_separate_relu_follows_every_layer() -> None:
    kinds = [type(m) for m in NiNBlock(3, (8, 6, 4), 3).modules() if not any(m.children())]
    assert kinds == [nn.Conv2d, nn.ReLU] * 3


def test_the_parameter_count_matches_a_manual_calculation() -> None:
    expected = 25 * 3 * 192 + 192 + 192 * 160 + 160 + 160 * 96 + 96
    block = NiNBlock(3, (192, 160, 96), 5)
    assert_parameters(block, expected)
    assert block.out_channels == 96


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "side"),
    [(11, 4, 0, 54), (5, 1, "symmetric", 224), (3, 1, 0, 222), (3, 2, 1, 112)],
)
def test_stride_and_padding_apply_to_the_first_convolution(
    kernel_size: int, stride: int, padding: int, side: int
) -> None:
    block = NiNBlock(1, (2, 2, 2), kernel_size, stride, padding=padding)
    assert block(torch.zeros(1, 1, 224, 224)).shape == (1, 2, side, side)


def test_weights_use_glorot_initialization_and_biases_are_zero() -> None:
    block = NiNBlock(64, (64, 256), 3)
    first, second = (m for m in block.modules() if isinstance(m, nn.Conv2d))
    assert first.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.03)
    assert second.weight.std().item() == pytest.approx((2 / (64 + 256)) ** 0.5, rel=0.03)
    assert not first.bias.any()


def test_invalid_widths_are_rejected() -> None:
    with pytest.raises(ValueError, match="at least one layer, got none"):
        NiNBlock(3, (), 3)
    with pytest.raises(ValueError, match="out_channels must be an integer of at least 1, got 0"):
        NiNBlock(3, (8, 0), 3)


def test_the_relu_is_applied_before_the_average() -> None:
    head = ScoreMapHead(1, 1)
    nn.init.ones_(head.classifier.weight)
    nn.init.zeros_(head.classifier.bias)
    x = torch.tensor([[[[4.0, -4.0], [2.0, -2.0]]]])
    assert head(x).item() == 1.5  # (4 + 0 + 2 + 0) / 4; with ReLU after the average it would be 0


def test_pre_logits_are_the_averaged_map() -> None:
    head = ScoreMapHead(6, 3)
    x = torch.randn(2, 6, 4, 5)
    assert_close(head.pre_logits(x), x.mean((2, 3)))
    head.reset_classifier(0)
    assert torch.equal(head(x), head.pre_logits(x))


def test_a_new_classifier_also_precedes_the_average() -> None:
    head = ScoreMapHead(6, 3, dropout=0.5)
    x = torch.randn(2, 6, 4, 5)
    for num_classes in (5, 0, 4):
        head.reset_classifier(num_classes)
        names = [name for name, _ in head.named_children()]
        scores = ["dropout", "classifier", "act"] if num_classes else []
        assert names == [*scores, "pool", "flatten"]
    assert head.num_classes == 4
    expected = conv2d(x, head.classifier.weight, head.classifier.bias).relu().mean((2, 3))
    assert_close(head.eval()(x), expected)


def test_head_arguments_out_of_range_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1.0"):
        ScoreMapHead(6, 3, dropout=1.0)
    with pytest.raises(ValueError, match="num_classes must be an integer of at least 0, got -1"):
        ScoreMapHead(6, -1)
