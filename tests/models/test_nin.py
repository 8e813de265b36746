"""NiN against the authors' networks (Lin, Chen and Yan, 2013) and pytorchcv."""

import math
from functools import partial

import pytest
import torch
from pytorchcv.models.nin_cifar import nin_cifar10, nin_cifar100
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d, pad

import cnnarch
from cnnarch.models.nin import CIFAR, IMAGENET, CifarNiN, Mlpconv, NiN
from cnnarch.testing import assert_close, assert_parameters, assert_stage_shapes
from tests.oracles.in_order import assert_same_outputs

FIRST = Mlpconv((8, 8, 8), 11, 4, pool=None)
PADDED = Mlpconv((12, 12, 12), 5, padding=2)
LAST = Mlpconv((16, 16), 3, padding=1, dropout=True)
SMALL_FORMS = {
    "nin": partial(NiN, (FIRST, PADDED, LAST)),
    "small_images": partial(NiN, (FIRST, PADDED, LAST), small_images=True),
    "cifar": CifarNiN,
}

MODULES = {
    "nin": {
        "mlpconv1": "stem",
        "pool1": "stages.0.pool",
        "mlpconv2": "stages.0",
        "pool2": "stages.1.pool",
        "mlpconv3": "stages.1",
        "pool3": "stages.2.pool",
        "mlpconv4": "head.act",
        "gap": "head",
    },
    "nin_cifar": {
        "mlpconv1": "stem",
        "pool1": "stages.0.pool",
        "mlpconv2": "stages.0",
        "pool2": "stages.1.pool",
        "mlpconv3": "head.act",
        "gap": "head",
    },
}
TEXTBOOK = (*IMAGENET[:3], Mlpconv((10, 10), 3, padding=1, dropout=True))


def on_meta(name: str, **options: object) -> NiN:
    with torch.device("meta"):
        model: NiN = cnnarch.get_model(name, **options)
    return model


def brighter(model: NiN) -> NiN:
    """Set random biases so that all scores are positive and a missing bias is detected."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.bias, std=0.1)
    return model


def test_the_textbook_network_has_2015398_parameters() -> None:
    with torch.device("meta"):
        assert_parameters(NiN(TEXTBOOK, num_classes=10), 2_015_398)
        assert_parameters(NiN(TEXTBOOK, num_classes=10, in_channels=1), 1_992_166)


def test_the_class_accepts_custom_rows() -> None:
    model = NiN((Mlpconv((4, 4), 3, padding=1, pool=None), Mlpconv((6,), 3, padding=1)))
    assert model(torch.zeros(1, 3, 9, 8)).shape == (1, 1000)
    assert [tuple(row) for row in model.feature_info] == [("mlpconv1", 4, 1), ("mlpconv2", 6, 2)]


@pytest.mark.parametrize(
    ("theirs", "num_classes"), [(nin_cifar10, 10), (nin_cifar100, 100)], ids=["10", "100"]
)
def test_pytorchcvs_network_with_the_authors_pools_matches_ours(
    theirs: object, num_classes: int
) -> None:
    """The authors' pools start at the first pixel; those of pytorchcv are padded by one pixel."""
    pytorchcv_model = theirs()  # type: ignore[operator]
    ours = brighter(cnnarch.nin_cifar(num_classes=num_classes))
    with pytest.raises(AssertionError, match="are not close"):
        assert_same_outputs(ours, pytorchcv_model, (32, 32), tolerance=1e-3)
    pytorchcv_model.features.stage2.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
    pytorchcv_model.features.stage3.pool3 = nn.AvgPool2d(3, 2, ceil_mode=True)
    assert_same_outputs(ours, pytorchcv_model, (32, 32))


