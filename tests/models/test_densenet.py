"""DenseNet against its paper (Huang et al., 2016), torchvision and pytorchcv."""

import copy
from functools import partial

import pytest
import torch
import torchvision
from pytorchcv.model_provider import get_model as pytorchcv_model
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, batch_norm, conv2d, linear

import cnnarch
from cnnarch.blocks import Dense, Transition
from cnnarch.models.densenet import DenseNet
from cnnarch.models.densenet_cifar import CifarDenseNet
from cnnarch.testing import assert_close, assert_parameters
from tests.oracles.in_order import assert_same_outputs, copy_in_order, randomize_norms

SMALL_FORMS = {
    "bc": partial(DenseNet, 8, (1, 2, 1, 1)),
    "bc-small_images": partial(DenseNet, 8, (1, 2, 1, 1), small_images=True),
    "bc-dropout": partial(DenseNet, 8, (1, 2), dropout=0.2),
    "plain": partial(DenseNet, 8, (2, 1), None, 1.0),
    "cifar": partial(CifarDenseNet, 10, 8),
    "cifar-bc": partial(CifarDenseNet, 16, 8, bc=True),
}

CIFAR = cnnarch.list_models(family="densenet_cifar")


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [m for m in model.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        *((f"densenet{depth}", depth) for depth in (121, 161, 169, 201)),
        ("densenet264", 265),  # counted from Table 1; the name says 264
        *((name, int(name.split("_")[-3])) for name in CIFAR),
    ],
)
def test_the_name_counts_the_layers_with_weights(name: str, depth: int) -> None:
    with torch.device("meta"):
        model = cnnarch.get_model(name)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


def test_stages_are_the_rows_of_table_1_with_their_strides() -> None:
    rows = cnnarch.densenet121().feature_info
    assert [r.name for r in rows] == ["conv", *(f"dense_block_{i}" for i in range(1, 5))]
    assert [r.stride for r in rows] == [2, 4, 8, 16, 32]
    assert [r.channels for r in rows] == [64, 256, 512, 1024, 1024]


def test_the_first_stage_starts_with_the_pool_and_the_others_with_a_transition() -> None:
    children = [[n for n, _ in stage.named_children()] for stage in cnnarch.densenet121().stages]
    between = ["transition", "0"]
    assert children == [["pool", "0"], between, between, [*between, "norm", "act"]]


def test_the_last_map_is_the_output_of_the_final_norm_and_relu() -> None:
    model = cnnarch.densenet_bc_100_12_cifar()
    images = torch.randn(4, 3, 16, 16)
    randomize_norms(model, images)
    with torch.no_grad():
        last = model.forward_features(images)
    norm = model.stages[-1].norm
    assert norm.num_features == 342
    assert 0.2 < (last == 0).float().mean() < 0.8
    assert last.min() == 0


