"""ResMLP against its paper (Touvron et al., 2021)."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.models.resmlp import ResMLP
from cnnarch.testing import assert_parameters

SMALL_FORMS = {
    "resmlp": partial(ResMLP, 2, 8, 16, 0.1, image_size=16),
    "drop_path": partial(ResMLP, 3, 4, 16, 0.1, image_size=16, drop_path=0.5),
}


def on_meta(name: str, **options: object) -> cnnarch.ResMLP:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


@pytest.mark.parametrize(
    ("name", "layers", "stride", "channels"),
    [
        *(("resmlp_s12", 12, 16, 384), ("resmlp_s24", 24, 16, 384), ("resmlp_s36", 36, 16, 384)),
        *(("resmlp_b24", 24, 16, 768), ("resmlp_b24_p8", 24, 8, 768)),
    ],
)
def test_layers_patches_and_widths(name: str, layers: int, stride: int, channels: int) -> None:
    rows = on_meta(name).feature_info
    assert len(rows) == 1 + layers
    assert {(r.stride, r.channels) for r in rows} == {(stride, channels)}


@pytest.mark.parametrize(
    ("name", "value"),
    [("resmlp_s12", 1e-4), ("resmlp_s24", 1e-5)],
)
def test_layer_scale_starts_smaller_in_deeper_networks(name: str, value: float) -> None:
    model = cnnarch.get_model(name)
    gammas = [p for key, p in model.named_parameters() if key.endswith("gamma")]
    assert len(gammas) == 2 * len(model.stages)
    assert all(torch.equal(gamma, torch.full_like(gamma, value)) for gamma in gammas)


def test_image_size_changes_only_the_layers_over_tokens() -> None:
    """A layer over n tokens has n * n weights and n biases; 256 pixels give 256 tokens, not 196."""
    more = 12 * (256 * 257 - 196 * 197)
    assert_parameters(on_meta("resmlp_s12", image_size=256), 15_350_872 + more)


def test_there_is_no_norm() -> None:
    assert not [m for m in on_meta("resmlp_s12").modules() if isinstance(m, nn.LayerNorm)]


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="image_size must be a multiple of the patch size 16"):
        cnnarch.resmlp_s12(image_size=225)
    with pytest.raises(ValueError, match="hidden_size must be an integer of at least 1, got 0"):
        ResMLP(2, 8, 0, 0.1)
    with pytest.raises(ValueError, match="expected images of 224x224 pixels, got 224x240"):
        on_meta("resmlp_s12").eval()(torch.empty(1, 3, 224, 240, device="meta"))
