"""Darknet-53 against its paper (Redmon and Farhadi, 2018)."""

from functools import partial

import pytest
import timm
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import DarknetResidual
from cnnarch.models.darknet import Darknet

CHANNELS, DEPTHS = (4, 4, 6, 8, 8, 12), (1, 1, 2, 1, 1)
SMALL_FORMS = {"darknet": partial(Darknet, CHANNELS, DEPTHS)}


def on_meta(**options: object) -> Darknet:
    with torch.device("meta"):
        return cnnarch.darknet53(**options)


def test_the_name_counts_the_convolutions_and_the_linear_layer() -> None:
    layers = [m for m in on_meta().modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 53


def test_stages_are_those_of_table_1() -> None:
    model = on_meta()
    blocks = [[m for m in stage if isinstance(m, DarknetResidual)] for stage in model.stages]
    assert [len(stage) for stage in blocks] == [1, 2, 8, 8, 4]
    for stage, width in zip(model.stages, (64, 128, 256, 512, 1024), strict=True):
        assert stage.downsample.conv.stride == (2, 2)
        reduce, conv = stage[-1].branch
        assert (reduce.conv.kernel_size, reduce.conv.out_channels) == ((1, 1), width // 2)
        assert (conv.conv.kernel_size, conv.conv.out_channels) == ((3, 3), width)
    assert model.stem.conv.stride == (1, 1)
    assert not [
        m for m in model.modules() if "Pool" in type(m).__name__ and m is not model.head.pool
    ]


def test_the_slope_of_every_leaky_relu_is_an_option() -> None:
    for options, slope in (({}, 0.1), ({"negative_slope": 0.01}, 0.01)):
        model = Darknet(CHANNELS, DEPTHS, **options)
        slopes = [m.negative_slope for m in model.modules() if isinstance(m, nn.LeakyReLU)]
        assert slopes == [slope] * (1 + 5 + 2 * sum(DEPTHS))  # stem, downsampling, blocks
        assert not [m for m in model.modules() if isinstance(m, nn.ReLU)]


def test_small_images_keep_the_resolution_in_the_first_two_stages() -> None:
    model = Darknet(CHANNELS, DEPTHS, small_images=True)
    strides = [stage.downsample.conv.stride[0] for stage in model.stages]
    assert strides == [1, 1, 2, 2, 2]


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"channels must have 6 entries, got \(4, 8\)"):
        Darknet((4, 8), DEPTHS)
    with pytest.raises(ValueError, match=r"depths must have 5 entries, got \(1,\)"):
        Darknet(CHANNELS, (1,))
    with pytest.raises(ValueError, match="depth of a stage must be an integer of at least 1"):
        Darknet(CHANNELS, (1, 1, 0, 1, 1))
    with pytest.raises(ValueError, match="negative_slope must be a number of at least 0, got -1"):
        Darknet(CHANNELS, DEPTHS, negative_slope=-1)


def test_a_checkpoint_of_timm_brings_its_slope() -> None:
    theirs = timm.create_model("darknet53", num_classes=2).state_dict()
    model = cnnarch.darknet53(weights=theirs)
    assert model.options["negative_slope"] == 0.01
    assert model.stem.act.negative_slope == 0.01
