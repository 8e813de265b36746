"""Dual Path Networks against the paper (Chen et al., 2017) and the authors' code."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import DualPath
from cnnarch.models.dpn import DPN, DPNRow
from cnnarch.testing import calibrate, example_images

SMALL = DPNRow(6, 7, 2, 2, 6, (1, 2, 1, 1), (2, 3, 2, 2))
SMALL_FORMS = {"dpn": partial(DPN, SMALL)}

TABLE_1 = {  # depths, growth rates, and groups and width of conv2's 3x3 convolution
    "dpn68": ([3, 4, 12, 3], [16, 32, 32, 64], 32, 128),
    "dpn92": ([3, 4, 20, 3], [16, 32, 24, 128], 32, 96),
    "dpn98": ([3, 6, 20, 3], [16, 32, 32, 128], 40, 160),
    "dpn107": ([4, 8, 20, 3], [20, 64, 64, 128], 50, 200),
    "dpn131": ([4, 8, 28, 3], [16, 32, 32, 128], 40, 160),
}


def on_meta(name: str) -> DPN:
    with torch.device("meta"):
        return cnnarch.get_model(name)


@pytest.mark.parametrize("name", TABLE_1)
def test_the_name_counts_the_layers_with_weights(name: str) -> None:
    """As in ResNets, projections are not counted."""
    kinds = nn.Conv2d | nn.Linear
    layers = [path for path, m in on_meta(name).named_modules() if isinstance(m, kinds)]
    assert len([p for p in layers if ".shortcut." not in p]) == int(name.removeprefix("dpn"))


@pytest.mark.parametrize("name", TABLE_1)
def test_blocks_match_table_1(name: str) -> None:
    model = on_meta(name)
    depths, growth_rates, groups, width = TABLE_1[name]
    residual = 64 if name == "dpn68" else 256
    for i, stage in enumerate(model.stages):
        blocks = [m for m in stage if isinstance(m, DualPath)]
        assert len(blocks) == depths[i]
        for j, block in enumerate(blocks):
            conv = block.branch.conv.conv
            assert (conv.in_channels, conv.groups) == (width * 2**i, groups)
            assert conv.stride == ((2, 2) if i and not j else (1, 1))
            assert block.new_sizes == (residual * 2**i, growth_rates[i])
            assert block.out_channels == residual * 2**i + (3 + j) * growth_rates[i]
            assert isinstance(block.shortcut, nn.Identity) == (j > 0)


@pytest.mark.parametrize("name", TABLE_1)
def test_the_stem_is_7x7_except_in_dpn68(name: str) -> None:
    conv = on_meta(name).stem.conv
    assert conv.kernel_size == ((3, 3) if name == "dpn68" else (7, 7))
    assert conv.stride == (2, 2)


def test_every_norm_has_the_eps_of_mxnet() -> None:
    norms = [m for m in on_meta("dpn68").modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 1 + 22 * 3 + 4 + 1  # stem, branches, projections, last norm
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.1)}


def test_the_last_map_is_the_output_of_a_norm_and_relu() -> None:
    model = DPN(SMALL)
    calibrate(model, images := example_images(model, 8))
    with torch.no_grad():
        last = model.forward_features(images)
    assert [name for name, _ in model.stages[-1].named_children()] == ["0", "norm", "act"]
    assert 0.2 < (last == 0).float().mean() < 0.8
    assert last.min() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": (1, 1, 1)}, r"depths must have 4 entries, got \(1, 1, 1\)"),
        ({"growth_rates": (2,)}, r"growth_rates must have 4 entries, got \(2,\)"),
        ({"depths": (1, 0, 1, 1)}, "depth of a stage must be an integer of at least 1, got 0"),
        ({"group_width": 0}, "group_width must be an integer of at least 1, got 0"),
    ],
)
def test_a_wrong_row_is_rejected(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DPN(SMALL._replace(**changes))
