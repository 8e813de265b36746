"""Freezing, unfreezing, converting norms and dilating, in any order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks.frozen_norm import FrozenBatchNorm
from cnnarch.dilation import dilate
from cnnarch.testing import assert_close, calibrate, example_images

STEPS: dict[str, Callable[[Any], Any]] = {
    "freeze": lambda model: cnnarch.freeze(model, upto=1),
    "unfreeze": cnnarch.unfreeze,
    "group": lambda model: cnnarch.convert_norm(model, "group"),
    "frozen": lambda model: cnnarch.convert_norm(model, "frozen"),
    "sync": lambda model: cnnarch.convert_norm(model, "sync"),
    "dilate": lambda model: dilate(model, 8),
}
PLAIN, SYNC, GROUP, FROZEN = nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, FrozenBatchNorm


class Expected(NamedTuple):
    """The norm in the stem, which `freeze` freezes, and the norm in the last stage."""

    stem: type[nn.Module]
    last: type[nn.Module]
    stem_trains: bool  # its parameters require gradients
    last_trains: bool
    stem_mode: bool  # its `training` after `model.train()`


SEQUENCES = {
    "freeze": Expected(FROZEN, PLAIN, False, True, False),
    "freeze unfreeze": Expected(PLAIN, PLAIN, True, True, True),
    "freeze sync": Expected(FROZEN, SYNC, False, True, False),
    "freeze sync unfreeze": Expected(SYNC, SYNC, True, True, True),
    "sync freeze unfreeze": Expected(SYNC, SYNC, True, True, True),
    "sync sync": Expected(SYNC, SYNC, True, True, True),
    "freeze group": Expected(GROUP, GROUP, False, True, False),
    "freeze group unfreeze": Expected(GROUP, GROUP, True, True, True),
    "group freeze unfreeze": Expected(GROUP, GROUP, True, True, True),
    "group group": Expected(GROUP, GROUP, True, True, True),
    "sync group": Expected(GROUP, GROUP, True, True, True),
    "freeze sync group unfreeze": Expected(GROUP, GROUP, True, True, True),
    "freeze frozen": Expected(FROZEN, FROZEN, False, False, False),
    "freeze frozen unfreeze": Expected(FROZEN, FROZEN, False, False, False),
    "frozen freeze unfreeze": Expected(FROZEN, FROZEN, False, False, False),
    "frozen frozen": Expected(FROZEN, FROZEN, False, False, False),
    "sync frozen unfreeze": Expected(FROZEN, FROZEN, False, False, False),
    "freeze dilate unfreeze": Expected(PLAIN, PLAIN, True, True, True),
    "freeze dilate sync unfreeze": Expected(SYNC, SYNC, True, True, True),
    "dilate freeze group unfreeze": Expected(GROUP, GROUP, True, True, True),
    "group dilate freeze": Expected(GROUP, GROUP, False, True, False),
}


def network() -> cnnarch.ImageClassifier:
    torch.manual_seed(0)
    model = cnnarch.resnet18(num_classes=3, small_images=True)
    calibrate(model, example_images(model, 8))
    return model


def converted(sequence: str) -> cnnarch.ImageClassifier:
    model = network()
    for step in sequence.split():
        STEPS[step](model)
    return model


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_each_sequence_leaves_these_norms(sequence: str) -> None:
    model, expected = converted(sequence).train(), SEQUENCES[sequence]
    norms = model.stem.norm, model.stages[-1][-1].branch.conv2.norm  # type: ignore[index,union-attr]
    trains = [any(p.requires_grad for p in norm.parameters()) for norm in norms]
    found = Expected(type(norms[0]), type(norms[1]), *trains, norms[0].training)
    assert found == expected


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_the_network_is_the_same_after_a_reload(sequence: str, tmp_path: Path) -> None:
    model = converted(sequence).eval()
    images = example_images(model)
    model.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "net.pth")
    with torch.no_grad():
        logits = model(images)
        for again in (
            cnnarch.from_pretrained(tmp_path),
            cnnarch.resnet18(weights=tmp_path / "net.pth"),
        ):
            assert_close(again.eval()(images), logits, 1e-6)
            assert again.feature_info == model.feature_info


@pytest.mark.parametrize("sequence", [s for s in SEQUENCES if "group" not in s.split()])
def test_batch_norm_computes_the_same_in_eval_mode(sequence: str) -> None:
    plain, model = network().eval(), converted(sequence).eval()
    if "dilate" in sequence:
        dilate(plain, 8)
    images = example_images(plain)
    with torch.no_grad():
        assert_close(model(images), plain(images), 1e-6)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("frozen", "group"),
        ("frozen", "sync"),
        ("freeze frozen unfreeze", "group"),
        ("group", "frozen"),
        ("group", "sync"),
    ],
)
def test_norms_cannot_be_converted_after_a_permanent_conversion(first: str, second: str) -> None:
    model = converted(first)
    earlier = "frozen" if "frozen" in first else "group"
    message = rf"cannot be converted to '{second}', because convert_norm\(model, '{earlier}'\) has"
    with pytest.raises(ValueError, match=message):
        STEPS[second](model)
    with pytest.raises(ValueError, match=message):  # also inside another module
        STEPS[second](nn.Sequential(model))


def test_only_batch_norms_outside_a_fixed_part_are_converted() -> None:
    """As in a detector whose backbone has fixed norms."""
    detector = nn.Sequential(converted("frozen"), nn.BatchNorm2d(4))
    cnnarch.convert_norm(detector, "sync")
    assert type(detector[1]) is SYNC
    assert isinstance(detector[0].stem.norm, FROZEN)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, nn.Sequential, lambda m: torch.compile(m, backend="eager")],
    ids=["data_parallel", "sequential", "compiled"],
)
def test_a_conversion_through_a_wrapper_is_recorded(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    model = network().eval()
    cnnarch.convert_norm(wrap(model), "group")
    assert model.conversions == (("convert_norm", "group"),)
    model.save_pretrained(tmp_path)
    images = example_images(model)
    with torch.no_grad():
        assert_close(cnnarch.from_pretrained(tmp_path).eval()(images), model(images), 1e-6)


def test_a_norm_shared_by_two_modules_is_converted_once() -> None:
    norm = nn.BatchNorm2d(4)
    model = cnnarch.convert_norm(nn.Sequential(norm, nn.Sequential(norm)), "group")
    assert model[0] is model[1][0]  # type: ignore[index]
    assert type(model[0]) is GROUP


def test_nothing_is_converted_if_one_norm_cannot_be_frozen() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(ValueError, match="without running statistics"):
        cnnarch.convert_norm(model, "frozen")
    assert type(model[0]) is PLAIN
