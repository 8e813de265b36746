"""The three LeNet-5 networks against the paper (LeCun et al., 1998) and reimplementations."""

import copy
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, linear, max_pool2d

import cnnarch
from cnnarch.blocks import BatchNorm
from cnnarch.models.lenet import TABLE_I, LeNet, LeNet1998, LeNetBN
from cnnarch.testing import assert_close, assert_parameters, assert_stage_shapes, calibrate

SMALL_FORMS = {
    "tanh-avg": LeNet,
    "relu-max-28": partial(LeNet, activation="relu", pool="max", image_size=28),
    "sigmoid": partial(LeNet, activation="sigmoid"),
    "1998": LeNet1998,
    "batch_norm": LeNetBN,
}

MODULES = {
    "C1": "stem",
    "S2": "stages.0",
    "C3": "stages.1",
    "S4": "stages.2",
    "C5": "stages.3",
    "F6": "head.hidden",
    "OUT": "head",
}
# Table I as printed: one row per map of S2, one column per map of C3.
PRINTED = """
X . . . X X X . . X X X X . X X
X X . . . X X X . . X X X X . X
X X X . . . X X X . . X . X X X
. X X X . . X X X X . . X . X X
. . X X X . . X X X X . X X . X
. . . X X X . . X X X X . X X X
"""


def images(side: int, batch: int = 3) -> Tensor:
    return torch.randn(batch, 1, side, side)


def test_lenet5_bn_has_no_padding_at_28_pixels() -> None:
    shapes = ((6, 24, 24), (6, 12, 12), (16, 8, 8), (16, 4, 4), (120, 1, 1), (84,), (10,))
    expected = dict(zip(MODULES.values(), shapes, strict=True))
    assert_stage_shapes(cnnarch.lenet5_bn(), expected, (1, 28, 28))


@pytest.mark.parametrize("name", ["lenet5", "lenet5_1998", "lenet5_bn"])
def test_feature_info_rows_are_the_papers_layers(name: str) -> None:
    info = cnnarch.get_model(name).feature_info
    assert [row.name for row in info] == ["C1", "S2", "C3", "S4", "C5"]
    assert [row.stride for row in info] == [1, 2, 2, 4, 4]
    assert [row.channels for row in info] == [6, 6, 16, 16, 120]


def lenet_by_hand(
    model: LeNet, x: Tensor, padding: int, act: type[nn.Module], pool: type[nn.Module]
) -> Tensor:
    """Compute the modern network's logits without modules, from tensors in execution order."""
    tensors = iter(model.state_dict().values())
    squash = {nn.Tanh: torch.tanh, nn.Sigmoid: torch.sigmoid, nn.ReLU: torch.relu}[act]
    halve = {nn.AvgPool2d: avg_pool2d, nn.MaxPool2d: max_pool2d}[pool]
    x = halve(squash(conv2d(x, next(tensors), next(tensors), padding=padding)), 2)
    x = halve(squash(conv2d(x, next(tensors), next(tensors))), 2)
    x = squash(conv2d(x, next(tensors), next(tensors))).flatten(1)
    x = squash(linear(x, next(tensors), next(tensors)))
    return linear(x, next(tensors), next(tensors))


@pytest.mark.parametrize(("side", "padding"), [(32, 0), (28, 2)])
@pytest.mark.parametrize(
    ("activation", "act"), [("tanh", nn.Tanh), ("sigmoid", nn.Sigmoid), ("relu", nn.ReLU)]
)
@pytest.mark.parametrize(("pooling", "pool"), [("avg", nn.AvgPool2d), ("max", nn.MaxPool2d)])
def test_the_modern_network_matches_a_reimplementation_for_all_options(
    side: int,
    padding: int,
    activation: str,
    act: type[nn.Module],
    pooling: str,
    pool: type[nn.Module],
) -> None:
    model = cnnarch.lenet5(activation=activation, pool=pooling, image_size=side)  # type: ignore[arg-type]
    assert_parameters(model, 61_706)
    assert sum(isinstance(m, act) for m in model.modules()) == 4  # C1, C3, C5, F6
    assert sum(isinstance(m, pool) for m in model.modules()) == 2
    x = images(side)
    with torch.no_grad():
        assert_close(model(x), lenet_by_hand(model, x, padding, act, pool))


