"""AlexNet against its papers (Krizhevsky, 2012 and 2014), torchvision and pytorchcv."""

import copy
from functools import partial

import pytest
import torch
from pytorchcv.models.alexnet import alexnet as pytorchcv_alexnet
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, max_pool2d

import cnnarch
from cnnarch.blocks import LRN, AdaptiveAvgPool2d
from cnnarch.models.alexnet import AlexNet, AlexNetConfig
from cnnarch.testing import assert_close
from tests.oracles.in_order import assert_same_outputs

TWO_TOWERS = AlexNetConfig(8, 16, 24, 24, 16, groups=2, lrn=True, padding=0)
ONE_TOWER = AlexNetConfig(8, 12, 16, 16, 12, groups=1, lrn=False, padding=2)
SMALL_FORMS = {
    "two_towers": partial(AlexNet, TWO_TOWERS, 16),
    "two_towers-all_connected": partial(AlexNet, TWO_TOWERS, 16, groups=1),
    "one_tower": partial(AlexNet, ONE_TOWER, 16),
}

SIZES = [(227, 227), (224, 224), (67, 95)]


def on_meta(name: str, **options: object) -> AlexNet:
    with torch.device("meta"):
        model: AlexNet = cnnarch.get_model(name, **options)
    return model


def leaves(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if not any(m.children())]


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [m for m in leaves(model) if isinstance(m, nn.Conv2d)]


@pytest.fixture(scope="module")
def alexnet() -> AlexNet:
    torch.manual_seed(0)
    return cnnarch.alexnet().eval()


def alexnet_by_hand(model: AlexNet, x: Tensor) -> Tensor:
    """Compute the 2012 network's output as in Fig. 2: two towers, connected in conv3 and fc6."""
    weights, biases = (
        [t for name, t in model.state_dict().items() if name.endswith(kind)]
        for kind in ("weight", "bias")
    )

    def conv(index: int, x: Tensor, towers: int, stride: int = 1, padding: int = 0) -> Tensor:
        parts = zip(
            x.chunk(towers, 1), weights[index].chunk(towers), biases[index].chunk(towers),
            strict=True,
        )  # fmt: skip
        return torch.cat([conv2d(a, w, b, stride, padding).relu() for a, w, b in parts], 1)

    def normalize(a: Tensor) -> Tensor:
        squares, channels = a.square(), a.shape[1]
        rows = [squares[:, max(0, i - 2) : i + 3].sum(1) for i in range(channels)]
        return a / (2 + 1e-4 * torch.stack(rows, 1)) ** 0.75

    x = max_pool2d(normalize(conv(0, x, 1, stride=4)), 3, 2)
    x = max_pool2d(normalize(conv(1, x, 2, padding=2)), 3, 2)
    x = conv(2, x, 1, padding=1)
    x = conv(3, x, 2, padding=1)
    x = max_pool2d(conv(4, x, 2, padding=1), 3, 2).flatten(1)
    for index in (5, 6):
        x = linear(x, weights[index], biases[index]).relu()
    return linear(x, weights[7], biases[7])


def test_the_2012_network_matches_the_paper(alexnet: AlexNet) -> None:
    x = 500 * torch.randn(2, 3, 227, 227)  # large enough for the normalization to have an effect
    with torch.no_grad():
        assert_close(alexnet(x), alexnet_by_hand(alexnet, x))
        plain = copy.deepcopy(alexnet)
        for module in plain.modules():
            if isinstance(module, LRN):
                module.alpha /= 5  # as if alpha were 1e-4 in torch.nn.LocalResponseNorm
        with pytest.raises(AssertionError, match="are not close"):
            assert_close(plain(x), alexnet_by_hand(alexnet, x), 1e-3)


def test_224_pixel_images_also_work(alexnet: AlexNet) -> None:
    with torch.no_grad():
        assert alexnet(torch.randn(1, 3, 224, 224)).shape == (1, 1000)
        assert alexnet.forward_features(torch.randn(1, 3, 224, 224)).shape == (1, 256, 5, 5)


def test_without_groups_and_with_pytorchs_alpha_it_matches_pytorchcv() -> None:
    ours = cnnarch.alexnet(groups=1)
    for module in ours.modules():
        if isinstance(module, LRN):
            module.alpha = 1e-4 / 5
    assert_same_outputs(ours, pytorchcv_alexnet(), (227, 227))


