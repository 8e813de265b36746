"""Checks of feature maps, of the head that reads the last one, and of what describes them."""

import torch
from torch import Tensor, nn

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.testing._steps import calibrated_copy, evaluation_copy, failing_as, refusal
from cnnarch.testing.examples import example_images

__all__ = [
    "check_cam_layer",
    "check_feature_info",
    "check_head_reads_the_last_map",
    "check_reset_classifier",
    "check_stages_come_in_the_order_asked",
]


@torch.no_grad()
def check_head_reads_the_last_map(model: ImageClassifier) -> None:
    """`forward` is `forward_head` of `forward_features`, which gives the last stage's map."""
    twin = calibrated_copy(model)
    images = example_images(twin)
    features = twin.forward_features(images)
    last = twin.forward_stages(images)[-1]
    assert torch.equal(features, last), "forward_features is not the last stage's map"
    logits = twin.forward_head(features)
    assert torch.equal(logits, twin(images)), "the head of the features does not give the logits"
    width = tuple(twin.forward_head(features, pre_logits=True).shape)
    expected = (2, twin.num_features)
    assert width == expected, f"pre-logits have shape {width}, expected {expected}"


@torch.no_grad()
def check_stages_come_in_the_order_asked(model: ImageClassifier) -> None:
    """`forward_stages` takes names and indices in any order; a row that is not there is named."""
    twin = calibrated_copy(model)
    images = example_images(twin)
    names = [row.name for row in twin.feature_info]
    every = twin.forward_stages(images)
    assert len(set(names)) == len(names), f"two rows have one name: {names}"
    assert len(every) == len(names), f"{len(every)} maps for the rows {names}"
    last, first = twin.forward_stages(images, [-1, names[0]])
    assert torch.equal(last, every[-1]), "row -1 is not the last map"
    assert torch.equal(first, every[0]), f"row {names[0]!r} is not the first map"
    for wrong in (len(names), -len(names) - 1, "nowhere"):
        said = refusal(f"row {wrong!r}", ValueError, twin.forward_stages, images, [wrong])
        assert f"0 '{names[0]}'" in said, f"row {wrong!r} is refused without those there are"


@torch.no_grad()
def check_feature_info(model: ImageClassifier) -> None:
    """Channels are those of the maps; for a stride s, s * k pixels more give k pixels more."""
    twin = evaluation_copy(model)
    info = twin.feature_info
    strides = [row.stride for row in info]
    if twin.fixed_input_size:
        side = twin.min_input_size
        maps = twin.forward_stages(example_images(twin, 1))
        found, expected = [m.shape[-1] for m in maps], [side // stride for stride in strides]
        assert found == expected, f"maps are {found} pixels wide, strides say {expected}"
    else:
        step, side = max(strides), max(twin.min_input_size, 64)
        maps, larger = (
            twin.forward_stages(torch.zeros(1, twin.in_channels, s, s)) for s in (side, side + step)
        )
        growth = [b.shape[-1] - a.shape[-1] for a, b in zip(maps, larger, strict=True)]
        expected = [step // stride for stride in strides]
        assert growth == expected, f"maps grow by {growth} pixels, strides say {expected}"
    channels, described = [m.shape[1] for m in maps], [row.channels for row in info]
    assert channels == described, f"maps have {channels} channels, feature_info says {described}"


def check_cam_layer(model: ImageClassifier) -> None:
    """The layer that class activation maps are made from gives a map with a gradient."""
    twin = evaluation_copy(model)
    maps: list[Tensor] = []
    layer = twin.get_submodule(twin.cam_layer)

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        maps.append(output)
        if output.requires_grad:
            output.retain_grad()

    layer.register_forward_hook(keep)
    logits = twin(example_images(twin, 1))
    with failing_as("the logits have no gradient"):
        logits.max().backward()  # type: ignore[no-untyped-call]
    assert maps, f"{twin.cam_layer} is never called"
    assert maps[0].dim() == 4, f"{twin.cam_layer} gives no map, but {tuple(maps[0].shape)}"
    reached = maps[0].requires_grad and maps[0].grad is not None
    assert reached, f"no gradient of the logits reaches the map of {twin.cam_layer}"


@torch.no_grad()
def check_reset_classifier(model: ImageClassifier) -> None:
    """`reset_classifier` changes the logits' width and no map; 0 gives the pre-logits."""
    model = calibrated_copy(model)
    twin = evaluation_copy(model)
    images = example_images(model)
    twin.reset_classifier(5)
    assert twin(images).shape == (2, 5), f"5 classes give logits of {tuple(twin(images).shape)}"
    features = twin.forward_features(images)
    kept = torch.equal(features, model.forward_features(images))
    assert kept, "a new classifier changes the features"
    pre_logits = model.forward_head(features, pre_logits=True)
    twin.reset_classifier(0)
    assert torch.equal(twin(images), pre_logits), "0 classes do not give the pre-logits"
    counts = (twin.options["num_classes"], twin.num_classes)
    assert counts == (0, 0), f"options and num_classes are {counts}, expected 0"