def test_the_default_is_tanh_and_average_pooling_at_32_pixels() -> None:
    model = cnnarch.lenet5()
    kinds = {type(m) for m in model.modules()}
    assert {nn.Tanh, nn.AvgPool2d} < kinds
    assert model.min_input_size == 32


def test_at_28_pixels_c1_is_padded_to_keep_the_size() -> None:
    model = cnnarch.lenet5(image_size=28)
    assert_stage_shapes(model, {"stem": (6, 28, 28), "stages.3": (120, 1, 1)}, (1, 28, 28))
    assert model.min_input_size == 28
    with pytest.raises(ValueError, match="at least 28x28 pixels, got 27x28"):
        model(torch.zeros(1, 1, 27, 28))


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("activation", "gelu", "'tanh', 'sigmoid', 'relu'"),
        ("pool", "average", "'avg', 'max'"),
        ("image_size", 30, "28, 32"),
    ],
)
def test_an_invalid_choice_is_rejected(option: str, value: object, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be one of {allowed}, got {value!r}"):
        cnnarch.get_model("lenet5", **{option: value})


def test_color_images_add_two_kernels_per_map() -> None:
    assert_parameters(cnnarch.lenet5(in_channels=3), 62_006)


def test_with_larger_images_the_maps_of_c5_are_averaged() -> None:
    model = cnnarch.lenet5()
    x = images(64)
    features = model.forward_features(x)
    assert features.shape[-2:] == (9, 9)
    expected = model.head.hidden(features.mean((2, 3)))
    assert_close(model.forward_head(features, pre_logits=True), expected)


@pytest.mark.parametrize("name", ["lenet5", "lenet5_bn"])
def test_weights_use_glorot_initialization_and_biases_are_zero(name: str) -> None:
    model = cnnarch.get_model(name)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            area = layer.weight[0, 0].numel()
            fans = area * (layer.weight.shape[0] + layer.weight.shape[1])
            limit = (6 / fans) ** 0.5
            assert 0.9 * limit < layer.weight.abs().max() <= limit
            assert layer.bias is None or not layer.bias.any()


def test_c3_is_connected_as_in_table_i() -> None:
    rows = [line.split() for line in PRINTED.split("\n") if line]
    columns = [{i for i in range(6) if rows[i][j] == "X"} for j in range(16)]
    assert [set(seen) for seen in TABLE_I] == columns
    assert sum(map(len, TABLE_I)) == 60  # each "X" in the table


def lenet_1998_by_hand(model: LeNet1998, x: Tensor) -> Tensor:
    """Run the paper's network without modules; C3 is a full convolution with zeroed weights."""
    tensors: Iterator[Tensor] = iter(model.state_dict().values())

    def squash(a: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(2 * a / 3)

    def subsample(a: Tensor) -> Tensor:
        sums = a[..., ::2, ::2] + a[..., 1::2, ::2] + a[..., ::2, 1::2] + a[..., 1::2, 1::2]
        return squash(next(tensors) * sums + next(tensors))

    x = subsample(squash(conv2d(x, next(tensors), next(tensors))))
    kernels, bias = torch.zeros(16, 6, 5, 5), torch.zeros(16)
    column = 0
    for count in (6, 9, 1):
        weight, shift = next(tensors), next(tensors)
        for i in range(count):
            kernels[column, list(TABLE_I[column])] = weight[i]
            bias[column] = shift[i]
            column += 1
    x = subsample(squash(conv2d(x, kernels, bias)))
    x = squash(conv2d(x, next(tensors), next(tensors))).flatten(1)
    x = squash(linear(x, next(tensors), next(tensors)))
    codes = next(tensors)
    return torch.stack([-(x - code).square().sum(1) for code in codes], 1)


def test_lenet5_1998_matches_the_papers_network() -> None:
    model = cnnarch.lenet5_1998()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = images(32)
    with torch.no_grad():
        assert_close(model(x), lenet_1998_by_hand(model, x))


def test_each_layer_has_the_papers_number_of_parameters() -> None:
    model = cnnarch.lenet5_1998()
    for part, expected in {
        "stem": 156,
        "stages.0": 12,
        "stages.1": 1_516,
        "stages.2": 32,
        "stages.3": 48_120,
        "head.hidden": 10_164,
        "head.classifier": 0,
    }.items():
        assert_parameters(model.get_submodule(part), expected)
    assert sum(t.numel() for t in model.state_dict().values()) == 60_840  # including the RBF codes


def test_the_number_of_connections_is_the_papers_340908() -> None:
    """A unit has one connection per input and one for its bias; RBF units have no bias."""
    model = cnnarch.lenet5_1998()
    c1, (c3, *_), c5, f6 = model.stem.conv, model.stages[1], model.stages[3][0].conv, None
    f6 = model.head.hidden[0]
    total = 28 * 28 * sum(p.numel() for p in c1.parameters())
    total += (4 + 1) * (6 * 14 * 14 + 16 * 5 * 5)  # S2 and S4
    total += 10 * 10 * sum(p.numel() for p in c3.parameters())
    total += sum(p.numel() for layer in (c5, f6) for p in layer.parameters())
    total += model.head.classifier.codes.numel()
    assert total == 340_908


def test_1998_weights_are_uniform_within_2_4_over_fan_in() -> None:
    model = cnnarch.lenet5_1998()
    fan_in = {
        "stem.conv": 25,
        "stages.0.0": 4,
        "stages.1.0.convs.0": 3 * 25,
        "stages.1.0.convs.1": 4 * 25,
        "stages.1.0.convs.2": 6 * 25,
        "stages.2.0": 4,
        "stages.3.0.conv": 16 * 25,
        "head.hidden.0": 120,
    }
    for path, inputs in fan_in.items():
        values = torch.cat([p.flatten() for p in model.get_submodule(path).parameters()])
        assert 0.7 * 2.4 / inputs < values.abs().max() <= 2.4 / inputs, path


def test_a_new_classifier_has_one_rbf_code_per_class() -> None:
    model = cnnarch.lenet5_1998()
    before = model.head.classifier.codes
    model.reset_classifier(26)
    assert model(images(32)).shape == (3, 26)
    assert model.head.classifier.codes.shape == (26, 84)
    model.reset_classifier(10)
    assert torch.equal(model.head.classifier.codes, before)
    assert_parameters(model, 60_000)
    model.reset_classifier(0)
    assert model(images(32)).shape == (3, 84)


def test_lenet5_1998_with_rbf_codes_fits_a_small_batch() -> None:
    model = cnnarch.lenet5_1998()
    x, y = images(32, 20), torch.arange(20) % 10
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert torch.equal(model.eval()(x).argmax(1), y)


def test_a_norm_follows_every_convolution_and_hidden_layer_and_no_layer_has_a_bias() -> None:
    leaves = [m for m in cnnarch.lenet5_bn().modules() if not any(m.children())]
    kinds = [type(m) for m in leaves if not isinstance(m, nn.Flatten | nn.Dropout)]
    norm_act = [nn.BatchNorm2d, nn.Sigmoid]
    assert kinds == [
        *[nn.Conv2d, *norm_act, nn.AvgPool2d] * 2,
        *[nn.Conv2d, *norm_act, nn.AdaptiveAvgPool2d],
        *[nn.Linear, nn.BatchNorm1d, nn.Sigmoid, nn.Linear],
    ]
    assert all(m.bias is None for m in leaves if isinstance(m, nn.Conv2d | nn.Linear))


def with_our_batch_norm(model: nn.Module) -> nn.Module:
    """Return a copy of the network with `cnnarch.blocks.BatchNorm` instead of PyTorch's norms."""
    copied = copy.deepcopy(model)
    for path, module in model.named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            norm = BatchNorm(module.num_features, module.eps, module.momentum or 0.1)
            norm.load_state_dict(module.state_dict())
            copied.set_submodule(path, norm.train(module.training))
    return copied


def test_our_batch_norm_produces_the_same_outputs_in_training_and_eval_mode() -> None:
    model = cnnarch.lenet5_bn()
    calibrate(model, images(28, 16))
    copied = with_our_batch_norm(model)
    assert sum(isinstance(m, BatchNorm) for m in copied.modules()) == 4
    x = images(28, 8)
    with torch.no_grad():
        assert_close(copied(x), model(x))
    model.train()
    copied.train()
    for _ in range(2):
        logits, expected = copied(x), model(x)
        assert_close(logits, expected)
        logits.square().sum().backward()
        expected.square().sum().backward()
    for (name, a), b in zip(copied.named_parameters(), model.parameters(), strict=True):
        assert a.grad is not None, name
        assert_close(a.grad, b.grad, 1e-4)
    for (name, a), b in zip(copied.named_buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    with torch.no_grad():
        assert_close(copied.eval()(x), model.eval()(x))
