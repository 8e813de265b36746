"""ECA-ResNet against the paper (Wang et al., 2019) and timm."""

from functools import partial

import pytest
import torch

import cnnarch
from cnnarch.blocks import ECA, Bottleneck
from cnnarch.models.resnet_d import ResNetD
from cnnarch.testing import assert_parameters

SMALL_FORMS = {
    "eca_resnet": partial(ResNetD, Bottleneck, (1, 1, 1, 1), attention=ECA, widths=(4, 4, 8, 8))
}


@pytest.mark.parametrize(("depth", "depths"), [(50, (3, 4, 6, 3)), (101, (3, 4, 23, 3))])
def test_the_attention_adds_its_kernels_to_resnet_d(depth: int, depths: tuple[int, ...]) -> None:
    """Kernels of 5, 5, 5 and 7 weights, one a block: 86 for ResNet-50, of 25.6 million."""
    kernels = sum(n * size for n, size in zip(depths, (5, 5, 5, 7), strict=True))
    with torch.device("meta"):
        usual, model = (cnnarch.get_model(f"{p}resnet{depth}d") for p in ("", "eca"))
    assert_parameters(model, sum(p.numel() for p in usual.parameters()) + kernels)


def test_every_branch_ends_with_the_attention() -> None:
    with torch.device("meta"):
        model = cnnarch.ecaresnet50d()
    for block in (m for m in model.modules() if isinstance(m, Bottleneck)):
        assert [name for name, _ in block.branch.named_children()][-1] == "attention"
        assert isinstance(block.branch.attention, ECA)
