"""The checks in `cnnarch.testing` accept correct networks and report errors in incorrect ones."""

import copy
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnarch import ImageClassifier, freeze, set_inplace, testing
from cnnarch.blocks import ClassifierHead, ConvNormAct, Stage
from cnnarch.contract.trunk import FeatureInfo
from cnnarch.models.convmixer import ConvMixer
from cnnarch.testing import CHECKS


class ValidNetwork(ImageClassifier):
    """A user-defined network that fulfills the contract."""

    def __init__(self, *blocks: nn.Module, min_input_size: int = 2, stem_act: Any = nn.ReLU):
        stage = Stage(*blocks, ConvNormAct(8, 12, 3), pool=nn.MaxPool2d(2))
        super().__init__(
            ConvNormAct(3, 8, 3, act=stem_act),
            [stage],
            ClassifierHead(12, 4),
            names=("conv1", "stage1"),
            min_input_size=min_input_size,
        )


class EndsInSoftmax(ValidNetwork):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class EndsInLogSoftmax(ValidNetwork):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).log_softmax(1)


class WrongNumClasses(ValidNetwork):
    num_classes = 7


class DoublesLogits(ValidNetwork):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class UpdatesMean(nn.Module):
    """Updates a running mean, even in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.mean += x.detach().mean()
        return x


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5, training=True)


class MinusBatchMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ x / 100


class UsedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.act(x))


class ValueBranch(nn.Module):
    """Branches on the values of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else x + 1


class BatchBranch(nn.Module):
    """Branches on the batch size."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if len(x) == 2 else x


class ChannelsFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous()


class UnregisteredTensor(nn.Module):
    """Stores a tensor that is neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.rand(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


class ChecksNoInput(ValidNetwork):
    def forward_stages(self, x: Tensor, stages: Sequence[int | str] | None = None) -> list[Tensor]:
        maps = [self.stem(x)]
        maps += [self.stages[0](maps[0])]
        return maps if stages is None else [maps[i] for i in self.stage_indices(stages)]


class SortsStages(ValidNetwork):
    def forward_stages(self, x: Tensor, stages: Sequence[int | str] | None = None) -> list[Tensor]:
        maps = super().forward_stages(x)
        return maps if stages is None else [maps[i] for i in sorted(self.stage_indices(stages))]


class WrongChannels(ValidNetwork):
    feature_info = (FeatureInfo("conv1", 8, 1), FeatureInfo("stage1", 99, 2))


class WrongStride(ValidNetwork):
    feature_info = (FeatureInfo("conv1", 8, 1), FeatureInfo("stage1", 12, 4))


class KeepsItsClassifier(ValidNetwork):
    def reset_classifier(self, num_classes: int) -> None:
        pass


class AlwaysTrains(ValidNetwork):
    def train(self, mode: bool = True) -> "AlwaysTrains":
        for module in self.modules():
            module.training = mode
        return self


class LoadsAnyKeys(ValidNetwork):
    def load_state_dict(self, state_dict: Any, *_: bool) -> Any:
        return nn.Module.load_state_dict(self, state_dict, strict=False)


class NotSaved(ValidNetwork):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1), persistent=False)


class NotCalled(ValidNetwork):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.ReLU()


class NotTrained(ValidNetwork):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.ones(1))


class NotPickled(ValidNetwork):
    def __init__(self) -> None:
        super().__init__()
        self.scale = lambda x: x


class WithoutCheckpoints(ValidNetwork):
    def __init__(self) -> None:
        super().__init__()
        self.stages[0] = nn.Sequential(*self.stages[0])


class UpdatesMeanInBranch(ValidNetwork):
    def __init__(self) -> None:
        super().__init__(nn.Sequential(UpdatesMean(), nn.Tanh()))


class CamLayerIsVector(ValidNetwork):
    def __init__(self) -> None:
        super().__init__()
        self.cam_layer = "head.flatten"


class HeadDetaches(ValidNetwork):
    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return super().forward_head(x.detach(), pre_logits)


