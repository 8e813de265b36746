"""InceptionNeXt against its paper (Yu et al., 2023)."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import InceptionNeXtBlock, StochasticDepth
from cnnarch.models.inception_next import InceptionNeXt
from cnnarch.testing import assert_close

WIDTHS = (4, 8, 8, 12)
SMALL_FORMS = {"inception_next": partial(InceptionNeXt, WIDTHS, (1, 1, 2, 1), 5, 1 / 4)}


def on_meta(name: str = "inception_next_tiny", **options: object) -> InceptionNeXt:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


@pytest.mark.parametrize(
    ("name", "depths", "channels", "band", "group"),
    [
        ("inception_next_atto", [2, 2, 6, 2], [40, 80, 160, 320], 9, 10),
        ("inception_next_tiny", [3, 3, 9, 3], [96, 192, 384, 768], 11, 12),
        ("inception_next_small", [3, 3, 27, 3], [96, 192, 384, 768], 11, 12),
        ("inception_next_base", [3, 3, 27, 3], [128, 256, 512, 1024], 11, 16),
    ],
)
def test_variants_are_the_columns_of_table_3(
    name: str, depths: list[int], channels: list[int], band: int, group: int
) -> None:
    """Atto's widths are those of the authors' code."""
    model = on_meta(name)
    blocks = [[m for m in stage if isinstance(m, InceptionNeXtBlock)] for stage in model.stages]
    assert [len(stage) for stage in blocks] == depths
    assert [row.channels for row in model.feature_info[1:]] == channels
    assert [row.stride for row in model.feature_info] == [4, 4, 8, 16, 32]
    assert blocks[0][0].branch.depthwise.horizontal.weight.shape == (group, 1, 1, band)


def test_the_mlp_ratio_is_3_in_the_last_stage() -> None:
    ratios = [
        stage[-1].branch.expand.out_channels / stage[-1].branch.expand.in_channels
        for stage in on_meta().stages
    ]
    assert ratios == [4, 4, 4, 3]


def test_norms_are_batch_norms_except_in_the_head() -> None:
    model = on_meta()
    batch_norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(batch_norms) == 1 + 18 + 3  # stem, blocks, downsampling
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    assert norms == [model.head.hidden.norm]
    assert norms[0].eps == 1e-6


def test_the_head_is_a_layer_with_gelu_and_layer_norm_and_a_classifier() -> None:
    head = InceptionNeXt(WIDTHS, (1, 1, 1, 1), 5, 1 / 4).head
    x = torch.randn(2, 12, 3, 5)
    fc = head.hidden.fc
    hidden = nn.functional.gelu(x.mean((2, 3)) @ fc.weight.T + fc.bias)
    centred = hidden - hidden.mean(1, keepdim=True)
    expected = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    assert_close(head.pre_logits(x), expected, 1e-5)
    assert_close(head(x), expected @ head.classifier.weight.T, 1e-5)


def test_weights_have_a_std_of_two_hundredths() -> None:
    model = cnnarch.inception_next_atto()
    layers = (model.stem.conv, model.stages[3][1].branch.expand, model.head.hidden.fc)
    for layer in (*layers, model.head.classifier):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not layer.bias.any()


def test_drop_path_increases_linearly_from_zero_to_its_rate() -> None:
    rates = [m.rate for m in on_meta(drop_path=0.34).modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx([0.02 * i for i in range(18)])


def test_small_images_give_a_4x4_map_and_keep_all_tensor_shapes() -> None:
    small, usual = on_meta(small_images=True).eval(), on_meta()
    assert small.forward_features(torch.empty(1, 3, 32, 32, device="meta")).shape[2:] == (4, 4)
    assert small.min_input_size == 8
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (small, usual)]
    assert shapes[0] == shapes[1]


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="channels must have 4 entries, got"):
        InceptionNeXt((8, 8, 8), (1, 1, 1, 1), 5, 1 / 4)
    with pytest.raises(ValueError, match="depth of a stage must be an integer of at least 1"):
        InceptionNeXt(WIDTHS, (1, 0, 1, 1), 5, 1 / 4)
    with pytest.raises(ValueError, match=r"drop_path must be in \[0, 1\), got 1"):
        on_meta(drop_path=1)
