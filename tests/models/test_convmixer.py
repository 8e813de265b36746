"""ConvMixer against its paper (Trockman and Kolter, 2022)."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, linear

import cnnarch
from cnnarch.blocks import StochasticDepth
from cnnarch.models.convmixer import ConvMixer
from cnnarch.testing import assert_close
from tests.oracles.in_order import randomize_norms

SMALL_FORMS = {"convmixer": partial(ConvMixer, 8, 3, 7, 3, drop_path=0.5)}


def on_meta(name: str = "convmixer_768_32", **options: object) -> cnnarch.ConvMixer:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


@pytest.mark.parametrize(
    ("name", "width", "depth", "kernel_size", "patch_size", "act"),
    [
        ("convmixer_768_32", 768, 32, 7, 7, nn.ReLU),
        ("convmixer_1024_20_ks9_p14", 1024, 20, 9, 14, nn.GELU),
        ("convmixer_1536_20", 1536, 20, 9, 7, nn.GELU),
    ],
)
def test_rows_of_table_1(
    name: str, width: int, depth: int, kernel_size: int, patch_size: int, act: type[nn.Module]
) -> None:
    model = on_meta(name)
    rows = model.feature_info
    assert len(rows) == 1 + depth
    assert {(row.channels, row.stride) for row in rows} == {(width, patch_size)}
    assert model.stages[0][0].depthwise.conv.kernel_size == (kernel_size, kernel_size)
    assert {type(m) for m in model.modules() if isinstance(m, nn.ReLU | nn.GELU)} == {act}


def test_the_network_is_that_of_the_paper() -> None:
    """Each convolution is followed by an activation and BatchNorm; the 1x1 has no shortcut."""
    model = ConvMixer(6, 2, 4, 5, nn.ReLU, num_classes=3).double()
    images = torch.randn(4, 3, 21, 16).double()
    randomize_norms(model, images)
    t = model.state_dict()

    def layer(x: Tensor, name: str, **arguments: int) -> Tensor:
        x = conv2d(x, t[f"{name}.conv.weight"], t[f"{name}.conv.bias"], **arguments).clamp(min=0)
        norm = (t[f"{name}.norm.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return batch_norm(x, *norm)

    x = layer(images, "stem", stride=4)
    for i in range(2):
        x = x + layer(x, f"stages.{i}.0.depthwise", padding=2, groups=6)
        x = layer(x, f"stages.{i}.0.pointwise")
    x = linear(x.mean((2, 3)), t["head.classifier.weight"], t["head.classifier.bias"])
    assert_close(model(images), x, 1e-9)


def test_drop_path_increases_linearly_from_zero_to_its_rate() -> None:
    rates = [m.rate for m in on_meta(drop_path=0.31).modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx([0.01 * i for i in range(32)])


def test_invalid_arguments_are_rejected() -> None:
    for counts in ((0, 2, 7, 3), (8, 0, 7, 3), (8, 2, 0, 3), (8, 2, 7, 0)):
        with pytest.raises(ValueError, match="must be an integer of at least 1, got 0"):
            ConvMixer(*counts)
    with pytest.raises(ValueError, match="kernel_size must be odd, got 4"):
        ConvMixer(8, 2, 7, 4)
    with pytest.raises(ValueError, match=r"drop_path must be in \[0, 1\), got 1"):
        cnnarch.convmixer_768_32(drop_path=1)
