"""The CIFAR ResNets against their paper (He et al., 2015, sec. 4.2) and pytorchcv."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, linear, relu

import cnnarch
from cnnarch.blocks import ZeroPadShortcut
from cnnarch.models.resnet_cifar import CifarPlainNet, CifarResNet
from cnnarch.testing import assert_close, assert_parameters, calibrate
from tests.oracles.in_order import randomize_norms

SMALL_FORMS = {
    "zero_padding": partial(CifarResNet, 2),
    "projection": partial(CifarResNet, 1, shortcut="B"),
    "plain": partial(CifarPlainNet, 1),
}

OPTION_B = {  # parameter count by depth, with option B shortcuts
    **{20: 272_474, 32: 466_906, 44: 661_338, 56: 855_770, 110: 1_730_714, 1202: 19_424_026}
}
BLOCKS = {20: 3, 32: 5, 44: 7, 56: 9, 110: 18, 1202: 200}  # n for each depth 6n + 2


@pytest.mark.parametrize(("depth", "n"), BLOCKS.items())
def test_the_depth_is_6n_plus_2_layers(depth: int, n: int) -> None:
    with torch.device("meta"):
        model = cnnarch.get_model(f"resnet{depth}_cifar")
    assert [len(stage) for stage in model.stages] == [n, n, n]
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 6 * n + 2 == depth


@pytest.mark.parametrize(("depth", "params"), OPTION_B.items())
def test_with_option_b_the_parameter_count_matches_libraries_with_projections(
    depth: int, params: int
) -> None:
    with torch.device("meta"):
        assert_parameters(cnnarch.get_model(f"resnet{depth}_cifar", shortcut="B"), params)


def test_shortcuts_without_parameters_are_in_blocks_that_change_the_shape() -> None:
    model = cnnarch.resnet20_cifar()
    shortcuts = {n: m for n, m in model.named_modules() if n.endswith("shortcut")}
    padded = [n for n, m in shortcuts.items() if isinstance(m, ZeroPadShortcut)]
    assert padded == ["stages.1.0.shortcut", "stages.2.0.shortcut"]
    others = [m for n, m in shortcuts.items() if n not in padded]
    assert [type(m) for m in others] == [nn.Identity] * 7
    assert not any(p for m in shortcuts.values() for p in m.parameters())


def by_hand(state: dict[str, Tensor], x: Tensor, shortcuts: bool = True) -> Tensor:
    """Compute the logits of the paper's 20-layer networks; option A loops over pixels."""
    tensors = iter(state.values())

    def conv_norm(x: Tensor, stride: int = 1) -> Tensor:
        y = conv2d(x, next(tensors), stride=stride, padding=1)
        weight, bias, mean, variance, _ = (next(tensors) for _ in range(5))
        return batch_norm(y, mean, variance, weight, bias, eps=1e-5)

    x = relu(conv_norm(x))
    for channels in (16, 32, 64):
        for block in range(3):
            stride = 2 if channels > 16 and block == 0 else 1
            y = conv_norm(relu(conv_norm(x, stride)))
            shortcut = torch.zeros_like(y)
            for row in range(y.shape[2]):
                for column in range(y.shape[3]):
                    kept = x[:, :, row * stride, column * stride]
                    shortcut[:, : x.shape[1], row, column] = kept
            x = relu(y + shortcut if shortcuts else y)
    return linear(x.mean((2, 3)), next(tensors), next(tensors))


def test_outputs_match_a_reimplementation_of_the_paper() -> None:
    model = cnnarch.resnet20_cifar()
    images = torch.randn(2, 3, 32, 32)
    randomize_norms(model, images)
    with torch.no_grad():
        for batch in (images, torch.randn(1, 3, 21, 30)):
            assert_close(model(batch), by_hand(model.state_dict(), batch))


def test_plain_networks_are_resnets_without_shortcuts() -> None:
    model = cnnarch.plain20_cifar()
    images = torch.randn(2, 3, 32, 32)
    randomize_norms(model, images)
    with torch.no_grad():
        for batch in (images, torch.randn(1, 3, 21, 30)):
            expected = by_hand(model.state_dict(), batch, shortcuts=False)
            assert_close(model(batch), expected)
            assert expected.std() > 1e-3


@pytest.mark.parametrize(("depth", "n"), [(20, 3), (56, 9)])
def test_plain_networks_have_6n_plus_2_layers_and_no_shortcut_option(depth: int, n: int) -> None:
    with torch.device("meta"):
        model = cnnarch.get_model(f"plain{depth}_cifar")
    assert [len(stage) for stage in model.stages] == [n, n, n]
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == depth
    with pytest.raises(TypeError, match=f"plain{depth}_cifar.. has no option 'shortcut'"):
        cnnarch.get_model(f"plain{depth}_cifar", shortcut="B")


def test_defaults_match_cifar_10() -> None:
    model = cnnarch.resnet20_cifar()
    assert (model.num_classes, model.in_channels, model.num_features) == (10, 3, 64)
    assert [(r.name, r.channels, r.stride) for r in model.feature_info] == [
        ("conv1", 16, 1),
        ("32x32", 16, 1),
        ("16x16", 32, 2),
        ("8x8", 64, 4),
    ]


def test_norms_and_convolutions_are_set_up_as_in_the_imagenet_networks() -> None:
    model = cnnarch.resnet20_cifar()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(n.eps, n.momentum) for n in norms} == {(1e-5, 0.1)}
    for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        assert conv.bias is None
        std = (2 / (9 * conv.out_channels)) ** 0.5
        assert abs(conv.weight.std().item() / std - 1) < 5 / (2 * conv.weight.numel()) ** 0.5


def test_any_size_from_one_pixel_up_works() -> None:
    model = cnnarch.resnet20_cifar().eval()
    assert model.min_input_size == 1
    for size in ((1, 1), (1, 9), (33, 2)):
        assert model(torch.randn(1, 3, *size)).isfinite().all()


def test_an_unknown_shortcut_is_rejected() -> None:
    with pytest.raises(ValueError, match="shortcut must be one of 'A', 'B', got 'C'"):
        cnnarch.resnet20_cifar(shortcut="C")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got 0"):
        cnnarch.models.resnet_cifar.CifarResNet(0)


@torch.no_grad()
def test_an_untrained_resnet1202_returns_nan_in_eval_mode_until_calibrated() -> None:
    """The family's page says so."""
    torch.manual_seed(0)
    model = cnnarch.resnet1202_cifar().eval()
    images = torch.randn(2, 3, 32, 32)
    assert bool(model(images).isnan().all())
    calibrate(model, images)
    assert bool(model(images).isfinite().all())