def test_transitions_halve_the_channels_only_with_bc() -> None:
    for name, share in (("densenet121", 2), ("densenet_bc_100_12_cifar", 2)):
        convs = [m.conv for m in cnnarch.get_model(name).modules() if isinstance(m, Transition)]
        assert all(c.out_channels == c.in_channels // share for c in convs)
    plain = [m for m in cnnarch.densenet_40_12_cifar().modules() if isinstance(m, Transition)]
    assert [m.conv.out_channels for m in plain] == [160, 304]
    assert [m.conv.in_channels for m in plain] == [160, 304]


def test_compression_rounds_down() -> None:
    """Sec. 3: transitions keep floor(theta * m) of m maps, here floor(0.6 * 9) = 5."""
    model = DenseNet(3, (1, 1), compression=0.6)
    transition = model.stages[1].transition
    assert (transition.conv.in_channels, transition.conv.out_channels) == (9, 5)


def test_cifar_networks_start_with_16_channels_or_with_2k_for_bc() -> None:
    """The stem is only a convolution because the first dense layer starts with BN and ReLU."""
    for name in CIFAR:
        with torch.device("meta"):
            model = cnnarch.get_model(name)
        growth_rate = int(name.split("_")[-2])
        assert model.stem.conv.out_channels == (2 * growth_rate if "bc" in name else 16)
        assert [n for n, _ in model.stem.named_children()] == ["conv"]


@pytest.mark.parametrize(
    ("name", "pixels"), [("densenet121", 29), ("densenet161", 29), ("densenet_40_12_cifar", 4)]
)
def test_the_minimum_size_is_exact_for_each_side(name: str, pixels: int) -> None:
    model = cnnarch.get_model(name, num_classes=2).eval()
    assert model.min_input_size == pixels
    for size in ((pixels, pixels), (pixels, 71), (64, pixels)):
        assert model(torch.randn(1, 3, *size)).isfinite().all()
    unchecked = copy.deepcopy(model)
    unchecked.min_input_size = 1
    for size in ((pixels - 1, 64), (64, pixels - 1)):
        with pytest.raises(ValueError, match=f"at least {pixels}x{pixels} pixels, got {size[0]}x"):
            model(torch.randn(1, 3, *size))
        with pytest.raises(RuntimeError):
            unchecked(torch.randn(1, 3, *size))


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("small_images", [False, True])
def test_the_minimum_size_depends_on_the_number_of_blocks(blocks: int, small_images: bool) -> None:
    model = DenseNet(4, (1,) * blocks, num_classes=2, small_images=small_images).eval()
    min_size = model.min_input_size
    assert model(torch.randn(1, 3, min_size, min_size)).isfinite().all()
    model.min_input_size = 1
    if min_size > 1:
        with pytest.raises(RuntimeError):
            model(torch.randn(1, 3, min_size - 1, min_size - 1))


def test_small_images_give_a_4x4_map_with_a_3x3_stem_of_stride_1() -> None:
    model = cnnarch.densenet121(small_images=True, num_classes=10).eval()
    shapes = [tuple(m.shape[-2:]) for m in model.forward_stages(torch.zeros(1, 3, 32, 32))]
    assert shapes == [(32, 32), (32, 32), (16, 16), (8, 8), (4, 4)]
    assert (model.stem.conv.kernel_size, model.stem.conv.stride) == ((3, 3), (1, 1))
    assert not any(isinstance(m, nn.MaxPool2d) for m in model.modules())
    assert model.min_input_size == 8


@pytest.mark.slow
def test_densenet264_matches_torchvisions_class_with_the_depths_of_table_1() -> None:
    theirs = torchvision.models.DenseNet(32, (6, 12, 64, 48), 64)
    assert_same_outputs(cnnarch.densenet264(), theirs, (64, 64))


def test_a_training_step_matches_torchvision() -> None:
    """Compare the loss, the gradients and the running statistics after one step."""
    theirs = torchvision.models.DenseNet(8, (2, 3, 2), 16, num_classes=5)
    ours = DenseNet(8, (2, 3, 2), num_classes=5)
    copy_in_order(ours, theirs)
    images, labels = torch.randn(4, 3, 48, 48), torch.arange(4)
    losses: list[Tensor] = []
    for model in (ours, theirs):
        losses.append(nn.functional.cross_entropy(model.train()(images), labels))
        losses[-1].backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_bc_cifar_outputs_match_pytorchcv_at_other_sizes() -> None:
    theirs = pytorchcv_model("densenet40_k12_bc_cifar10")
    theirs.features.final_pool = nn.AdaptiveAvgPool2d(1)  # pytorchcv's kernel size is fixed at 8x8
    assert_same_outputs(cnnarch.densenet_bc_40_12_cifar(), theirs, (16, 16), (9, 12))


def densenet_by_hand(state: dict[str, Tensor], layers: int, x: Tensor) -> Tensor:
    """Compute the logits of sec. 3's DenseNet without BC, in eval mode and without modules."""
    tensors = iter(v for k, v in state.items() if not k.endswith("num_batches_tracked"))

    def norm_relu(x: Tensor) -> Tensor:
        weight, bias, mean, var = (next(tensors) for _ in range(4))
        return batch_norm(x, mean, var, weight, bias, eps=1e-5).clamp(min=0)

    x = conv2d(x, next(tensors), padding=1)
    for block in range(3):
        if block:
            x = avg_pool2d(conv2d(norm_relu(x), next(tensors)), 2)
        for _ in range(layers):
            x = torch.cat([x, conv2d(norm_relu(x), next(tensors), padding=1)], 1)
    x = norm_relu(x).mean((2, 3))
    return linear(x, next(tensors), next(tensors))


@pytest.mark.parametrize(("depth", "layers"), [(40, 12), (100, 32)])
def test_cifar_outputs_without_bc_match_a_reimplementation(depth: int, layers: int) -> None:
    model = cnnarch.get_model(f"densenet_{depth}_12_cifar")
    images = torch.randn(2, 3, 12, 12)
    randomize_norms(model, images)
    with torch.no_grad():
        assert_close(model(images), densenet_by_hand(model.state_dict(), layers, images))


def test_bc_40_12_can_be_built_from_the_class() -> None:
    with torch.device("meta"):
        assert_parameters(CifarDenseNet(40, 12, bc=True), 176_122)


def test_a_custom_network_can_be_built_from_the_class() -> None:
    model = DenseNet(8, (2, 2, 2), bottleneck=None, compression=1.0, num_classes=4, in_channels=1)
    assert [m.shape[1] for m in model.eval().forward_stages(torch.zeros(1, 1, 32, 32))] == [
        16,
        32,
        48,
        64,
    ]
    assert sum(isinstance(m, Dense) for m in model.modules()) == 3


@pytest.mark.parametrize("name", ["densenet121", "densenet_40_12_cifar"])
def test_every_norm_has_the_usual_constants_and_no_convolution_has_a_bias(name: str) -> None:
    model = cnnarch.get_model(name)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == len(convolutions(model)) + (name == "densenet121")
    assert {(n.eps, n.momentum) for n in norms} == {(1e-5, 0.1)}
    assert all(c.bias is None for c in convolutions(model))


def test_no_activation_is_shared_or_in_place() -> None:
    model = cnnarch.densenet121()
    relus = [m for m in model.modules() if isinstance(m, nn.ReLU)]
    assert len(relus) == 121  # 119 ReLUs precede convolutions; two follow the first and last norms
    assert not any(r.inplace for r in relus)


def test_dropout_follows_every_convolution_except_the_stem() -> None:
    model = cnnarch.densenet_40_12_cifar(dropout=0.2)
    rates = [m.p for m in model.modules() if isinstance(m, nn.Dropout)]
    # 36 layers and 2 transitions; the dropout before the classifier is disabled.
    assert sorted(rates) == [0.0] + [0.2] * 38
    assert model.head.dropout.p == 0


def test_invalid_depths_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"depth must be 3n \+ 4 with n >= 1, got 41"):
        CifarDenseNet(41, 12)
    with pytest.raises(ValueError, match=r"depth must be 6n \+ 4 with n >= 1, got 43"):
        CifarDenseNet(43, 12, bc=True)
    with pytest.raises(ValueError, match=r"depth must be 3n \+ 4 with n >= 1, got 4"):
        CifarDenseNet(4, 12)
    with pytest.raises(ValueError, match="depths must list at least one dense block"):
        DenseNet(32, ())
    with pytest.raises(ValueError, match="num_layers must be an integer of at least 1, got 0"):
        DenseNet(32, (2, 0))


@pytest.mark.parametrize("compression", [0, 1.5, -1, "half"])
def test_compression_out_of_range_is_rejected(compression: float) -> None:
    with pytest.raises(ValueError, match=r"compression must be .*got "):
        DenseNet(8, (1, 1), compression=compression)


@pytest.mark.parametrize("growth_rate", [0, 2.5])
def test_a_growth_rate_out_of_range_is_rejected(growth_rate: int) -> None:
    for make in (lambda: DenseNet(growth_rate, (1, 1)), lambda: CifarDenseNet(40, growth_rate)):
        with pytest.raises(ValueError, match="growth_rate must be an integer of at least 1, got"):
            make()
