"""ResNet against its paper (He et al., 2015) and torchvision."""

from functools import partial

import pytest
import torch
import torchvision
from torch import Tensor, nn

import cnnarch
from cnnarch.blocks import Bottleneck, ConvNormAct, Residual
from cnnarch.models.resnet import PlainBlock, ResNet
from cnnarch.testing import assert_close, assert_parameters
from tests.oracles.in_order import assert_same_outputs, copy_in_order

DEPTHS = (1, 2, 1, 1)
SMALL_FORMS = {
    "residual": partial(ResNet, Residual, DEPTHS, (8, 12, 16, 24)),
    "residual-small_images": partial(ResNet, Residual, DEPTHS, (8, 12, 16, 24), small_images=True),
    "bottleneck": partial(ResNet, Bottleneck, DEPTHS, (4, 6, 8, 12)),
    "bottleneck-stride_in_1x1": partial(
        ResNet, Bottleneck, DEPTHS, (4, 6, 8, 12), stride_in_1x1=True
    ),
    "plain": partial(ResNet, PlainBlock, DEPTHS, (8, 12, 16, 24)),
}


def shortcut_convs(model: nn.Module) -> list[nn.Conv2d]:
    return [
        m for name, m in model.named_modules() if "shortcut" in name and isinstance(m, nn.Conv2d)
    ]


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_the_name_counts_the_layers_with_weights(depth: int) -> None:
    with torch.device("meta"):
        model = cnnarch.get_model(f"resnet{depth}")
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) - len(shortcut_convs(model)) == depth


def test_stages_are_named_as_in_table_1() -> None:
    rows = cnnarch.resnet50().feature_info
    assert [r.name for r in rows] == ["conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x"]
    assert [r.stride for r in rows] == [2, 4, 8, 16, 32]
    assert [r.channels for r in rows] == [64, 256, 512, 1024, 2048]


def test_the_3x3_has_the_stride() -> None:
    model = cnnarch.resnet50()
    for stage in list(model.stages)[1:]:
        first = stage[0].branch
        assert [c.conv.stride for c in first] == [(1, 1), (2, 2), (1, 1)]
        assert all(m.stride == (1, 1) for m in stage[1].modules() if isinstance(m, nn.Conv2d))


def test_stride_in_1x1_moves_the_stride_to_the_first_1x1() -> None:
    model = cnnarch.resnet50(stride_in_1x1=True)
    for stage in list(model.stages)[1:]:
        assert [c.conv.stride for c in stage[0].branch] == [(2, 2), (1, 1), (1, 1)]
    assert model.options["stride_in_1x1"] is True


def test_the_first_convolution_of_a_basic_block_has_the_stride() -> None:
    for stage in list(cnnarch.resnet18().stages)[1:]:
        assert [c.conv.stride for c in stage[0].branch] == [(2, 2), (1, 1)]


def test_only_blocks_that_change_the_shape_have_a_projection() -> None:
    """Option B: projections in conv3_1, conv4_1, conv5_1 and, for bottlenecks, conv2_1."""
    for model, count in ((cnnarch.resnet18(), 3), (cnnarch.resnet50(), 4)):
        convs = shortcut_convs(model)
        assert len(convs) == count
        assert {c.kernel_size for c in convs} == {(1, 1)}
        assert [c.stride[0] for c in convs][-3:] == [2, 2, 2]


def test_option_b_adds_only_projections_to_resnet18() -> None:
    # 1x1 kernels (64 to 128, 128 to 256, 256 to 512 channels), and a scale and shift per channel.
    projections = sum(a * b + 2 * b for a, b in ((64, 128), (128, 256), (256, 512)))
    with torch.device("meta"):
        assert_parameters(cnnarch.resnet18(), 11_515_688 + projections)


@pytest.mark.parametrize(("depth", "params"), [(18, 11_515_688), (34, 21_623_848)])
def test_plain_networks_have_as_many_parameters_as_option_a_and_no_shortcut(
    depth: int, params: int
) -> None:
    model = cnnarch.get_model(f"plain{depth}")
    assert_parameters(model, params)
    blocks = [m for m in model.modules() if isinstance(m, PlainBlock)]
    assert len(blocks) == (depth - 2) // 2
    block = blocks[0].eval()
    x = torch.randn(1, 64, 8, 8)
    steps = [block.conv1.conv, block.conv1.norm, nn.ReLU()]
    steps += [block.conv2.conv, block.conv2.norm, nn.ReLU()]
    assert torch.equal(block(x), nn.Sequential(*steps)(x))


def test_every_norm_has_the_usual_constants_and_no_convolution_has_a_bias() -> None:
    for model in (cnnarch.resnet18(), cnnarch.resnet50(), cnnarch.plain18()):
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        assert len(norms) == len(convs)
        assert {(n.eps, n.momentum) for n in norms} == {(1e-5, 0.1)}
        assert all(c.bias is None for c in convs)


def test_no_activation_follows_the_last_norm_of_a_branch() -> None:
    for block in cnnarch.resnet50().stages[1]:
        assert [hasattr(layer, "act") for layer in block.branch] == [True, True, False]
        assert not hasattr(block.shortcut, "act")
        assert isinstance(block.act, nn.ReLU)


