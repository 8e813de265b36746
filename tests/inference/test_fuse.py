"""Folding BatchNorm and preprocessing changes neither the outputs nor the original model."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import cnnarch
from cnnarch.blocks.normalization import BatchNorm
from cnnarch.finetuning import convert_norm
from cnnarch.inference.fuse import PixelConv, fuse
from cnnarch.preprocessing import Preprocessing
from cnnarch.testing import assert_close, calibrate, example_images
from cnnarch.weights import WeightsError
from tests.small_forms import Build

IMAGENET = Preprocessing(224, 256)


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, _BatchNorm | BatchNorm) for m in model.modules())


def randomized(model: nn.Module) -> nn.Module:
    """Randomize statistics, scales and shifts, so ignoring any of them changes the output."""
    for module in model.modules():
        if isinstance(module, _BatchNorm | BatchNorm):
            for tensor in (module.weight, module.running_var):
                if tensor is not None:
                    nn.init.uniform_(tensor, 0.5, 2)
            for tensor in (module.bias, module.running_mean):
                if tensor is not None:
                    nn.init.uniform_(tensor, -1, 1)
    return model.eval()


def difference(model: nn.Module, images: Tensor) -> float:
    """Return the relative difference between a network and its fused copy in float64."""
    model = copy.deepcopy(model).double()
    with torch.no_grad():
        expected, found = model(images.double()), fuse(model)(images.double())
    assert expected.std() > 1e-3
    return ((found - expected).abs().max() / expected.abs().max()).item()


def assert_rounding_only(found: Tensor, plain: Tensor, truth: Tensor) -> None:
    """Check that the float32 error is at most 1e-5, or 3 times the error without folding.

    Untrained networks with many layers amplify rounding errors with and without folding.
    """
    error, rounding = ((y - truth).abs().max() / truth.abs().max() for y in (found, plain))
    assert error <= max(1e-5, 3 * rounding)


def pixels(channels: int, side: int) -> Tensor:
    return torch.randint(0, 256, (2, channels, side, side), dtype=torch.uint8)


def normalized(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)
        for values in (preprocessing.mean, preprocessing.std)
    )
    return (images.double() / 255 - mean) / std


def test_folding_changes_no_logits(distinct_model: cnnarch.ImageClassifier) -> None:
    model, images = distinct_model, example_images(distinct_model)
    assert difference(model, images) < 1e-10
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        assert_rounding_only(fuse(model)(images), model(images), exact(images.double()))


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("lenet5_bn", 0),
        ("resnet18", 0),
        ("mobilenet_v1", 0),
        ("efficientnet_b0", 0),
        ("googlenet_bn", 0),
        # Of 121 norms, 1 folds into the stem and 58 into the dense layers' 1x1 convolutions.
        # The other 62 read a concatenation and are followed by a ReLU.
        ("densenet121", 121 - 1 - 58),
    ],
)
def test_only_norms_before_a_relu_are_left(name: str, left: int) -> None:
    assert norms(fuse(cnnarch.get_model(name))) == left


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "densenet121", "mobilenet_v2"])
def test_torchvision_networks_are_fused(name: str) -> None:
    options: dict[str, Any] = {"aux_logits": False, "init_weights": False}
    model = torchvision.models.get_model(name, **(options if name == "googlenet" else {}))
    images = torch.randn(4, 3, 64, 64)
    calibrate(model, images)
    assert difference(model, images) < 1e-10
    assert norms(fuse(model)) == (62 if name == "densenet121" else 0)


def test_a_backbone_is_fused() -> None:
    # in float64, because float32 rounding depends on the machine
    backbone = cnnarch.get_backbone("resnet18").double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    calibrate(backbone, images)
    fused = fuse(backbone)
    assert norms(fused) == 0
    for name, expected in backbone(images).items():
        assert_close(fused(images)[name], expected)


def test_the_copy_has_the_same_class_and_names(tmp_path: Path) -> None:
    model = cnnarch.resnet18(num_classes=10).double()
    images = example_images(model).double()
    calibrate(model, images)
    fused = fuse(model)
    assert type(fused) is type(model)
    assert not fused.training
    assert fused.feature_info == model.feature_info
    names = [name for name, _ in model.named_modules()]
    assert [name for name, _ in fused.named_modules()] == names
    for ours, theirs in zip(
        fused.forward_stages(images), model.forward_stages(images), strict=True
    ):
        assert_close(ours, theirs)
    assert not any(p.requires_grad for p in fused.parameters())
    with pytest.raises(WeightsError):  # its builder would build a different network
        fused.save_pretrained(tmp_path)


@pytest.mark.filterwarnings("ignore:the forward hooks")
def test_the_model_is_left_unchanged() -> None:
    model = cnnarch.resnet20_cifar().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen: list[Any] = []
    model.stem.register_forward_hook(lambda *_: seen.append(1))
    fused = fuse(model, IMAGENET)
    fused(pixels(3, 32))
    assert not seen
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert model.builder == "resnet20_cifar"
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        next(fused.parameters()).zero_()
    assert next(model.parameters()).any()
    model(torch.zeros(2, 3, 32, 32))
    assert seen


def test_the_fused_network_can_be_copied_pickled_compiled_and_exported() -> None:
    model = cnnarch.resnet20_cifar()
    images = torch.randn(2, 3, 32, 32)
    calibrate(model, images)
    fused = fuse(model, IMAGENET)
    image = pixels(3, 32)
    expected = fused(image)
    torch.compiler.reset()
    program = torch.export.export(fused, (image,)).module()
    for same in (
        copy.deepcopy(fused),
        pickle.loads(pickle.dumps(fused)),
        torch.compile(fused, fullgraph=True, backend="eager"),
        program,
        fuse(fused),
    ):
        assert_close(same(image), expected, 1e-6)


class Chain(nn.Module):
    """Layers with a `forward` supplied by a test."""

    def __init__(self, call: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def used_twice(net: Any, x: Tensor) -> Tensor:
    return net.norm(net.conv(net.conv(x)))


def norm_used_twice(net: Any, x: Tensor) -> Tensor:
    return net.norm(net.norm(net.conv(x)))


def read_by_another(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    return net.norm(y) + y


def weight_read_elsewhere(net: Any, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)) * net.conv.weight.sum()


def norm_read_elsewhere(net: Any, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)) * net.norm.weight.sum()


@pytest.mark.parametrize(
    "call",
    [used_twice, norm_used_twice, read_by_another, weight_read_elsewhere, norm_read_elsewhere],
)
def test_layers_that_something_else_reads_are_not_folded(
    call: Callable[..., Tensor],
) -> None:
    conv, norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
    model = randomized(Chain(call, conv=conv, norm=norm))
    assert norms(fuse(model)) == 1
    assert difference(model, torch.randn(2, 3, 8, 8)) < 1e-12


def stays_in_training() -> nn.BatchNorm2d:
    class Training(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> "Training":  # noqa: ARG002
            return super().train(True)

    return Training(8, momentum=0.0)


class Changed(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(super().forward(x))


class ChangedOwnNorm(BatchNorm):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(super().forward(x))


class ChangedConv(nn.Conv2d):
    def _conv_forward(self, *args: Any) -> Tensor:
        return super()._conv_forward(*args).exp()


@pytest.mark.parametrize(
    ("conv", "norm"),
    [
        (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)),
        (nn.Conv2d(3, 8, 3), stays_in_training()),
        (nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)),
        (nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True, track_running_stats=True)),
        (nn.Conv2d(3, 8, 3), Changed(8)),
        (nn.Conv2d(3, 8, 3), ChangedOwnNorm(8)),
        (ChangedConv(3, 8, 3), nn.BatchNorm2d(8)),
        (nn.ConvTranspose2d(3, 8, 3), nn.BatchNorm2d(8)),
    ],
)
def test_other_computations_are_not_folded(conv: nn.Module, norm: nn.Module) -> None:
    model = randomized(nn.Sequential(conv, norm))
    assert type(fuse(model)[1]) is type(norm)
    assert difference(model, torch.randn(2, 3, 8, 8)) < 1e-12


class Subclass(nn.Conv2d):
    """A subclass that computes the same outputs as its base class."""


@pytest.mark.parametrize(
    ("layers", "size"),
    [
        ([nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6)], (4, 8, 8)),
        ([nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)], (4, 8, 8)),
        ([Subclass(4, 6, 3), nn.SyncBatchNorm(6)], (4, 8, 8)),
        ([nn.Conv2d(4, 6, 3), BatchNorm(6)], (4, 8, 8)),
        ([nn.Conv2d(4, 6, 3), nn.Identity(), nn.Dropout(), nn.BatchNorm2d(6)], (4, 8, 8)),
        ([nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)], (4, 8)),
        ([nn.Conv3d(4, 6, 3), nn.BatchNorm3d(6)], (4, 8, 8, 8)),
        ([nn.Flatten(), nn.Linear(32, 6), nn.BatchNorm1d(6)], (4, 8)),
        # A norm before the convolution: no padding, or padding that commutes with the norm.
        ([nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2)], (4, 8, 8)),
        ([nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding="valid")], (4, 8, 8)),
        (
            [nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect")],
            (4, 8, 8),
        ),
        ([nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)], (4, 8, 8)),
        ([nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)], (4, 8, 8)),
    ],
)
def test_every_exact_pair_is_folded(layers: list[nn.Module], size: tuple[int, ...]) -> None:
    model = randomized(nn.Sequential(*layers))
    assert norms(fuse(model)) == 0
    assert difference(model, torch.randn(5, *size)) < 1e-12


def test_a_shift_before_zero_padding_is_not_folded() -> None:
    norm, conv = nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding="same")
    model = randomized(nn.Sequential(norm, conv))
    assert norms(fuse(model)) == 1
    with torch.no_grad():  # shift = bias - weight * mean / sqrt(var + eps)
        norm.running_mean.zero_()
        norm.bias.zero_()
    assert norms(fuse(model)) == 0
    assert difference(model, torch.randn(2, 4, 8, 8)) < 1e-12


def test_a_norm_over_tokens_is_not_folded_into_a_linear_layer() -> None:
    """BatchNorm1d treats the L in (N, L, C) as channels; here L equals C, so both shapes match."""
    model = randomized(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)))
    assert norms(fuse(model)) == 1
    assert difference(model, torch.randn(4, 6, 6)) < 1e-12


def test_frozen_norms_are_folded() -> None:
    model = randomized(convert_norm(cnnarch.resnet20_cifar(), "frozen"))
    calibrate(model, torch.randn(2, 3, 32, 32))
    fused = fuse(model)
    assert not any(type(m).__name__ == "FrozenBatchNorm2d" for m in fused.modules())


def test_bfloat16_is_kept() -> None:
    model = cnnarch.resnet20_cifar()
    images = torch.randn(4, 3, 32, 32)
    calibrate(model, images)
    expected = model(images)
    model = model.to(torch.bfloat16)
    fused = fuse(model)
    assert {p.dtype for p in fused.parameters()} == {torch.bfloat16}
    assert_close(fused(images.bfloat16()).float(), expected, 0.05)


def test_channels_last_is_kept() -> None:
    fused = fuse(cnnarch.resnet20_cifar().to(memory_format=torch.channels_last))
    assert fused.stem.conv.weight.is_contiguous(memory_format=torch.channels_last)


class UserDefinedNorm(nn.Module):
    """A user-defined BatchNorm that declares what it computes."""

    computes_batch_norm = True

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(8)), nn.Parameter(torch.randn(8))
        self.eps = 1e-3
        self.register_buffer("running_mean", torch.randn(8))
        self.register_buffer("running_var", torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.running_mean.view(-1, 1, 1), self.running_var.view(-1, 1, 1)
        scaled = (x - mean) / (variance + self.eps).sqrt() * self.weight.view(-1, 1, 1)
        return scaled + self.bias.view(-1, 1, 1)


def test_a_class_that_declares_batch_norm_is_folded() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), UserDefinedNorm())
    assert type(fuse(model)[1]) is nn.Identity
    assert difference(model, torch.randn(2, 3, 8, 8)) < 1e-12


def test_a_replaced_forward_is_rejected() -> None:
    model = cnnarch.resnet20_cifar()
    norm = model.stem.norm
    norm.forward = norm.forward
    with pytest.raises(ValueError, match=r"the forward method of layer 'stem.norm' was replaced"):
        fuse(model)
    del norm.forward
    fuse(model)


def test_a_network_that_cannot_be_traced_is_named() -> None:
    model = Chain(lambda net, x: net.conv(x) if x.sum() > 0 else x, conv=nn.Conv2d(3, 3, 1))
    with pytest.raises(ValueError, match=r"torch\.fx cannot trace Chain"):
        fuse(model)


def test_weights_that_a_hook_computes_are_rejected() -> None:
    conv = nn.utils.spectral_norm(nn.Conv2d(3, 8, 3))
    with pytest.raises(ValueError, match=r"layer '0' computes its weight in a hook \(SpectralNorm"):
        fuse(nn.Sequential(conv, nn.BatchNorm2d(8)))
    parametrized = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
    model = randomized(nn.Sequential(parametrized, nn.BatchNorm2d(8)))
    assert norms(fuse(model)) == 1
    assert difference(model, torch.randn(2, 3, 8, 8)) < 1e-12


def test_a_layer_that_is_not_called_by_its_name_is_rejected() -> None:
    model = Chain(lambda net, x: net.hidden[1](net.hidden[0](x)), conv=nn.Conv2d(3, 3, 1))
    model.norm = nn.BatchNorm2d(3)
    model.hidden = [model.conv, model.norm]
    with pytest.raises(ValueError, match="cannot trace"):
        fuse(model.eval())


# Preprocessing.


def test_uint8_images_can_be_passed_directly(distinct_stages_form: Build) -> None:
    """One side is even and one odd if possible: some networks pad an even side unequally."""
    model = distinct_stages_form(in_channels=3).double()
    side = example_images(model).shape[-1]
    images = pixels(3, side if model.fixed_input_size else side + 1)[..., :side, :]
    network_input = normalized(images, IMAGENET)
    calibrate(model, network_input)
    with torch.no_grad():
        expected = model(network_input)
        assert_close(fuse(model, IMAGENET)(images), expected, 1e-10)
        fused = fuse(model.float(), IMAGENET)
        assert_rounding_only(fused(images), model(network_input.float()), expected)
        assert torch.equal(fused(images), fused(images.float()))


def test_preprocessing_folds_for_one_channel_and_bfloat16() -> None:
    preprocessing = Preprocessing(28, 28, mean=(0.2860,), std=(0.3530,))
    model = cnnarch.lenet5_bn().double()
    images = pixels(1, 28)
    network_input = normalized(images, preprocessing)
    calibrate(model, network_input)
    expected = model(network_input)
    assert_close(fuse(model, preprocessing)(images), expected, 1e-10)
    bfloat16 = copy.deepcopy(model).bfloat16()
    plain = bfloat16(network_input.bfloat16())
    for fused in (fuse(bfloat16, preprocessing), fuse(model, preprocessing).bfloat16()):
        assert_rounding_only(fused(images), plain, expected)


def test_the_preprocessing_of_a_fused_network_returns_pixels() -> None:
    model = cnnarch.resnet20_cifar()
    model.preprocessing = Preprocessing(32, 32)
    calibrate(model, torch.randn(4, 3, 32, 32))
    fused = fuse(model, model.preprocessing)
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    assert fused.preprocessing is not None
    transformed = fused.preprocessing.transform()(image)
    assert (transformed - image).abs().max() < 1e-3
    expected = model(model.preprocessing.transform()(image)[None])
    assert_close(fused(transformed[None]), expected)
    assert_close(fused(image[None]), expected)


def test_fused_torchvision_networks_accept_pixels() -> None:
    model = torchvision.models.mobilenet_v2().double()
    images = pixels(3, 64)
    calibrate(model, normalized(images, IMAGENET))
    fused = fuse(model, IMAGENET)
    assert isinstance(fused.features[0][0], PixelConv)
    assert_close(fused(images), model(normalized(images, IMAGENET)), 1e-10)


def read_twice(net: Any, x: Tensor) -> Tensor:
    return net.conv(x) + net.conv2(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 1)), r"is 0 \(ReLU\)"),
        (nn.Sequential(nn.Conv2d(4, 3, 1)), "expects 4 channels, but preprocessing has 3"),
        (
            Chain(read_twice, conv=nn.Conv2d(3, 3, 1), conv2=nn.Conv2d(3, 3, 1)),
            r"exactly one layer must read the images, got conv \(Conv2d\), conv2 \(Conv2d\)",
        ),
        (Chain(used_twice, conv=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3)), "used once"),
    ],
)
def test_preprocessing_that_cannot_be_folded_is_rejected(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fuse(model, IMAGENET)


def test_preprocessing_of_a_different_type_is_rejected() -> None:
    with pytest.raises(TypeError, match="must be a Preprocessing, got 'imagenet'"):
        fuse(cnnarch.lenet5(), "imagenet")  # type: ignore[arg-type]
