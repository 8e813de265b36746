"""BN-Inception against its paper (Ioffe and Szegedy, 2015), the SE paper and pytorchcv."""

from functools import partial

import pytest
import torch
from pytorchcv.model_provider import get_model as pytorchcv_model
from torch import nn

import cnnarch
from cnnarch.blocks import SE, AlignedMaxPool2d
from cnnarch.models.inception_bn import BNInception, BNInceptionRow, DoubleInception
from cnnarch.testing import assert_close
from tests.oracles.in_order import randomize_norms

AVERAGE = BNInceptionRow(1, 4, (4, 8), (4, 8), "avg", 4)
STRIDED = BNInceptionRow(2, 0, (4, 8), (4, 8), "max", 0)
LARGEST = BNInceptionRow(1, 4, (4, 8), (4, 8), "max", 4)
ROWS = ((AVERAGE,), (STRIDED,), (STRIDED, LARGEST))
SMALL_FORMS = {
    "plain": partial(BNInception, stages=ROWS),
    "small_images": partial(BNInception, stages=ROWS, small_images=True),
    "squeeze_excite": partial(BNInception, 4, ROWS),
}

BLOCKS = {  # row of Fig. 5 to module
    "inception_3a": "stages.1.0",
    "inception_3b": "stages.1.1",
    **{f"inception_{row}": f"stages.2.{i}" for i, row in enumerate(("3c", "4a", "4b", "4c", "4d"))},
    **{f"inception_{row}": f"stages.3.{i}" for i, row in enumerate(("4e", "5a", "5b"))},
}
FIG_5 = {  # "#1x1"; "#3x3 reduce", "#3x3"; "double #3x3 reduce", "double #3x3" twice; pool, proj
    "inception_3a": (64, 64, 64, 64, 96, 96, "avg", 32),
    "inception_3b": (64, 64, 96, 64, 96, 96, "avg", 64),
    "inception_3c": (128, 160, 64, 96, 96, "max"),
    "inception_4a": (224, 64, 96, 96, 128, 128, "avg", 128),
    "inception_4b": (192, 96, 128, 96, 128, 128, "avg", 128),
    "inception_4c": (160, 128, 160, 128, 160, 160, "avg", 128),
    "inception_4d": (96, 128, 192, 160, 192, 192, "avg", 128),
    "inception_4e": (128, 192, 192, 256, 256, "max"),
    "inception_5a": (352, 192, 320, 160, 224, 224, "avg", 128),
    "inception_5b": (352, 192, 320, 192, 224, 224, "max", 128),
}
KINDS = {nn.AvgPool2d: "avg", nn.MaxPool2d: "max"}


def block_of(model: BNInception, row: str) -> DoubleInception:
    block = model.get_submodule(BLOCKS[row])
    assert isinstance(block, DoubleInception)
    return block


@pytest.mark.parametrize("row", FIG_5)
def test_branches_have_the_widths_and_pools_of_fig_5(row: str) -> None:
    with torch.device("meta"):
        block = block_of(cnnarch.bn_inception(), row)
    found: list[int | str] = []
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            found.append(module.out_channels)
        elif type(module) in KINDS:
            found.append(KINDS[type(module)])
    assert tuple(found) == FIG_5[row]


def test_in_3c_and_4e_the_last_3x3_has_the_stride_and_the_pool_has_no_projection() -> None:
    model = cnnarch.bn_inception()
    for row in FIG_5:
        block = block_of(model, row)
        convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
        strided = [name for name, m in block.named_modules() if getattr(m, "stride", 1) == (2, 2)]
        if row in ("inception_3c", "inception_4e"):
            assert strided == ["branch3x3.conv.conv", "branch_double.conv2.conv"]
            assert [type(m) for m in block.branch_pool] == [AlignedMaxPool2d]
            assert not hasattr(block, "branch1x1")
        else:
            assert strided == []
        assert {c.kernel_size for c in convs} == {(1, 1), (3, 3)}


def test_each_stage_has_one_stride_and_the_name_of_its_last_row() -> None:
    info = cnnarch.bn_inception().feature_info
    names = ["conv1", "conv2", "inception_3b", "inception_4d", "inception_5b"]
    assert [r.name for r in info] == names
    assert [r.stride for r in info] == [2, 4, 8, 16, 32]
    assert [r.channels for r in info] == [64, 192, 320, 608, 1024]


def test_every_convolution_has_a_norm_with_eps_1e_5_and_no_bias() -> None:
    for model in (cnnarch.bn_inception(), cnnarch.se_bn_inception()):
        blocks = [m for m in model.modules() if isinstance(m, DoubleInception)]
        parts = [model.stem, model.stages[0], *blocks]
        convs = [m for part in parts for m in part.modules() if isinstance(m, nn.Conv2d)]
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        relus = [m for part in parts for m in part.modules() if isinstance(m, nn.ReLU)]
        # 3 convolutions before the blocks, 7 in each of eight blocks and 5 in each of two blocks.
        assert len(convs) == len(norms) == len(relus) == 3 + 8 * 7 + 2 * 5
        assert all(c.bias is None for c in convs)
        assert {(n.eps, n.momentum) for n in norms} == {(1e-5, 0.1)}


