"""ShuffleNet V2 against its paper (Ma et al., 2018)."""

from functools import partial

import pytest
import torch

import cnnarch
from cnnarch.models.shufflenet_v2 import ShuffleNetV2

SMALL_FORMS = {
    "units": partial(ShuffleNetV2, (16, 24, 32), 40, (2, 1, 1)),
    "small_images": partial(ShuffleNetV2, (16, 24, 32), 40, (1, 2, 1), small_images=True),
}


def on_meta(name: str, **options: object) -> cnnarch.ShuffleNetV2:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


@pytest.mark.parametrize(
    ("name", "channels", "conv5"),
    [
        ("x0_5", [48, 96, 192], 1024),
        ("x1_0", [116, 232, 464], 1024),
        ("x1_5", [176, 352, 704], 1024),
        ("x2_0", [244, 488, 976], 2048),
    ],
)
def test_widths_are_those_of_table_5(name: str, channels: list[int], conv5: int) -> None:
    model = on_meta(f"shufflenet_v2_{name}")
    assert [row.channels for row in model.feature_info] == [24, *channels]
    assert model.num_features == conv5
    blocks = [[n for n, _ in s.named_children() if n.isdigit()] for s in model.stages]
    assert [len(stage) for stage in blocks] == [4, 8, 4]


def test_half_of_the_channels_pass_a_unit_unchanged() -> None:
    unit = cnnarch.shufflenet_v2_x0_5().stages[1].get_submodule("1").eval()
    x = torch.randn(1, 96, 4, 4)
    assert torch.equal(unit(x)[:, ::2], x[:, :48])


def test_small_images_give_a_4x4_map_and_keep_all_tensor_shapes() -> None:
    small = on_meta("shufflenet_v2_x1_0", small_images=True).eval()
    assert small.forward_features(torch.empty(1, 3, 32, 32, device="meta")).shape[2:] == (4, 4)
    shapes = [
        {k: v.shape for k, v in m.state_dict().items()}
        for m in (small, on_meta("shufflenet_v2_x1_0"))
    ]
    assert shapes[0] == shapes[1]


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="out_channels must be even, got 25"):
        ShuffleNetV2((16, 25, 32), 40)
    with pytest.raises(ValueError, match="depths must have 3 entries"):
        ShuffleNetV2((16, 24, 32), 40, (1, 1))
