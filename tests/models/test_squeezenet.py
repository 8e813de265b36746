"""SqueezeNet against its paper (Iandola et al., 2016)."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.models.squeezenet import FireRow, FirstConv, SqueezeNet
from cnnarch.testing import assert_parameters

ROW = FireRow(8, 8, 8)
SMALL_FORMS = {
    "unpadded-stem": partial(SqueezeNet, FirstConv(8, 7), ((ROW, ROW), (ROW,), (ROW,))),
    "small_images": partial(
        SqueezeNet, FirstConv(8, 3), ((ROW,), (ROW,), (ROW, ROW)), small_images=True
    ),
}


def on_meta(name: str, **options: object) -> cnnarch.SqueezeNet:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


@pytest.mark.parametrize(
    ("stage", "block", "params"),
    [
        *((0, 0, 11_920), (0, 1, 12_432), (0, 2, 45_344)),
        *((1, 0, 49_440), (1, 1, 104_880), (1, 2, 111_024), (1, 3, 188_992), (2, 0, 197_184)),
    ],
)
def test_each_fire_module_has_the_parameters_of_table_1(
    stage: int, block: int, params: int
) -> None:
    """The column "# parameter before pruning" lists fire2 to fire9."""
    fire = on_meta("squeezenet1_0").get_submodule(f"stages.{stage}.{block}")
    assert_parameters(fire, params)


def test_conv1_and_conv10_have_the_parameters_of_table_1() -> None:
    model = on_meta("squeezenet1_0")
    assert_parameters(model.stem, 14_208)
    assert_parameters(model.head, 513_000)


def test_logits_are_never_negative() -> None:
    """ReLU follows conv10 ("conv10" in Caffe's deploy.prototxt is followed by "relu_conv10")."""
    model = cnnarch.squeezenet1_1(num_classes=50).eval()
    logits = model(torch.randn(4, 3, 64, 64))
    assert logits.min() == 0
    assert logits.max() > 0


@pytest.mark.parametrize(
    ("name", "maps"), [("squeezenet1_0", [27, 13, 6, 3]), ("squeezenet1_1", [29, 14, 7, 3])]
)
def test_ceil_mode_pools_round_up(name: str, maps: list[int]) -> None:
    """59 -> (59 - 7) / 2 + 1 = 27 -> ceil(24 / 2) + 1 = 13 -> 6 -> ceil(3 / 2) + 1 = 3."""
    found = on_meta(name).eval().forward_stages(torch.empty(1, 3, 59, 59, device="meta"))
    assert [m.shape[-1] for m in found] == maps


def test_version_1_1_pools_after_conv1_fire3_and_fire5() -> None:
    assert [row.name for row in on_meta("squeezenet1_1").feature_info] == [
        *("conv1", "fire2-3", "fire4-5", "fire6-9")
    ]
    assert [row.name for row in on_meta("squeezenet1_0").feature_info] == [
        *("conv1", "fire2-4", "fire5-8", "fire9")
    ]


def test_small_images_give_a_4x4_map() -> None:
    model = on_meta("squeezenet1_0", small_images=True).eval()
    assert model.forward_features(torch.empty(1, 3, 32, 32, device="meta")).shape[2:] == (4, 4)


def test_there_is_no_norm_and_every_convolution_has_a_bias() -> None:
    modules = [*on_meta("squeezenet1_0").modules()]
    assert not [m for m in modules if isinstance(m, nn.BatchNorm2d)]
    assert all(m.bias is not None for m in modules if isinstance(m, nn.Conv2d))


def test_the_classifier_is_initialized_with_a_std_of_a_hundredth() -> None:
    classifier = cnnarch.squeezenet1_1().get_classifier()
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.01)


def test_stages_of_another_number_are_rejected() -> None:
    with pytest.raises(ValueError, match="stages must have 3 entries, got"):
        SqueezeNet(FirstConv(8, 3), ((ROW,), (ROW,)))
    with pytest.raises(ValueError, match="depth of a stage must be an integer of at least 1, got"):
        SqueezeNet(FirstConv(8, 3), ((ROW,), (), (ROW,)))
    with pytest.raises(ValueError, match="kernel_size must be an integer of at least 1, got 0"):
        SqueezeNet(FirstConv(8, 0), ((ROW,), (ROW,), (ROW,)))
