"""ConvNeXt against its paper (Liu et al., 2022)."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import ConvNeXtBlock, StochasticDepth
from cnnarch.models.convnext import ConvNeXt
from cnnarch.weights import export

WIDTHS = (8, 12, 16, 24)
SMALL_FORMS = {
    "patches": partial(ConvNeXt, WIDTHS, (1, 1, 2, 1)),
    "small_images": partial(ConvNeXt, WIDTHS, (1, 1, 1, 1), small_images=True, drop_path=0.5),
}


def on_meta(name: str = "convnext_tiny", **options: object) -> cnnarch.ConvNeXt:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


@pytest.mark.parametrize(
    ("name", "depths", "channels"),
    [
        ("convnext_atto", [2, 2, 6, 2], [40, 80, 160, 320]),
        ("convnext_femto", [2, 2, 6, 2], [48, 96, 192, 384]),
        ("convnext_pico", [2, 2, 6, 2], [64, 128, 256, 512]),
        ("convnext_nano", [2, 2, 8, 2], [80, 160, 320, 640]),
        ("convnext_tiny", [3, 3, 9, 3], [96, 192, 384, 768]),
        ("convnext_small", [3, 3, 27, 3], [96, 192, 384, 768]),
        ("convnext_base", [3, 3, 27, 3], [128, 256, 512, 1024]),
        ("convnext_large", [3, 3, 27, 3], [192, 384, 768, 1536]),
        ("convnext_xlarge", [3, 3, 27, 3], [256, 512, 1024, 2048]),
    ],
)
def test_variants_are_those_of_section_3_and_of_timm(
    name: str, depths: list[int], channels: list[int]
) -> None:
    model = on_meta(name)
    blocks = [[m for m in stage if isinstance(m, ConvNeXtBlock)] for stage in model.stages]
    assert [len(stage) for stage in blocks] == depths
    assert [row.channels for row in model.feature_info[1:]] == channels
    assert [row.stride for row in model.feature_info] == [4, 4, 8, 16, 32]


def test_every_layer_norm_has_an_eps_of_1e_minus_6_and_there_is_no_batch_norm() -> None:
    modules = [*on_meta().modules()]
    norms = [m for m in modules if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 1 + 18 + 3 + 1  # stem, blocks, downsampling, head
    assert {m.eps for m in norms} == {1e-6}
    assert not [m for m in modules if isinstance(m, nn.BatchNorm2d)]


def test_the_last_norm_follows_the_pool() -> None:
    head = ConvNeXt(WIDTHS, (1, 1, 1, 1)).head
    x = torch.randn(2, 24, 3, 5)
    pooled = x.mean((2, 3))
    centred = pooled - pooled.mean(1, keepdim=True)
    expected = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(head.pre_logits(x), expected)


def test_layer_scale_starts_at_1e_minus_6() -> None:
    model = ConvNeXt(WIDTHS, (1, 1, 1, 1))
    gammas = [p for name, p in model.named_parameters() if name.endswith("gamma")]
    assert len(gammas) == 4
    assert all(torch.equal(gamma, torch.full_like(gamma, 1e-6)) for gamma in gammas)


def test_weights_have_a_std_of_two_hundredths() -> None:
    model = cnnarch.convnext_tiny()
    for layer in (model.stem.conv, model.stages[3][1].mlp.expand, model.head.classifier):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not layer.bias.any()


def test_drop_path_increases_linearly_from_zero_to_its_rate() -> None:
    rates = [m.rate for m in on_meta(drop_path=0.34).modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx([0.02 * i for i in range(18)])


def test_small_images_give_a_4x4_map_and_keep_all_tensor_shapes() -> None:
    small, usual = on_meta(small_images=True).eval(), on_meta()
    assert small.forward_features(torch.empty(1, 3, 32, 32, device="meta")).shape[2:] == (4, 4)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (small, usual)]
    assert shapes[0] == shapes[1]


def test_timm_gets_convolutions_in_the_mlps_of_networks_smaller_than_tiny() -> None:
    name = "stages.1.blocks.0.mlp.fc2.weight"
    assert export(on_meta("convnext_nano"), "timm")[name].shape == (160, 640, 1, 1)
    assert export(on_meta("convnext_tiny"), "timm")[name].shape == (192, 768)


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="depths must have 4 entries, got"):
        ConvNeXt(WIDTHS, (1, 1, 1))
    with pytest.raises(ValueError, match="depth of a stage must be an integer of at least 1"):
        ConvNeXt(WIDTHS, (1, 0, 1, 1))
    with pytest.raises(ValueError, match=r"depth of a stage must be an integer .* got '1'"):
        ConvNeXt(WIDTHS, (1, 1, 1, "1"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"drop_path must be in \[0, 1\), got 1"):
        cnnarch.convnext_tiny(drop_path=1)
