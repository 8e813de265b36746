"""ResNet-RS against the paper (Bello et al., 2021) and timm."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import SE, Bottleneck
from cnnarch.models.resnet_rs import ResNetRS

SMALL_FORMS = {"resnet_rs": partial(ResNetRS, (1, 2, 1, 1), (4, 4, 8, 8))}

DEPTHS = {  # number of blocks in conv2_x to conv5_x
    "resnetrs50": (3, 4, 6, 3),
    "resnetrs101": (3, 4, 23, 3),
    "resnetrs152": (3, 8, 36, 3),
    "resnetrs200": (3, 24, 36, 3),
    "resnetrs270": (4, 29, 53, 4),
    "resnetrs350": (4, 36, 72, 4),
    "resnetrs420": (4, 44, 87, 4),
}


def on_meta(name: str, **options: object) -> cnnarch.ImageClassifier:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


@pytest.mark.parametrize("name", DEPTHS)
def test_depths_are_those_of_the_paper(name: str) -> None:
    blocks = [[b for b in stage if isinstance(b, Bottleneck)] for stage in on_meta(name).stages]
    assert tuple(map(len, blocks)) == DEPTHS[name]


def test_every_branch_ends_with_se_of_a_quarter_of_the_channels() -> None:
    model = on_meta("resnetrs50")
    for block in (m for m in model.modules() if isinstance(m, Bottleneck)):
        *_, attention = block.branch
        assert isinstance(attention, SE)
        assert attention.reduce.in_channels == block.out_channels
        assert attention.reduce.out_channels == block.out_channels // 4


def test_a_strided_convolution_replaces_the_max_pool() -> None:
    model = on_meta("resnetrs50")
    assert not any(isinstance(m, nn.MaxPool2d) for m in model.modules())
    conv = model.stages[0].pool.conv
    assert (conv.kernel_size, conv.stride) == ((3, 3), (2, 2))
    assert (conv.in_channels, conv.out_channels) == (64, 64)
    assert [info.stride for info in model.feature_info] == [2, 4, 8, 16, 32]


def test_small_images_keep_every_layer_and_give_a_4x4_map() -> None:
    model = on_meta("resnetrs50", small_images=True).eval()
    assert model.state_dict().keys() == on_meta("resnetrs50").state_dict().keys()
    maps = model.forward_stages(torch.empty(1, 3, 32, 32, device="meta"))
    assert [m.shape[-1] for m in maps] == [32, 32, 16, 8, 4]