def nin_by_hand(model: NiN, x: Tensor) -> Tensor:
    """Run the authors' ImageNet network without modules, using tensors in execution order."""
    tensors = iter(model.state_dict().values())

    def layer(x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        return conv2d(x, next(tensors), next(tensors), stride, padding).relu()

    def mlpconv(x: Tensor, stride: int, padding: int) -> Tensor:
        return layer(layer(layer(x, stride, padding)))

    def pool(x: Tensor) -> Tensor:
        """Pool as Caffe does: windows start at the first pixel and cover all pixels."""
        missing = [2 * math.ceil((side - 3) / 2) + 3 - side for side in x.shape[-2:]]
        return max_pool2d(pad(x, (0, missing[1], 0, missing[0]), value=-torch.inf), 3, 2)

    x = pool(mlpconv(x, 4, 0))
    x = pool(mlpconv(x, 1, 2))
    x = pool(mlpconv(x, 1, 1))
    return mlpconv(x, 1, 1).mean((2, 3))


@pytest.mark.parametrize("size", [(224, 224), (227, 227), (97, 131)], ids=str)
def test_the_imagenet_network_matches_the_authors_network(size: tuple[int, int]) -> None:
    model = brighter(cnnarch.nin(num_classes=20)).eval()
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert_close(model(x), nin_by_hand(model, x))


def test_an_average_pool_ignores_pixels_outside_the_map() -> None:
    """As in Caffe, the sum over a truncated window is divided by its actual number of pixels."""
    pool = cnnarch.nin_cifar().stages[1].pool
    assert isinstance(pool, nn.AvgPool2d)
    expected = torch.full((1, 1, 8, 8), 2.0)
    torch.testing.assert_close(pool(torch.full((1, 1, 16, 16), 2.0)), expected)


def test_pools_are_max_then_average_for_cifar_and_max_for_imagenet() -> None:
    kinds = {
        name: [
            (type(m), m.kernel_size, m.stride, m.padding, m.ceil_mode)
            for m in on_meta(name).stages.modules()
            if isinstance(m, nn.MaxPool2d | nn.AvgPool2d)
        ]
        for name in MODULES
    }
    shape = (3, 2, 0, True)
    assert kinds["nin_cifar"] == [(nn.MaxPool2d, *shape), (nn.AvgPool2d, *shape)]
    assert kinds["nin"] == [(nn.MaxPool2d, *shape)] * 3


def test_widths_match_the_authors_network() -> None:
    for name, rows in (
        ("nin", ((96,) * 3, (256,) * 3, (384,) * 3, (1024, 1024, 1000))),
        ("nin_cifar", ((192, 160, 96), (192,) * 3, (192, 192, 10))),
    ):
        convs = [m for m in on_meta(name).modules() if isinstance(m, nn.Conv2d)]
        assert [c.out_channels for c in convs] == [width for row in rows for width in row]


def test_dropout_is_between_pool_and_convolution() -> None:
    """Dropout follows both pools for CIFAR and the last pool for ImageNet."""
    for name, paths in (("nin_cifar", ["0.dropout", "1.dropout"]), ("nin", ["2.dropout"])):
        model = on_meta(name, dropout=0.25)
        found = {path: m.p for path, m in model.stages.named_modules() if isinstance(m, nn.Dropout)}
        assert found == dict.fromkeys(paths, 0.25)
        assert model.head.dropout.p == 0.0
        assert {m.p for m in on_meta(name).stages.modules() if isinstance(m, nn.Dropout)} == {0.5}


def test_logits_are_averaged_scores_and_never_negative() -> None:
    model = brighter(cnnarch.nin_cifar()).eval()
    with torch.no_grad():
        logits = model(torch.randn(4, 3, 32, 32))
    assert (logits >= 0).all()
    assert (logits.sum(1) - 1).abs().min() > 1e-3  # unlike probabilities, they do not sum to 1


def test_the_head_supports_pre_logits_and_a_new_classifier() -> None:
    model = brighter(cnnarch.nin_cifar()).eval()
    features = model.forward_features(torch.randn(2, 3, 32, 32))
    assert model.num_features == features.shape[1] == 192
    averaged = model.forward_head(features, pre_logits=True)
    assert_close(averaged, features.mean((2, 3)))
    model.reset_classifier(0)
    assert torch.equal(model.forward_head(features), averaged)
    model.reset_classifier(7)
    assert model.forward_head(features).shape == (2, 7)


@pytest.mark.parametrize(("name", "min_size"), [("nin", 39), ("nin_cifar", 4)])
def test_the_minimum_size_depends_on_the_rows(name: str, min_size: int) -> None:
    model = cnnarch.get_model(name, num_classes=2).eval()
    assert model.min_input_size == min_size
    assert model.forward_features(torch.zeros(1, 3, min_size, min_size)).shape[-2:] == (1, 1)
    with pytest.raises(ValueError, match=f"at least {min_size}x{min_size} pixels"):
        model(torch.zeros(1, 3, min_size, min_size - 1))


def test_small_images_give_a_4x4_map_and_change_only_the_stems_kernel() -> None:
    model = on_meta("nin", small_images=True)
    assert [row.stride for row in model.feature_info] == [1, 2, 4, 8]
    shapes = {"stem": (96, 32, 32), "stages.2": (1024, 4, 4)}
    assert_stage_shapes(model, shapes, (3, 32, 32))
    assert_parameters(model, 7_595_176 - 3 * 96 * (11 * 11 - 3 * 3))


@pytest.mark.parametrize("rows", [(), IMAGENET[1:], (CIFAR[0]._replace(dropout=True),)])
def test_an_invalid_first_row_is_rejected(rows: tuple[Mlpconv, ...]) -> None:
    with pytest.raises(ValueError, match="the first row must have no pool or dropout, got rows"):
        NiN(rows)
