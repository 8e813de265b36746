"""Options A and B of the ResNet paper."""

import pytest
import torch
from torch import nn

from cnnarch.blocks import ZeroPadShortcut, linear_projection, pooled_projection, projection


def test_option_a_keeps_every_second_pixel_and_appends_zero_channels() -> None:
    x = torch.arange(2 * 4 * 5, dtype=torch.float).reshape(1, 2, 4, 5)
    y = ZeroPadShortcut(2, 3, 2)(x)
    assert y.tolist() == [
        [
            [[0, 2, 4], [10, 12, 14]],
            [[20, 22, 24], [30, 32, 34]],
            [[0, 0, 0], [0, 0, 0]],
        ]
    ]


@pytest.mark.parametrize(("in_channels", "out_channels", "stride"), [(4, 4, 2), (3, 8, 1)])
def test_option_a_can_change_only_the_size_or_only_the_width(
    in_channels: int, out_channels: int, stride: int
) -> None:
    x = torch.randn(2, in_channels, 7, 6)
    y = ZeroPadShortcut(in_channels, out_channels, stride)(x)
    assert y.shape == (2, out_channels, -(-7 // stride), 6 // stride)
    assert torch.equal(y[:, :in_channels], x[:, :, ::stride, ::stride])
    assert (y[:, in_channels:] == 0).all()


def test_option_a_has_no_parameters_and_passes_gradients() -> None:
    shortcut = ZeroPadShortcut(2, 4, 2)
    assert list(shortcut.parameters()) == []
    x = torch.ones(1, 2, 4, 4, requires_grad=True)
    shortcut(x).sum().backward()
    assert x.grad is not None
    assert x.grad[0, 0].tolist() == [[1, 0, 1, 0], [0] * 4, [1, 0, 1, 0], [0] * 4]


def test_option_a_preserves_channels_last() -> None:
    x = torch.randn(2, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    assert ZeroPadShortcut(4, 8, 2)(x).is_contiguous(memory_format=torch.channels_last)


def test_option_a_cannot_reduce_channels() -> None:
    with pytest.raises(ValueError, match="out_channels must be an integer of at least 8, got 4"):
        ZeroPadShortcut(8, 4, 1)


def test_option_b_is_a_strided_1x1_convolution_with_a_norm() -> None:
    shortcut = projection(3, 6, 2).eval()
    x = torch.randn(1, 3, 5, 5)
    expected = nn.functional.conv2d(x, shortcut.conv.weight, stride=2) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(shortcut(x), expected)
    assert shortcut.conv.bias is None
    assert not hasattr(shortcut, "act")


def test_a_linear_projection_is_only_a_strided_1x1_convolution() -> None:
    shortcut = linear_projection(3, 6, 2)
    x = torch.randn(1, 3, 5, 5)
    (weight,) = shortcut.parameters()
    torch.testing.assert_close(shortcut(x), nn.functional.conv2d(x, weight, stride=2))


def test_a_pooled_projection_averages_before_a_1x1_convolution() -> None:
    """The last windows of an odd side average the pixels inside the map."""
    shortcut = pooled_projection(3, 6, 2).eval()
    x = torch.randn(1, 3, 5, 4)
    rows = [x[:, :, i : i + 2] for i in (0, 2, 4)]
    pooled = torch.stack([row.unfold(3, 2, 2).mean((2, 4)) for row in rows], 2)
    expected = nn.functional.conv2d(pooled, shortcut.project.conv.weight) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(shortcut(x), expected)


def test_a_pooled_projection_without_stride_has_no_pool() -> None:
    assert [name for name, _ in pooled_projection(3, 6, 1).named_children()] == ["project"]
