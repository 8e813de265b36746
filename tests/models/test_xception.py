"""Xception against its paper (Chollet, 2016)."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.models.xception import Xception, XceptionRow

ROW = XceptionRow((8, 8), (12, 16, 16), 1, (16, 24), (24, 32))
SMALL_FORMS = {
    "flows": partial(Xception, ROW),
    "small_images": partial(Xception, ROW._replace(middle=0), small_images=True),
}


def on_meta(**options: object) -> cnnarch.Xception:
    with torch.device("meta"):
        return cnnarch.xception(**options)


def test_there_are_36_convolutional_layers() -> None:
    """Section 3: a separable convolution is one layer; shortcuts are not counted."""
    layers = [
        name
        for name, m in on_meta().named_modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
    ]
    assert len(layers) == 36


def test_the_stem_is_not_padded() -> None:
    stem = on_meta().stem
    assert [(c.conv.padding, c.conv.stride) for c in stem] == [((0, 0), (2, 2)), ((0, 0), (1, 1))]
    assert on_meta().min_input_size == 7


def test_relu_precedes_every_separable_convolution_except_the_first() -> None:
    model = on_meta()
    order = [
        name
        for name, _ in model.stages.named_modules()
        if name.endswith(("act1", "act2", "act3", "depthwise"))
    ]
    assert order[0] == "0.0.branch.conv1.depthwise"
    assert order[1:3] == ["0.0.branch.act2", "0.0.branch.conv2.depthwise"]
    assert order[3:5] == ["1.0.branch.act1", "1.0.branch.conv1.depthwise"]


def test_the_module_of_the_exit_flow_widens_in_its_second_convolution() -> None:
    branch = on_meta().stages[3][0].branch
    assert branch.conv1.pointwise.out_channels == 728
    assert branch.conv2.pointwise.out_channels == 1024


def test_small_images_give_a_4x4_map_and_keep_all_tensor_shapes() -> None:
    small = on_meta(small_images=True).eval()
    assert small.forward_features(torch.empty(1, 3, 32, 32, device="meta")).shape[2:] == (4, 4)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (small, on_meta())]
    assert shapes[0] == shapes[1]


def test_invalid_rows_are_rejected() -> None:
    for field, length in {"stem": 2, "entry": 3, "exit_module": 2, "exit_convs": 2}.items():
        for wrong in ((8,), (8, 8, 8, 8), 8, None):
            with pytest.raises(ValueError, match=f"{field} must have {length} entries, got "):
                Xception(ROW._replace(**{field: wrong}))
    with pytest.raises(ValueError, match="middle must be an integer of at least 0, got -1"):
        Xception(ROW._replace(middle=-1))
