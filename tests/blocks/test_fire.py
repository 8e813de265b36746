"""The fire module against Fig. 1 of the SqueezeNet paper and a functional reimplementation."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from cnnarch.blocks import Fire
from cnnarch.testing import assert_close, assert_parameters


def test_it_concatenates_two_convolutions_of_the_squeezed_map() -> None:
    block = Fire(6, 3, 4, 5)
    squeeze, expand1x1, expand3x3 = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    for conv in (squeeze, expand1x1, expand3x3):
        nn.init.normal_(conv.bias)
    x = torch.randn(2, 6, 7, 5)
    s = conv2d(x, squeeze.weight, squeeze.bias).relu()
    left = conv2d(s, expand1x1.weight, expand1x1.bias).relu()
    right = conv2d(s, expand3x3.weight, expand3x3.bias, padding=1).relu()
    assert_close(block(x), torch.cat([left, right], 1))


def test_fire2_has_the_parameters_of_table_1() -> None:
    """Table 1 lists 11,920 parameters: 96 * 16 + 16 + 16 * 64 + 64 + 9 * 16 * 64 + 64."""
    assert_parameters(Fire(96, 16, 64, 64), 11_920)


@pytest.mark.parametrize("widths", [(0, 4, 4), (2, 0, 4), (2, 4, 1.5)])
def test_invalid_widths_are_rejected(widths: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="out_channels must be an integer of at least 1"):
        Fire(8, *widths)