def copy_to_pytorchcv(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy our tensors to pytorchcv's network and fold its convolution biases into its norms.

    BatchNorm(y + b) with the running mean increased by b equals BatchNorm(y).
    """
    source, target = ours.state_dict(), theirs.state_dict()
    biases = {k: v.uniform_(-1, 1) for k, v in target.items() if k.endswith(".conv.bias")}
    other_keys = [k for k in target if k not in biases]
    assert [source[k].shape for k in source] == [target[k].shape for k in other_keys]
    mapped = dict(zip(other_keys, source.values(), strict=True))
    for key, bias in biases.items():
        mean = key.replace(".conv.bias", ".bn.running_mean")
        mapped[mean] = mapped[mean] + bias
    theirs.load_state_dict(mapped | biases)


@pytest.fixture(scope="module")
def pair() -> tuple[BNInception, nn.Module]:
    torch.manual_seed(0)
    ours = cnnarch.bn_inception()
    randomize_norms(ours, torch.randn(4, 3, 160, 160))
    theirs = pytorchcv_model("bninception")
    copy_to_pytorchcv(ours, theirs)
    return ours, theirs.eval()


@pytest.mark.parametrize("size", [(96, 160), (193, 66)])
def test_features_match_pytorchcv_at_sizes_that_it_supports(
    pair: tuple[BNInception, nn.Module], size: tuple[int, int]
) -> None:
    """The sizes give odd-sized maps before the two max-pools, where Caffe truncates windows."""
    ours, theirs = pair
    layers = [m for name, m in theirs.features.named_children() if name != "final_pool"]
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert_close(ours.forward_features(images), nn.Sequential(*layers)(images), 1e-4)


def test_blocks_with_stride_2_accept_odd_sized_maps() -> None:
    """Here, the block receives a 7x7 map, on which Caffe's network fails."""
    model = cnnarch.bn_inception(num_classes=2).eval()
    maps = model.forward_stages(torch.randn(1, 3, 113, 97))
    assert [m.shape[-2:] for m in maps[2:]] == [(14, 12), (7, 6), (4, 3)]


def test_the_aligned_pool_matches_caffe_for_even_maps() -> None:
    pool, caffe = AlignedMaxPool2d(), nn.MaxPool2d(3, 2, ceil_mode=True)
    x = torch.randn(2, 3, 28, 14)
    assert torch.equal(pool(x), caffe(x))
    other = nn.MaxPool2d(3, 2, padding=1)
    assert not torch.equal(pool(x), other(x))


def test_se_scales_the_output_of_every_block_with_reduction_16() -> None:
    model = cnnarch.se_bn_inception()
    randomize_norms(model, torch.randn(4, 3, 96, 96))
    x = torch.randn(2, 192, 28, 28)
    for row, path in BLOCKS.items():
        gated = model.get_submodule(path)
        y = gated.inception(x)
        reduce, expand = gated.se.reduce, gated.se.expand
        assert reduce.out_channels == y.shape[1] // 16, row
        z = (y.mean((2, 3)) @ reduce.weight.flatten(1).T + reduce.bias).clamp(min=0)
        z = torch.sigmoid(z @ expand.weight.flatten(1).T + expand.bias)
        with torch.no_grad():
            assert_close(gated(x), y * z[:, :, None, None], 1e-4)
            x = gated(x)
    assert sum(isinstance(m, SE) for m in model.modules()) == 10
    assert not any(isinstance(m, SE) for m in cnnarch.bn_inception().modules())


def test_se_adds_two_layers_with_biases_per_block() -> None:
    """2 C C/16 + C/16 + C for each block of width C: 646,398 parameters in total."""
    widths = (256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024)
    added = sum(2 * c * (c // 16) + c // 16 + c for c in widths)
    assert 11_285_224 + added == 11_931_622


def test_the_minimum_size_is_exact_for_each_side() -> None:
    """The two pools need inputs of 4 and 2 pixels, and the stem rounds 7 / 2 up to 4."""
    for min_size, options in ((7, {}), (2, {"small_images": True})):
        model = cnnarch.se_bn_inception(num_classes=2, **options).eval()
        assert model.min_input_size == min_size
        for size in (
            (min_size, min_size),
            (min_size, 50),
            (min_size + 1, min_size),
            (min_size + 2, min_size + 5),
        ):
            assert model(torch.randn(1, 3, *size)).isfinite().all()
        with pytest.raises(ValueError, match=f"at least {min_size}x{min_size} pixels"):
            model(torch.randn(1, 3, 50, min_size - 1))
        model.min_input_size = 1
        with pytest.raises(RuntimeError):
            model(torch.randn(1, 3, 50, min_size - 1))


@pytest.mark.parametrize("name", ["bn_inception", "se_bn_inception"])
def test_small_images_give_a_4x4_map_with_a_3x3_stem_of_stride_1(name: str) -> None:
    model = cnnarch.get_model(name, small_images=True).eval()
    maps = model.forward_stages(torch.randn(1, 3, 32, 32))
    assert [m.shape[-1] for m in maps] == [32, 32, 16, 8, 4]
    usual = [v.shape for v in cnnarch.get_model(name).state_dict().values()]
    small = [v.shape for v in model.state_dict().values()]
    assert small[0] == (64, 3, 3, 3)
    assert small[1:] == usual[1:]


@pytest.mark.parametrize("reduction", [0, -1, 1.5])
def test_a_reduction_that_is_not_a_positive_integer_is_rejected(reduction: float) -> None:
    with pytest.raises(ValueError, match="se_reduction must be an integer of at least 1"):
        BNInception(reduction)  # type: ignore[arg-type]


def test_a_different_reduction_can_be_passed_to_the_class() -> None:
    with torch.device("meta"):
        model = BNInception(8)
    assert model.stages[1][1].se.reduce.out_channels == 256 // 8
