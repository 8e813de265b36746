"""BiT against its paper (Kolesnikov et al., 2019) and timm."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import PreActBottleneck, StandardizedConv2d
from cnnarch.inference import fuse
from cnnarch.models.bit import BiT
from cnnarch.testing import assert_close

SMALL_FORMS = {"bit": partial(BiT, (1, 2, 1, 1), 2, (2, 2, 4, 4), 2)}


@pytest.mark.parametrize(
    ("depth", "factor", "depths"),
    [
        (50, 1, [3, 4, 6, 3]),
        (50, 3, [3, 4, 6, 3]),
        (101, 1, [3, 4, 23, 3]),
        (101, 3, [3, 4, 23, 3]),
        (152, 2, [3, 8, 36, 3]),
        (152, 4, [3, 8, 36, 3]),
    ],
)
def test_the_name_states_the_depth_and_the_width(
    depth: int, factor: int, depths: list[int]
) -> None:
    with torch.device("meta"):
        model = cnnarch.get_model(f"resnetv2_{depth}x{factor}_bit")
    counts = [sum(isinstance(m, PreActBottleneck) for m in stage) for stage in model.stages]
    assert counts == depths
    widths = [row.channels for row in model.feature_info]
    assert widths == [factor * width for width in (64, 256, 512, 1024, 2048)]


def test_every_convolution_is_standardized_and_every_norm_has_32_groups() -> None:
    with torch.device("meta"):
        model = cnnarch.resnetv2_50x1_bit()
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert {type(conv) for conv in convs} == {StandardizedConv2d}
    assert {(conv.eps, conv.bias) for conv in convs} == {(1e-8, None)}
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 3 * 16 + 1
    assert {(norm.num_groups, norm.eps) for norm in norms} == {(32, 1e-5)}
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def test_the_stride_is_in_the_3x3_and_the_first_shortcut_of_a_stage_projects() -> None:
    model = BiT((2, 2, 2, 2), 1, (2, 2, 4, 4), 2)
    for i, stage in enumerate(model.stages):
        first, second = (m for m in stage if isinstance(m, PreActBottleneck))
        stride = 2 if i else 1
        assert first.branch.conv.stride == (stride, stride)
        assert first.branch.reduce.stride == (1, 1)
        assert isinstance(first.shortcut.conv, StandardizedConv2d)
        assert isinstance(second.shortcut, nn.Identity)


def test_the_first_pool_sees_zeros_around_the_map() -> None:
    """The stem has no ReLU, so its values may be negative everywhere."""
    pool = BiT((1, 1, 1, 1), 1, (2, 2, 4, 4), 2).stages[0].pool
    y = pool(-1 - torch.rand(1, 2, 6, 6))
    assert y.shape == (1, 2, 3, 3)
    assert bool((y[..., 0, :] == 0).all())
    assert bool((y[..., 1:, 1:] < 0).all())


def test_training_outputs_do_not_depend_on_the_batch() -> None:
    model = BiT((1, 1, 1, 1), 1, (2, 2, 4, 4), 2).double().train()
    x = torch.randn(3, 3, 48, 48, dtype=torch.float64)
    assert_close(model(x)[:1], model(x[:1]), 1e-12)


def test_the_scale_of_the_weights_has_no_effect() -> None:
    model = BiT((1, 1, 1, 1), 1, (2, 2, 4, 4), 2).double()
    x = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    before = model(x)
    with torch.no_grad():
        for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
            conv.weight.mul_(3).add_(1)
    assert_close(model(x), before, 1e-5)  # eps is relatively smaller now


def test_fusing_stores_the_standardized_weights() -> None:
    model = BiT((1, 2, 1, 1), 2, (2, 2, 4, 4), 2).eval()
    fused = fuse(model)
    convs = [m for m in fused.modules() if isinstance(m, nn.Conv2d)]
    assert {type(conv) for conv in convs} == {nn.Conv2d}
    x = torch.randn(2, 3, 48, 48)
    assert torch.equal(fused(x), model(x))