class StagesDetach(ValidNetwork):
    def forward_features(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward_features(x)


class Detaches(ValidNetwork):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


def with_inplace_clipping() -> ValidNetwork:
    """Return a network whose stage overwrites the stem's map."""
    model = ValidNetwork(stem_act=None)
    model.stages[0].pool = nn.Hardtanh(-0.1, 0.1, inplace=True)
    return model


def ends_channels_first() -> ValidNetwork:
    model = ValidNetwork()
    model.stages[0].append(ChannelsFirst())
    return model


def with_inplace_activations() -> ValidNetwork:
    model = ValidNetwork()
    set_inplace(model)
    return model


def with_classes(num_classes: int) -> ValidNetwork:
    model = ValidNetwork()
    model.reset_classifier(num_classes)
    return model


def with_block(block: type[nn.Module]) -> Callable[[], ValidNetwork]:
    return lambda: ValidNetwork(block())


INVALID = [
    ("feature_info", lambda: ValidNetwork().half(), "a network in float32, got torch.float16"),
    ("odd_and_oblong_images", lambda: with_classes(0), "checks need a network with a classifier"),
    ("every_module_is_called", lambda: with_classes(0), "checks need a network with a classifier"),
    ("logits", WrongNumClasses, "logits have shape (2, 4), expected (2, 7)"),
    ("logits_are_not_probabilities", EndsInSoftmax, "the network ends in softmax"),
    ("logits_are_not_probabilities", EndsInLogSoftmax, "the network ends in log_softmax"),
    ("eval_mode_changes_nothing", with_block(UpdatesMean), "eval mode changes stages.0.0.mean"),
    (
        "eval_mode_changes_nothing",
        with_block(Noise),
        "a second pass over the same images returns different logits",
    ),
    ("one_image_equals_its_batch", with_block(MinusBatchMean), "Greatest absolute difference"),
    ("odd_and_oblong_images", with_block(Square), "an image of 97x131 pixels is rejected"),
    (
        "min_input_size_is_tight",
        lambda: ValidNetwork(min_input_size=5),
        "min_input_size is 5, but an image of 4x5 pixels is accepted, expected RuntimeError",
    ),
    (
        "min_input_size_is_tight",
        lambda: ValidNetwork(min_input_size=1),
        "min_input_size is 1, but an image of 1 pixels is rejected: RuntimeError",
    ),
    ("wrong_input_is_named", ChecksNoInput, "raises 'expected 4D"),
    ("head_reads_the_last_map", DoublesLogits, "forward_head does not return the logits"),
    ("stages_come_in_the_order_asked", SortsStages, "row -1 is not the last map"),
    ("feature_info", WrongChannels, "maps have [8, 12] channels, feature_info has [8, 99]"),
    (
        "feature_info",
        WrongStride,
        "maps have [4, 2] pixels per 4 input pixels, strides imply [4, 1]",
    ),
    (
        "cam_layer",
        CamLayerIsVector,
        "head.flatten returns a tensor of shape (1, 12), expected a map",
    ),
    ("cam_layer", HeadDetaches, "no gradient of the logits reaches the map of stages.0"),
    ("cam_layer", StagesDetach, "no gradient of the logits reaches the map of stages.0"),
    ("cam_layer", Detaches, "the logits have no gradient: RuntimeError"),
    ("reset_classifier", KeepsItsClassifier, "logits have shape (2, 4) after reset_classifier(5)"),
    ("every_parameter_gets_a_gradient", NotTrained, "no gradient for spare"),
    ("every_module_is_called", NotCalled, "never called, or without a gradient: spare"),
    (
        "every_module_is_called",
        with_inplace_activations,
        "layers that overwrite their input (inplace=True)",
    ),
    (
        "modules_are_used_once",
        with_block(UsedTwice),
        "used more than once: stages.0.0.act (2 times)",
    ),
    (
        "checkpointing_changes_nothing",
        UpdatesMeanInBranch,
        "The failure occurred for item ['stages.0.0.0.mean']",
    ),
    ("checkpointing_recomputes", WithoutCheckpoints, "runs 1 times, expected 2"),
    ("frozen_parts_stay_in_eval_mode", AlwaysTrains, "train() puts a frozen stem in training mode"),
    ("hooks_keep_what_they_see", with_inplace_clipping, "the output of stem.norm, stem"),
    (
        "replaced_forwards_keep_what_they_give",
        with_inplace_clipping,
        "overwrites the output of stem.norm",
    ),
    ("gradients_of_samples", with_block(ValueBranch), "torch.func cannot take gradients"),
    ("state_dict_has_everything", NotSaved, "not in the state dict: scale"),
    (
        "state_dict_has_everything",
        with_block(UnregisteredTensor),
        "not in the state dict: stages.0.0.shift",
    ),
    ("foreign_keys_get_a_hint", LoadsAnyKeys, "another library's state dict is accepted"),
    ("copies_and_pickles_agree", NotPickled, "cannot be copied or pickled"),
    ("meta_device", with_block(UnregisteredTensor), "does not run on the meta device"),
    ("channels_last", ends_channels_first, "not those of channels_last"),
    ("traces_symbolically", with_block(ValueBranch), "cannot be traced symbolically"),
    ("compiles_to_one_graph", with_block(ValueBranch), "does not compile to one graph"),
    ("exports_with_a_dynamic_batch", with_block(BatchBranch), "exported with a dynamic batch"),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_valid_user_network_passes(check: Callable[[ImageClassifier], None]) -> None:
    check(ValidNetwork())


@pytest.mark.parametrize(("check", "network", "message"), INVALID)
def test_an_invalid_network_fails_with_a_message(
    check: str, network: Callable[[], ValidNetwork], message: str
) -> None:
    with pytest.raises(AssertionError, match=re.escape(message)):
        getattr(testing, f"check_{check}")(network())


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("model", [3, nn.Flatten()], ids=["int", "Flatten"])
def test_a_check_rejects_other_modules(check: Callable[[Any], None], model: object) -> None:
    message = f"checks need a cnnarch.ImageClassifier, got {type(model).__name__}"
    with pytest.raises(AssertionError, match=re.escape(message)):
        check(model)


@pytest.mark.parametrize(
    "check",
    [check for check in CHECKS if check is not testing.check_meta_device],
    ids=lambda check: check.__name__,
)
def test_a_check_rejects_a_network_that_is_not_on_the_cpu(
    check: Callable[[ImageClassifier], None],
) -> None:
    with pytest.raises(AssertionError, match="checks need a network on the CPU, got one on meta"):
        check(ValidNetwork().to("meta"))


def test_a_network_built_on_the_meta_device_passes_check_meta_device() -> None:
    with torch.device("meta"):
        model = ValidNetwork()
    testing.check_meta_device(model)


def test_a_network_with_one_class_passes() -> None:
    testing.check_classifier(with_classes(1))


def test_a_network_that_amplifies_rounding_errors_passes() -> None:
    """Without training, each layer of a ConvMixer with ReLU adds a third to all earlier errors."""
    testing.check_bfloat16_autocast(ConvMixer(16, 32, 7, 7, nn.ReLU, num_classes=10))


@pytest.mark.parametrize("frozen", [freeze, lambda model: model.requires_grad_(False)])
def test_a_frozen_network_passes(frozen: Callable[[ValidNetwork], object]) -> None:
    model = ValidNetwork()
    frozen(model)
    testing.check_classifier(model)


def test_assert_close_rejects_outputs_that_hardly_vary() -> None:
    logits = torch.tensor([1.0, 1.0 + 5e-6])
    with pytest.raises(AssertionError, match="nothing is compared"):
        testing.assert_close(logits, logits, 1e-5)
    testing.assert_close(logits, logits, 1e-7)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_check_leaves_the_network_unchanged(check: Callable[[ImageClassifier], None]) -> None:
    model = ValidNetwork().train()
    model.stem.eval()
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    check(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))


def test_checks_lists_every_check_once() -> None:
    found = set()
    for module in pkgutil.iter_modules(testing.__path__, "cnnarch.testing."):
        members = inspect.getmembers(importlib.import_module(module.name), inspect.isfunction)
        found |= {function for name, function in members if name.startswith("check_")}
    assert len(CHECKS) == len(set(CHECKS))
    assert {check.__name__ for check in CHECKS} <= set(testing.__all__)
    assert set(CHECKS) == {f for f in found if f.__module__.startswith("cnnarch.testing.")}
