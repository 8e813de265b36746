"""gMLP against its paper (Liu et al., 2021)."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import SpatialGate
from cnnarch.models.gmlp import GMLP
from cnnarch.testing import assert_parameters

SMALL_FORMS = {
    "gmlp": partial(GMLP, 16, 24, 2, image_size=32),
    "drop_path": partial(GMLP, 16, 24, 3, image_size=32, drop_path=0.5),
}


def on_meta(name: str, **options: object) -> cnnarch.GMLP:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


@pytest.mark.parametrize(
    ("name", "channels", "hidden"),
    [("gmlp_ti16", 128, 768), ("gmlp_s16", 256, 1536), ("gmlp_b16", 512, 3072)],
)
def test_variants_are_those_of_table_1(name: str, channels: int, hidden: int) -> None:
    """d_model and d_ffn; all variants have 30 layers."""
    model = on_meta(name)
    assert len(model.stages) == 30
    for stage in model.stages:
        expand, project = stage[0].mlp.expand, stage[0].mlp.project
        assert (expand.in_features, expand.out_features) == (channels, hidden)
        assert (project.in_features, project.out_features) == (hidden // 2, channels)


def test_the_norms_of_layers_and_gates_have_their_own_eps() -> None:
    """The released checkpoint was trained with 1e-6 before the MLPs and 1e-5 in the gates."""
    model = on_meta("gmlp_ti16")
    gates = [m.norm for m in model.modules() if isinstance(m, SpatialGate)]
    assert {m.eps for m in gates} == {1e-5}
    others = [m for m in model.modules() if isinstance(m, nn.LayerNorm) and m not in gates]
    assert len(others) == 31
    assert {m.eps for m in others} == {1e-6}


def test_gates_start_open() -> None:
    """Section 2.1: weights near zero, biases of one."""
    gate = cnnarch.gmlp_ti16().stages[0][0].mlp.gate.linear
    assert gate.weight.abs().max() < 1e-5
    assert gate.weight.any()
    assert torch.equal(gate.bias, torch.ones(196))


def test_image_size_changes_only_the_gates() -> None:
    """A gate over n tokens has n * n weights and n biases; 256 pixels give 256 tokens, not 196."""
    more = 30 * (256 * 257 - 196 * 197)
    assert_parameters(on_meta("gmlp_ti16", image_size=256), 5_867_328 + more)


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="channels must be even, got 25"):
        GMLP(16, 25, 2, image_size=32)
    with pytest.raises(ValueError, match="image_size must be a multiple of the patch size 16"):
        cnnarch.gmlp_ti16(image_size=225)
