"""FasterNet against its paper (Chen et al., 2023)."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import FasterNetBlock, StochasticDepth
from cnnarch.models.fasternet import FasterNet

SMALL_FORMS = {"fasternet": partial(FasterNet, 8, (1, 1, 2, 1), hidden=16, drop_path=0.5)}


def on_meta(name: str = "fasternet_t0", **options: object) -> cnnarch.FasterNet:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


@pytest.mark.parametrize(
    ("name", "channels", "depths", "act"),
    [
        ("fasternet_t0", 40, [1, 2, 8, 2], nn.GELU),
        ("fasternet_t1", 64, [1, 2, 8, 2], nn.GELU),
        ("fasternet_t2", 96, [1, 2, 8, 2], nn.ReLU),
        ("fasternet_s", 128, [1, 2, 13, 2], nn.ReLU),
        ("fasternet_m", 144, [3, 4, 18, 3], nn.ReLU),
        ("fasternet_l", 192, [3, 4, 18, 3], nn.ReLU),
    ],
)
def test_widths_depths_and_activations(
    name: str, channels: int, depths: list[int], act: type[nn.Module]
) -> None:
    model = on_meta(name)
    blocks = [[m for m in stage if isinstance(m, FasterNetBlock)] for stage in model.stages]
    assert [len(stage) for stage in blocks] == depths
    assert [row.channels for row in model.feature_info[1:]] == [channels * 2**i for i in range(4)]
    assert [row.stride for row in model.feature_info] == [4, 4, 8, 16, 32]
    acts = [type(m) for m in model.modules() if isinstance(m, nn.ReLU | nn.GELU)]
    assert acts == [act] * (sum(depths) + 1)  # one in each block, and one in the head


def test_embedding_and_merging_have_a_norm_and_no_activation() -> None:
    model = on_meta()
    for layer in (model.stem, *(stage.merging for stage in model.stages[1:])):
        assert [name for name, _ in layer.named_children()] == ["conv", "norm"]
        assert layer.conv.kernel_size == layer.conv.stride
        assert layer.conv.bias is None


def test_the_hidden_layer_has_1280_units_and_no_bias() -> None:
    model = on_meta("fasternet_t0", num_classes=10)
    assert model.num_features == 1280
    assert model.head.hidden.fc.bias is None
    assert model.head.classifier.weight.shape == (10, 1280)


def test_weights_have_a_std_of_two_hundredths() -> None:
    model = cnnarch.fasternet_t0()
    for layer in (model.stem.conv, model.stages[3].merging.conv, model.head.hidden.fc):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_drop_path_increases_linearly_from_zero_to_its_rate() -> None:
    rates = [m.rate for m in on_meta(drop_path=0.12).modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx([0.01 * i for i in range(13)])


def test_small_images_give_a_4x4_map_and_keep_all_tensor_shapes() -> None:
    small, usual = on_meta(small_images=True).eval(), on_meta()
    assert small.forward_features(torch.empty(1, 3, 32, 32, device="meta")).shape[2:] == (4, 4)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (small, usual)]
    assert shapes[0] == shapes[1]


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="depths must have 4 entries, got"):
        FasterNet(8, (1, 1, 1))
    with pytest.raises(ValueError, match="depth of a stage must be an integer of at least 1"):
        FasterNet(8, (1, 0, 1, 1))
    with pytest.raises(ValueError, match="channels must be an integer of at least 4, got 3"):
        FasterNet(3, (1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"channels must be an integer .* got 2\.5"):
        FasterNet(2.5, (1, 1, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="hidden must be an integer of at least 1, got 0"):
        FasterNet(8, (1, 1, 1, 1), hidden=0)
    with pytest.raises(ValueError, match=r"drop_path must be in \[0, 1\), got 1"):
        cnnarch.fasternet_t0(drop_path=1)