def test_convolutions_use_he_initialization() -> None:
    """The variance is 2 / fan_out; standard deviations must agree within 5 standard errors."""
    for conv in (m for m in cnnarch.resnet50().modules() if isinstance(m, nn.Conv2d)):
        fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
        std = (2 / fan_out) ** 0.5
        assert abs(conv.weight.std().item() / std - 1) < 5 / (2 * conv.weight.numel()) ** 0.5


def test_norms_are_initialized_to_the_identity() -> None:
    for norm in (m for m in cnnarch.resnet18().modules() if isinstance(m, nn.BatchNorm2d)):
        assert torch.equal(norm.weight, torch.ones(norm.num_features))
        assert torch.equal(norm.bias, torch.zeros(norm.num_features))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_small_images_give_a_4x4_map_with_a_3x3_stem_of_stride_1(name: str) -> None:
    model = cnnarch.get_model(name, small_images=True, num_classes=10)
    shapes = [tuple(m.shape[-2:]) for m in model.eval().forward_stages(torch.zeros(1, 3, 32, 32))]
    assert shapes == [(32, 32), (32, 32), (16, 16), (8, 8), (4, 4)]
    assert (model.stem.conv.kernel_size, model.stem.conv.stride) == ((3, 3), (1, 1))
    assert not any(isinstance(m, nn.MaxPool2d) for m in model.modules())


def test_any_size_from_one_pixel_up_works() -> None:
    model = cnnarch.resnet18(num_classes=2).eval()
    assert model.min_input_size == 1
    for size in ((1, 1), (1, 40), (33, 2)):
        assert model(torch.randn(1, 3, *size)).isfinite().all()


def test_stride_in_1x1_matches_torchvisions_network_with_moved_strides() -> None:
    theirs = torchvision.models.resnet50()
    for stage in (theirs.layer2, theirs.layer3, theirs.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    assert_same_outputs(cnnarch.resnet50(stride_in_1x1=True), theirs, (64, 64), (75, 53))


def test_a_training_step_matches_torchvision() -> None:
    """Compare the loss, the gradients and the running statistics after one step."""
    ours, theirs = cnnarch.resnet50(num_classes=5), torchvision.models.resnet50(num_classes=5)
    copy_in_order(ours, theirs)
    images, labels = torch.randn(4, 3, 64, 64), torch.arange(4)
    losses: list[Tensor] = []
    for model in (ours, theirs):
        losses.append(nn.functional.cross_entropy(model.train()(images), labels))
        losses[-1].backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_dropout_acts_on_the_pooled_features_in_training_only() -> None:
    model = cnnarch.resnet18(num_classes=3, dropout=0.5).eval()
    features = torch.rand(2, 512, 4, 4) + 1
    assert torch.equal(model.forward_head(features), model.forward_head(features))
    assert_close(model.forward_head(features, pre_logits=True), features.mean((2, 3)))
    model.train()
    dropped = model.head.dropout(features.mean((2, 3)))
    assert 0.3 < (dropped == 0).float().mean() < 0.7


def test_other_depths_and_blocks_can_be_passed_to_the_class() -> None:
    model = ResNet(Bottleneck, (1, 1, 1, 1), num_classes=4, in_channels=1).eval()
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 4)
    assert sum(isinstance(m, Bottleneck) for m in model.modules()) == 4


def test_invalid_depths_are_rejected() -> None:
    for depths, shown in (((2, 2, 2), r"\(2, 2, 2\)"), (2, "2")):
        with pytest.raises(ValueError, match=f"depths must have 4 entries, got {shown}"):
            ResNet(Residual, depths)
    with pytest.raises(ValueError, match=r"widths must have 4 entries, got \(8, 16\)"):
        ResNet(Residual, (2, 2), (8, 16))
    with pytest.raises(ValueError, match="depth of a stage must be an integer of at least 1"):
        ResNet(Residual, (2, 0, 2, 2))


def test_stride_in_1x1_requires_a_1x1_convolution() -> None:
    with pytest.raises(ValueError, match="requires Bottleneck blocks, got Residual"):
        cnnarch.resnet18(stride_in_1x1=True)
    with pytest.raises(ValueError, match="requires Bottleneck blocks, got PlainBlock"):
        cnnarch.plain18(stride_in_1x1=True)


def test_no_activation_is_shared_or_in_place() -> None:
    model = cnnarch.resnet50()
    relus = [m for m in model.modules() if isinstance(m, nn.ReLU)]
    assert len(relus) == 49  # one ReLU in the stem and three in each of the 16 blocks
    assert not any(r.inplace for r in relus)


def test_the_stem_is_conv_norm_relu_before_the_pool() -> None:
    model = cnnarch.resnet18()
    assert isinstance(model.stem, ConvNormAct)
    assert [name for name, _ in model.stem.named_children()] == ["conv", "norm", "act"]
    pool = model.stages[0][0]
    assert isinstance(pool, nn.MaxPool2d)
    assert (pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode) == (3, 2, 1, False)
