"""ConvNeXt V2 against its paper (Woo et al., 2023)."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import GRN, ConvNeXtV2Block, LayerScale, StochasticDepth
from cnnarch.models.convnext_v2 import ConvNeXtV2
from cnnarch.testing import assert_parameters
from cnnarch.weights import export, load

WIDTHS = (8, 12, 16, 24)
SMALL_FORMS = {"convnext_v2": partial(ConvNeXtV2, WIDTHS, (1, 1, 1, 1), drop_path=0.5)}


def on_meta(name: str = "convnextv2_tiny", **options: object) -> cnnarch.ConvNeXtV2:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


@pytest.mark.parametrize(
    ("name", "depths", "channels"),
    [
        ("convnextv2_atto", [2, 2, 6, 2], [40, 80, 160, 320]),
        ("convnextv2_femto", [2, 2, 6, 2], [48, 96, 192, 384]),
        ("convnextv2_pico", [2, 2, 6, 2], [64, 128, 256, 512]),
        ("convnextv2_nano", [2, 2, 8, 2], [80, 160, 320, 640]),
        ("convnextv2_tiny", [3, 3, 9, 3], [96, 192, 384, 768]),
        ("convnextv2_base", [3, 3, 27, 3], [128, 256, 512, 1024]),
        ("convnextv2_large", [3, 3, 27, 3], [192, 384, 768, 1536]),
        ("convnextv2_huge", [3, 3, 27, 3], [352, 704, 1408, 2816]),
    ],
)
def test_depths_and_widths(name: str, depths: list[int], channels: list[int]) -> None:
    model = on_meta(name)
    blocks = [[m for m in stage if isinstance(m, ConvNeXtV2Block)] for stage in model.stages]
    assert [len(stage) for stage in blocks] == depths
    assert [row.channels for row in model.feature_info[1:]] == channels


def test_grn_takes_the_place_of_the_layer_scale() -> None:
    """A block of C channels gains 2 * 4C parameters and loses C."""
    old, new = on_meta("convnext_tiny"), on_meta()
    assert not [m for m in new.modules() if isinstance(m, LayerScale)]
    assert len([m for m in new.modules() if isinstance(m, GRN)]) == 18
    channels = sum(d * c for d, c in zip((3, 3, 9, 3), (96, 192, 384, 768), strict=True))
    assert_parameters(new, sum(p.numel() for p in old.parameters()) + 7 * channels)


def test_drop_path_increases_linearly_from_zero_to_its_rate() -> None:
    rates = [m.rate for m in on_meta(drop_path=0.34).modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx([0.02 * i for i in range(18)])


def test_pretrained_networks_without_the_last_norm_load() -> None:
    """Self-supervised checkpoints end with the last stage."""
    model = cnnarch.convnextv2_atto()
    nn.init.normal_(model.head.hidden.weight)
    nn.init.normal_(model.stages[3][2].mlp.grn.gamma)
    tensors = {k: t for k, t in export(model, "timm").items() if not k.startswith("head.")}
    bare = cnnarch.convnextv2_atto(weights=tensors, num_classes=0)
    assert torch.equal(bare.stages[3][2].mlp.grn.gamma, model.stages[3][2].mlp.grn.gamma)
    assert torch.equal(bare.head.hidden.weight, torch.ones(320))
    assert load(model, tensors).fresh == ("head.classifier.weight", "head.classifier.bias")


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="channels must have 4 entries, got"):
        ConvNeXtV2((8, 8), (1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"drop_path must be in \[0, 1\), got 1"):
        cnnarch.convnextv2_tiny(drop_path=1)