def test_the_kernels_have_the_papers_shapes() -> None:
    """Sec. 3.5: conv2's kernels are 5x5x48, conv3's 3x3x256, conv4's and conv5's 3x3x192."""
    shapes = [tuple(conv.weight.shape) for conv in convolutions(on_meta("alexnet"))]
    assert shapes == [
        (96, 3, 11, 11),
        (256, 48, 5, 5),
        (384, 256, 3, 3),
        (384, 192, 3, 3),
        (256, 192, 3, 3),
    ]
    assert [c.groups for c in convolutions(on_meta("alexnet"))] == [1, 2, 1, 2, 2]
    for name, options in (("alexnet", {"groups": 1}), ("alexnet_owt", {})):
        assert [c.groups for c in convolutions(on_meta(name, **options))] == [1] * 5


def test_the_order_is_relu_normalization_pool() -> None:
    model = on_meta("alexnet")
    kinds = [type(m) for m in (*leaves(model.stem), *leaves(model.stages))]
    conv = [nn.Conv2d, nn.ReLU]
    assert kinds == [
        *[*conv, LRN, nn.MaxPool2d] * 2,
        *[*conv, *conv, *conv, nn.MaxPool2d],
    ]
    assert not any(isinstance(m, LRN) for m in on_meta("alexnet_owt").modules())


def test_normalization_has_the_papers_constants() -> None:
    found = [m for m in on_meta("alexnet").modules() if isinstance(m, LRN)]
    assert [(m.n, m.k, m.alpha, m.beta) for m in found] == [(5, 2.0, 1e-4, 0.75)] * 2


def test_pools_overlap() -> None:
    for name in ("alexnet", "alexnet_owt"):
        pools = [m for m in leaves(on_meta(name)) if isinstance(m, nn.MaxPool2d)]
        assert [(p.kernel_size, p.stride, p.padding, p.ceil_mode) for p in pools] == [
            (3, 2, 0, False)
        ] * 3


def test_dropout_follows_the_hidden_layers() -> None:
    """Sec. 4.2. In torchvision, dropout precedes fc6 and fc7, so it affects pool5 but not fc7."""
    for name in ("alexnet", "alexnet_owt"):
        kinds = [type(m) for m in leaves(on_meta(name, dropout=0.3).head)]
        hidden = [nn.Linear, nn.ReLU, nn.Dropout]
        assert kinds == [AdaptiveAvgPool2d, nn.Flatten, *hidden, *hidden, nn.Linear]
        rates = [m.p for m in on_meta(name).modules() if isinstance(m, nn.Dropout)]
        assert rates == [0.5, 0.5]
        rates = [m.p for m in on_meta(name, dropout=0.3).modules() if isinstance(m, nn.Dropout)]
        assert rates == [0.3, 0.3]


def test_weights_are_initialized_as_described_in_section_5(alexnet: AlexNet) -> None:
    layers = [m for m in leaves(alexnet) if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert abs(layer.weight.mean()) < 3e-4
    biases = [layer.bias.unique().tolist() for layer in layers]
    conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8 = biases
    assert conv2 == conv4 == conv5 == fc6 == fc7 == [1.0]
    assert conv1 == conv3 == fc8 == [0.0]


def test_a_new_classifier_is_initialized_the_same_way() -> None:
    model = cnnarch.alexnet(num_classes=0)
    assert model.num_features == 4096
    model.reset_classifier(50)
    assert model.head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not model.head.classifier.bias.any()


def test_feature_maps_are_the_outputs_of_the_stem_and_the_pools() -> None:
    for name, widths in (("alexnet", (96, 96, 256, 256)), ("alexnet_owt", (64, 64, 192, 256))):
        info = on_meta(name).feature_info
        assert [row.name for row in info] == ["conv1", "pool1", "pool2", "pool5"]
        assert [row.stride for row in info] == [4, 8, 16, 32]
        assert tuple(row.channels for row in info) == widths


def test_one_tower_has_0_2_percent_more_parameters() -> None:
    """2014, sec. 2: "0.2% more parameters"."""
    one, two = (
        sum(p.numel() for p in on_meta(name).parameters()) for name in ("alexnet_owt", "alexnet")
    )
    assert round(100 * (one / two - 1), 1) == 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, r"groups must divide the widths \(96, 256, 384, 384, 256\), got 3"),
        ({"groups": 0}, "groups must be an integer of at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cnnarch.get_model("alexnet", **options)
