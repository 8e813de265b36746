"""VGG against its paper (Simonyan and Zisserman, 2014) and torchvision."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
import torchvision
from torch import nn

import cnnarch
from cnnarch.blocks import LRN, AdaptiveAvgPool2d
from cnnarch.models.vgg import VGG
from cnnarch.testing import assert_close, assert_parameters
from tests.oracles.in_order import assert_same_outputs, copy_in_order

NAMES = [f"vgg{depth}{form}" for depth in (11, 13, 16, 19) for form in ("", "_bn")]
TINY = ((1, 4), (2, 8))
ROWS = ((1, 4), (2, 8), (1, 8), (1, 8), (1, 12))
SMALL_FORMS = {
    "vgg": partial(VGG, ROWS, hidden=16),
    "small_images": partial(VGG, ROWS, hidden=16, small_images=True),
    "batch_norm": partial(VGG, ROWS, nn.BatchNorm2d, hidden=16),
    "lrn": partial(VGG, ROWS, lrn=True, hidden=16),
    "last_kernel_1x1": partial(VGG, (*ROWS[:4], (2, 12, 1)), hidden=16),
}


def on_meta(name: str, **options: object) -> VGG:
    with torch.device("meta"):
        model: VGG = cnnarch.get_model(name, **options)
    return model


def layers(model: VGG) -> list[nn.Module]:
    """Return the layers of the stem and the stages as one list, in execution order."""
    parts = [model.stem, *(block for stage in model.stages for block in stage)]
    return [m for part in parts for m in part.modules() if not any(m.children())]


def with_values(module: nn.Module) -> nn.Module:
    """Replace the tensors of a module on the meta device with random ones."""
    module.to_empty(device="cpu")
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.1)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
    return module


@pytest.mark.parametrize(("name", "depth"), [*((n, int(n[3:5])) for n in NAMES), ("vgg16_c", 16)])
def test_the_name_counts_the_layers_with_weights(name: str, depth: int) -> None:
    model = on_meta(name)
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == depth


def test_stages_end_with_their_pool_and_the_stem_is_the_first_convolution() -> None:
    model = on_meta("vgg16")
    assert [r.name for r in model.feature_info] == [
        "conv1_1", "stage1", "stage2", "stage3", "stage4", "stage5",
    ]  # fmt: skip
    assert [r.stride for r in model.feature_info] == [1, 2, 4, 8, 16, 32]
    assert [r.channels for r in model.feature_info] == [64, 64, 128, 256, 512, 512]
    for stage in model.stages:
        pool = stage[-1]
        assert isinstance(pool, nn.MaxPool2d)
        assert (pool.kernel_size, pool.stride, pool.padding) == (2, 2, 0)
        assert not pool.ceil_mode


def test_every_convolution_has_a_bias_and_its_own_relu() -> None:
    for name in ("vgg11", "vgg13_bn"):
        found = layers(on_meta(name))
        convs = [m for m in found if isinstance(m, nn.Conv2d)]
        relus = [m for m in found if isinstance(m, nn.ReLU)]
        assert all(c.bias is not None for c in convs)
        assert len(relus) == len(set(relus)) == len(convs)
        assert not any(r.inplace for r in relus)


def test_every_convolution_is_3x3_except_the_last_in_three_blocks_of_configuration_c() -> None:
    for name in ("vgg11", "vgg16", "vgg19_bn"):
        kernels = {m.kernel_size for m in layers(on_meta(name)) if isinstance(m, nn.Conv2d)}
        assert kernels == {(3, 3)}
    convs = [m for m in layers(on_meta("vgg16_c")) if isinstance(m, nn.Conv2d)]
    assert [c.kernel_size[0] for c in convs] == [3] * 4 + [3, 3, 1] * 3
    assert all(c.padding[0] == c.kernel_size[0] // 2 for c in convs)


def test_the_only_lrn_is_between_the_first_relu_and_the_first_pool() -> None:
    """Column A-LRN of Table 1, with the constants of the AlexNet paper."""
    found = layers(on_meta("vgg11_lrn"))
    (lrn,) = (m for m in found if isinstance(m, LRN))
    assert (lrn.n, lrn.alpha, lrn.beta, lrn.k) == (5, 1e-4, 0.75, 2.0)
    at = found.index(lrn)
    assert [type(m) for m in found[at - 2 : at + 2]] == [nn.Conv2d, nn.ReLU, LRN, nn.MaxPool2d]
    assert at == 2
    for name in ("vgg11", "vgg11_bn"):
        assert not any(isinstance(m, LRN) for m in on_meta(name).modules())


def test_lrn_matches_pytorch_with_alpha_times_n() -> None:
    """PyTorch divides alpha by n. Pixel values are in the hundreds so that LRN has an effect."""
    ours = VGG(((1, 8), (1, 8)), None, True, num_classes=10).eval()
    lrn = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
    with torch.no_grad():
        first = ours.stem(100 * torch.randn(2, 3, 32, 32))
        assert_close(ours.stages[0](first), nn.functional.max_pool2d(lrn(first), 2))
        assert lrn(first).std() < 0.5 * first.std()


@pytest.mark.parametrize("name", NAMES)
def test_features_match_torchvision(name: str) -> None:
    ours = on_meta(name)
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name)
    assert_same_outputs(
        with_values(nn.Sequential(ours.stem, *ours.stages)),
        with_values(theirs.features),
        (32, 32),
        (43, 37),  # repeated halving gives both odd and even sizes
    )


def test_outputs_of_the_fully_connected_layers_match_torchvision() -> None:
    """A few channels suffice here; the full widths are checked in other tests."""
    ours = VGG(((1, 8), (1, 8)), num_classes=50)
    features = torchvision.models.vgg.make_layers([8, "M", 8, "M"])
    with torch.device("meta"):
        theirs = torchvision.models.VGG(features, num_classes=50, init_weights=False)
    theirs.classifier[0] = nn.Linear(8 * 7 * 7, 4096, device="meta")
    theirs.to_empty(device="cpu")
    assert_same_outputs(ours, theirs, (64, 64), (75, 53), (33, 28))


def test_configuration_c_matches_its_column_in_table_1() -> None:
    with torch.device("meta"):
        ours = cnnarch.vgg16_c(width=0.25)
    column: list[nn.Module] = []
    channels = 3
    for width, kernels in ((16, (3, 3)), (32, (3, 3)), *[(w, (3, 3, 1)) for w in (64, 128, 128)]):
        for kernel in kernels:
            column += [nn.Conv2d(channels, width, kernel, padding=kernel // 2), nn.ReLU()]
            channels = width
        column.append(nn.MaxPool2d(2, 2))
    features = with_values(nn.Sequential(ours.stem, *ours.stages))
    assert_same_outputs(features, nn.Sequential(*column), (64, 64), (75, 53))


def test_the_head_has_two_hidden_layers_of_4096_units_with_relu_and_dropout() -> None:
    head = on_meta("vgg16", dropout=0.3).head
    assert [type(m) for m in head.hidden] == [
        nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU,
    ]  # fmt: skip
    assert [n for n, _ in head.named_children()] == [
        "pool", "flatten", "hidden", "dropout", "classifier",
    ]  # fmt: skip
    assert head.hidden.fc6.in_features == 512 * 7 * 7
    assert (head.hidden.dropout.p, head.dropout.p) == (0.3, 0.3)
    assert on_meta("vgg16").head.dropout.p == 0.5
    assert on_meta("vgg16").num_features == 4096


def test_the_pool_to_7x7_has_no_effect_at_224_pixels() -> None:
    model = on_meta("vgg11")
    assert model.forward_features(torch.empty(1, 3, 224, 224, device="meta")).shape[-2:] == (7, 7)
    assert isinstance(model.head.pool, AdaptiveAvgPool2d)
    x = torch.randn(1, 8, 7, 7)
    assert torch.equal(model.head.pool(x), x)


def test_weights_use_glorot_initialization_and_biases_are_zero() -> None:
    """The variance is 2 / (fan_in + fan_out): footnote in sec. 3.1."""
    model = cnnarch.vgg11(width=0.25)
    for layer in (m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)):
        area = math.prod(layer.weight.shape[2:])
        std = math.sqrt(2 / (area * sum(layer.weight.shape[:2])))
        assert layer.weight.std().item() == pytest.approx(std, rel=0.06)
        assert layer.bias.abs().max() == 0
    model.reset_classifier(100)
    std = math.sqrt(2 / 4196)
    assert model.head.classifier.weight.std().item() == pytest.approx(std, rel=0.02)


def test_width_0_25_does_not_change_the_fully_connected_layers() -> None:
    """By hand: convolutions with 16 to 128 filters, then 128 * 49 -> 4096 -> 4096 -> 10."""
    widths = (1, 16, 32, 64, 64, 128, 128, 128, 128)
    convs = sum((9 * a + 1) * b for a, b in pairwise(widths))
    linear = (128 * 49 + 1) * 4096 + 4097 * 4096 + 4097 * 10
    assert convs + linear == 43_093_322
    assert_parameters(on_meta("vgg11", width=0.25, in_channels=1, num_classes=10), 43_093_322)


def test_custom_rows_can_be_passed_to_the_class() -> None:
    model = VGG(TINY, num_classes=3, in_channels=1).eval()
    assert [tuple(r) for r in model.feature_info] == [
        ("conv1_1", 4, 1), ("stage1", 4, 2), ("stage2", 8, 4),
    ]  # fmt: skip
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 3)
    five = (
        (1, 64),
        (1, 128),
        (2, 256),
        (2, 512),
        (2, 512),
    )  # the paper's configuration A as (convolutions, channels)
    with torch.device("meta"):
        assert_parameters(VGG(five), 132_863_336)


def test_the_smallest_image_gives_one_pixel() -> None:
    """Each pool halves the side and rounds down, so networks with five pools need 32 pixels."""
    assert on_meta("vgg16").min_input_size == 32
    assert on_meta("vgg16", small_images=True).min_input_size == 8
    model = VGG(TINY, num_classes=3).eval()
    assert model.min_input_size == 4
    for size in ((4, 4), (4, 33), (5, 7), (30, 6)):
        assert model(torch.randn(1, 3, *size)).isfinite().all()
    for size in ((3, 4), (4, 3)):
        with pytest.raises(ValueError, match=f"at least 4x4 pixels, got {size[0]}x{size[1]}"):
            model(torch.randn(1, 3, *size))


@pytest.mark.parametrize("name", ["vgg11", "vgg11_lrn", "vgg16_bn"])
def test_small_images_keep_the_last_three_pools(name: str) -> None:
    model = on_meta(name, small_images=True).eval()
    maps = model.forward_stages(torch.empty(1, 3, 32, 32, device="meta"))
    assert [m.shape[-1] for m in maps] == [32, 32, 32, 16, 8, 4]
    shapes = [p.shape for p in model.parameters()]
    assert shapes == [p.shape for p in on_meta(name).parameters()]


def test_a_stage_without_layers_returns_its_input() -> None:
    """Without its pool, the first block of vgg11 contains only the stem."""
    model = cnnarch.vgg11(small_images=True, width=0.05, num_classes=2).eval()
    stem, stage1, *_ = model.forward_stages(torch.randn(1, 3, 32, 32))
    assert torch.equal(stem, stage1)


@pytest.mark.parametrize("width", [0, -1, float("nan"), float("inf"), "wide", True])
def test_a_width_that_is_not_a_number_above_0_is_rejected(width: object) -> None:
    with pytest.raises(ValueError, match="width must be a number above 0"):
        cnnarch.vgg11(width=width)


def test_a_tiny_width_results_in_one_channel() -> None:
    model = on_meta("vgg11", width=1e-6)
    assert {r.channels for r in model.feature_info} == {1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((), "pairs of depth and channels"),
        (((1,),), "pairs of depth and channels"),
        (((1, 2, 3, 4),), "pairs of depth and channels"),
        (((0, 8),), "depth must be an integer of at least 1, got 0"),
        (((1, 0),), "channels must be an integer of at least 1, got 0"),
        (((1, 8, 0),), "last_kernel_size must be an integer of at least 1, got 0"),
    ],
)
def test_invalid_rows_are_rejected(rows: tuple[tuple[int, int], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VGG(rows)


def test_dropout_out_of_range_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1.0"):
        cnnarch.vgg11(dropout=1.0)


def test_tensors_are_in_torchvisions_order() -> None:
    ours = on_meta("vgg13_bn")
    with torch.device("meta"):
        theirs = torchvision.models.vgg13_bn(init_weights=False)
    copy_in_order(ours, theirs)
