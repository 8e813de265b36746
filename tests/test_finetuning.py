"""Fine-tuning: initialization, freezing, parameter groups, norms, in-place activations."""

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

import cnnarch
from cnnarch.testing import assert_close, calibrate, example_images
from cnnarch.testing._helpers import train_step


def test_xavier_initialization_has_the_variance_in_the_paper() -> None:
    layer = nn.Linear(400, 200)
    cnnarch.init_weights(layer, "xavier")
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 600), rel=0.02)
    assert layer.bias.count_nonzero() == 0


def test_kaiming_initialization_has_the_variance_in_the_paper() -> None:
    layer = nn.Conv2d(64, 128, 3)
    cnnarch.init_weights(layer, "kaiming")
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.02)


def test_kaiming_initialization_of_a_linear_layer_does_not_depend_on_its_outputs() -> None:
    """Logits for 10 classes from 4096 features have variance 2. With fan-out, it would be 819."""
    layer = nn.Linear(4096, 10)
    cnnarch.init_weights(layer, "kaiming")
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 4096), rel=0.02)


def test_orthogonal_rows_are_orthogonal() -> None:
    layer = nn.Linear(32, 8)
    cnnarch.init_weights(layer, "orthogonal")
    torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(8), atol=1e-5, rtol=0)


def test_every_rule_initializes_every_layer() -> None:
    for rule in ("xavier", "kaiming", "orthogonal", "torch"):
        model = cnnarch.resnet18(num_classes=4)
        weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        for weight in weights:
            weight.data.fill_(7.0)
        cnnarch.init_weights(model, rule)
        assert all(weight.std() > 0 for weight in weights)


def test_an_unknown_rule_raises_and_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"rule must be one of .*xavier.*got 'glorot'"):
        cnnarch.init_weights(nn.Linear(1, 1), "glorot")


def train_once(model: cnnarch.ImageClassifier) -> None:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, weight_decay=0.1)
    train_step(model, example_images(model))
    optimizer.step()


def test_frozen_stages_stay_bit_identical(model: cnnarch.ImageClassifier) -> None:
    copied = copy.deepcopy(model)
    middle = len(copied.stages) // 2
    cnnarch.freeze(copied, upto=middle)
    before = {k: v.clone() for k, v in copied.state_dict().items()}
    train_once(copied)
    frozen = ("stem.", *(f"stages.{i}." for i in range(middle)))
    after = copied.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith(frozen))
    assert any(not torch.equal(before[k], after[k]) for k in before if not k.startswith(frozen))


def test_running_statistics_change_with_batch_norm_train() -> None:
    model = cnnarch.resnet18(num_classes=2)
    cnnarch.freeze(model, "conv1", batch_norm="train")
    weight, mean = model.stem.conv.weight.clone(), model.stem.norm.running_mean.clone()
    train_once(model)
    assert torch.equal(model.stem.conv.weight, weight)
    assert not torch.equal(model.stem.norm.running_mean, mean)


def test_the_last_call_determines_whether_statistics_are_frozen() -> None:
    model = cnnarch.resnet18(num_classes=2)
    cnnarch.freeze(model, "conv3_x")
    cnnarch.freeze(model, "conv1", batch_norm="train")
    parts = (model.stem, *model.stages)
    assert [part.training for part in parts] == [True, False, False, True, True]
    assert not any(p.requires_grad for part in parts[:3] for p in part.parameters())


def test_gradients_from_before_freezing_do_not_change_frozen_parts() -> None:
    model = cnnarch.convnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    model(example_images(model)).square().sum().backward()
    optimizer.step()
    cnnarch.freeze(model, upto=0)
    before = copy.deepcopy(model.state_dict())
    optimizer.step()
    changed = {
        k.split(".")[0] for k, v in model.state_dict().items() if not torch.equal(v, before[k])
    }
    assert changed == {"stages", "head"}


def test_unfreezing_can_start_at_a_stage() -> None:
    model = cnnarch.resnet18(num_classes=2).train()
    cnnarch.freeze(model)
    assert not any(p.requires_grad for p in model.stages.parameters())
    cnnarch.unfreeze(model, "conv5_x")
    assert all(p.requires_grad for p in model.stages[3].parameters())
    assert model.stages[3].training
    assert not any(p.requires_grad for p in model.stages[2].parameters())
    cnnarch.unfreeze(model)
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.modules())


def test_stages_can_be_specified_by_module_path() -> None:
    model, expected = cnnarch.resnet18(), cnnarch.resnet18()
    cnnarch.freeze(model, upto="stages.2")
    cnnarch.freeze(expected, upto="conv4_x")
    for network in (model, expected):
        parts = [network.stem, *network.stages]
        assert [part.training for part in parts] == [False] * 4 + [True]
    cnnarch.unfreeze(model, downto="stages.1")
    assert [part.training for part in (model.stem, *model.stages)] == [False] * 2 + [True] * 3
    with pytest.raises(ValueError, match=r"no stage 'stages\.2\.0'; the stages are 0 'conv1'"):
        cnnarch.freeze(model, upto="stages.2.0")


def test_freezing_past_the_last_stage_raises() -> None:
    with pytest.raises(ValueError, match="no stage 'stage5'; the stages are 0 'conv1'"):
        cnnarch.freeze(cnnarch.resnet18(), upto="stage5")
    with pytest.raises(ValueError, match="no stage 'head'; the stages are 0 'conv1'"):
        cnnarch.freeze(cnnarch.get_backbone("resnet18"), upto="head")
    with pytest.raises(ValueError, match="batch_norm must be one of 'eval', 'train'"):
        cnnarch.freeze(cnnarch.resnet18(), batch_norm="off")  # type: ignore[arg-type]


def test_frozen_stages_stay_in_eval_mode(model: cnnarch.ImageClassifier) -> None:
    copied = copy.deepcopy(model)
    for row in copied.feature_info:
        cnnarch.freeze(copied, upto=row.name)
        copied.train()
        count = copied.stage_index(row.name) + 1
        parts = [copied.stem, *copied.stages]
        modes = [{m.training for m in part.modules()} for part in parts]
        assert modes == [{False}] * count + [{True}] * (len(parts) - count)
        for index, part in enumerate(parts):
            assert all(p.requires_grad == (index >= count) for p in part.parameters())
        assert copied.head.training
        assert all(p.requires_grad for p in copied.head.parameters())
    past = len(copied.feature_info)
    with pytest.raises(ValueError, match=f"there is no stage {past}; the stages are 0"):
        cnnarch.freeze(copied, upto=past)


def test_freezing_up_to_the_head_trains_only_the_classifiers() -> None:
    for name, options in (("efficientnet_b0", {}), ("googlenet", {"aux_logits": True})):
        model = cnnarch.get_model(name, num_classes=3, **options).train()
        cnnarch.freeze(model, upto="head")
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        assert trained
        assert all(".classifier." in name for name in trained)
        norms = [m for m in model.train().modules() if hasattr(m, "running_mean")]
        assert not any(norm.training for norm in norms)
        assert model.head.dropout.training
        before = copy.deepcopy(model.state_dict())
        train_once(model)
        changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
        assert changed == set(trained)
        cnnarch.unfreeze(model, "head")
        assert all(p.requires_grad for p in model.head.parameters())
        assert not any(p.requires_grad for p in model.stages.parameters())
        cnnarch.unfreeze(model)
        assert all(p.requires_grad for p in model.parameters())
        assert all(m.training for m in model.train().modules())


def train_everything(model: nn.Module) -> None:
    nn.ModuleDict({"inside": model}).train()


def train_shared_layers(model: nn.Module) -> None:
    nn.Sequential(*model.stages[0].children(), model.stem).train()


def train_backbone(model: nn.Module) -> None:
    nn.ModuleList([model, cnnarch.Backbone(model)]).train()  # type: ignore[arg-type]


def train_with_sync_norms(model: nn.Module) -> None:
    nn.SyncBatchNorm.convert_sync_batchnorm(model).train()  # type: ignore[no-untyped-call]


def update_statistics(model: nn.Module) -> None:
    update_bn([torch.randn(4, 3, 32, 32) + 1], model)


@pytest.mark.parametrize(
    "train",
    [
        train_everything,
        train_shared_layers,
        train_backbone,
        train_with_sync_norms,
        update_statistics,
    ],
)
def test_frozen_layers_stay_frozen_whoever_trains_them(train: Callable[[nn.Module], None]) -> None:
    model = cnnarch.densenet_40_12_cifar(dropout=0.2)
    calibrate(model, torch.randn(8, 3, 32, 32))
    cnnarch.freeze(model, upto=1)
    before = copy.deepcopy(model)
    for trained in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        train(trained)
        parts = nn.ModuleList([trained.stem, trained.stages[0]])
        assert not any(m.training for m in list(parts.modules())[1:])
        images = torch.randn(2, 3, 32, 32)
        expected = before.forward_stages(images, [1])[0]
        assert torch.equal(trained.stages[0](trained.stem(images)), expected)
        state = before.state_dict()
        changed = [k for k, v in trained.state_dict().items() if not torch.equal(v, state[k])]
        assert not any(name.startswith(("stem", "stages.0")) for name in changed)


def test_weight_averaging_keeps_frozen_statistics() -> None:
    model = cnnarch.resnet20_cifar()
    calibrate(model, torch.randn(8, 3, 32, 32) + 1)
    cnnarch.freeze(model, upto=1)
    averaged = AveragedModel(model.train())
    averaged.update_parameters(model)
    update_bn([torch.randn(8, 3, 32, 32)], averaged)
    assert torch.equal(averaged.module.stem.norm.running_mean, model.stem.norm.running_mean)
    free = (averaged.module.stages[2], model.stages[2])
    first, second = (part[0].branch.conv1.norm.running_mean for part in free)
    assert not torch.equal(first, second)


def test_a_thawed_norm_is_the_same_object_with_the_same_class() -> None:
    model = cnnarch.resnet20_cifar()
    norm = model.stem.norm
    hooked: list[int] = []
    norm.register_forward_hook(lambda *_: hooked.append(1))
    cnnarch.freeze(model)
    assert model.stem.norm is norm
    assert not isinstance(norm, nn.BatchNorm2d)
    model(torch.randn(2, 3, 32, 32))
    assert hooked
    cnnarch.unfreeze(model)
    assert type(norm) is nn.BatchNorm2d
    assert "thawed_class" not in vars(norm)


def test_permanently_frozen_norms_are_not_thawed() -> None:
    model = cnnarch.convert_norm(cnnarch.resnet20_cifar(), "frozen")
    keys = cnnarch.resnet20_cifar().state_dict().keys()
    assert model.state_dict().keys() == keys
    cnnarch.freeze(model)
    cnnarch.unfreeze(model)
    assert not model.train().stem.norm.training
    assert not any("norm" in name for name, _ in model.named_parameters())


def test_frozen_norms_load_checkpoints_with_another_eps_and_with_counters() -> None:
    source = cnnarch.efficientnet_b0(num_classes=3, norm_eps=1e-3, padding="same")
    images = torch.randn(4, 3, 64, 64)
    calibrate(source, images)
    theirs = cnnarch.weights.export(source, "efficientnet_pytorch")
    for state in (theirs, {k: v for k, v in theirs.items() if "num_batches" not in k}):
        model = cnnarch.efficientnet_b0(num_classes=3, norm_eps=1e-5, padding="same")
        cnnarch.convert_norm(model, "frozen")
        report = cnnarch.weights.load(model.eval(), state)
        assert report.changed_options == {"norm_eps": 1e-3}
        assert model.stem.norm.eps == 1e-3
        with torch.no_grad():
            assert_close(model(images), source(images))


def test_other_modules_cannot_be_frozen() -> None:
    for wrong in (nn.Conv2d(3, 8, 3), "resnet18", nn.Sequential(cnnarch.convnet())):
        expected = f"model must be a cnnarch network or backbone, got {type(wrong).__name__}"
        for call in (cnnarch.freeze, cnnarch.unfreeze, lambda m: cnnarch.param_groups(m, lr=0.1)):
            with pytest.raises(TypeError, match=expected):
                call(wrong)


def test_compiled_networks_are_supported() -> None:
    model = cnnarch.convnet()
    compiled = torch.compile(model)  # compiled on the first call
    groups = cnnarch.param_groups(compiled, lr=1.0, layer_decay=0.5)
    assert {g["name"] for g in groups} == {g["name"] for g in cnnarch.param_groups(model, lr=1.0)}
    assert min(g["lr"] for g in groups) < 1.0
    cnnarch.freeze(compiled, upto=0)
    assert not any(p.requires_grad for p in model.stem.parameters())


def test_each_parameter_is_in_exactly_one_group(model: cnnarch.ImageClassifier) -> None:
    groups = cnnarch.param_groups(model, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for layer in model.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            scales = ("bias", "gamma", "alpha", "beta")  # of layer scales and affine layers
            without_decay = name in scales or "Norm" in type(layer).__name__
            assert (id(parameter) in decayed) != without_decay, f"{name} of {layer}"
    rates = {group["name"]: group["lr"] for group in groups}
    order = [rates[row.name] for row in model.feature_info if row.name in rates]
    assert order == sorted(order)
    assert order[0] == 0.5 ** (len(model.stages) + 1)
    torch.optim.AdamW(groups)


@pytest.mark.parametrize(
    ("name", "allowed", "values"),
    [
        ("layer_decay", r"in \(0, 1\]", (0, 1.5, -1, math.nan, "half", True)),
        ("weight_decay", "at least 0", (-0.1, math.nan, math.inf, "none")),
        ("lr", "a number above 0", (-0.1, 0, math.nan, math.inf, "fast")),
    ],
)
def test_numbers_out_of_range_raise(name: str, allowed: str, values: tuple[object]) -> None:
    model = cnnarch.convnet()
    for value in values:
        with pytest.raises(ValueError, match=f"{name} must be {allowed}, got {value!r}"):
            cnnarch.param_groups(model, **{"lr": 0.1, name: value})  # type: ignore[arg-type]


def test_group_names_are_unique() -> None:
    """Lightning's LearningRateMonitor rejects duplicate names."""
    names = [group["name"] for group in cnnarch.param_groups(cnnarch.lenet5_bn(), lr=0.1)]
    assert len(names) == len(set(names))
    assert names[:2] == ["C1", "C1, no decay"]


def has_norms(model: nn.Module) -> bool:
    return any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_group_norm_replaces_every_batch_norm(model: cnnarch.ImageClassifier) -> None:
    copied = cnnarch.convert_norm(copy.deepcopy(model), "group")
    assert not has_norms(copied)
    assert train_step(copied, example_images(copied)).isfinite()


def test_frozen_norms_match_batch_norm_in_eval_mode(model: cnnarch.ImageClassifier) -> None:
    copied = copy.deepcopy(model).double()  # the norms apply scale and shift in different orders
    images = example_images(model).double()
    with torch.no_grad():
        expected = copied(images)
        cnnarch.convert_norm(copied, "frozen")
        assert not has_norms(copied)
        assert_close(copied(images), expected, 1e-9)


def test_sync_norms_preserve_every_value(model: cnnarch.ImageClassifier) -> None:
    copied = cnnarch.convert_norm(copy.deepcopy(model), "sync")
    norms = nn.BatchNorm1d | nn.BatchNorm2d
    count = sum(isinstance(m, norms) for m in model.modules())
    assert [type(m) for m in copied.modules()].count(nn.SyncBatchNorm) == count
    assert not any(isinstance(m, norms) for m in copied.modules())
    before, after = model.state_dict(), copied.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_converted_norms_in_frozen_stages_stay_frozen() -> None:
    model = cnnarch.resnet18()
    cnnarch.freeze(model, upto="conv2_x")
    cnnarch.convert_norm(model, "group")
    assert not any(p.requires_grad for p in model.stem.parameters())
    assert not any(p.requires_grad for p in model.stages[0].parameters())
    assert all(p.requires_grad for p in model.stages[1].parameters())


def test_a_single_norm_is_converted() -> None:
    norm = nn.BatchNorm2d(6).eval()
    assert isinstance(cnnarch.convert_norm(norm, "group"), nn.GroupNorm)
    x = torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(cnnarch.convert_norm(norm, "frozen")(x), norm(x))


def test_norms_without_scale_and_shift_are_converted() -> None:
    norm, x = nn.BatchNorm2d(6, affine=False), torch.randn(2, 6, 3, 3)
    norm(x)
    frozen, group = (
        cnnarch.convert_norm(nn.Sequential(copy.deepcopy(norm)), kind)
        for kind in ("frozen", "group")  # type: ignore[arg-type]
    )
    torch.testing.assert_close(frozen(x), norm.eval()(x))
    assert not list(group.parameters())


def test_a_norm_without_statistics_cannot_be_frozen() -> None:
    norm = nn.BatchNorm2d(6, track_running_stats=False)
    with pytest.raises(ValueError, match=r"cannot be frozen: BatchNorm2d\(6, .*=False\)"):
        cnnarch.convert_norm(nn.Sequential(norm), "frozen")


def test_an_unknown_kind_of_norm_raises() -> None:
    with pytest.raises(
        ValueError, match="kind must be one of 'group', 'frozen', 'sync', got 'layer'"
    ):
        cnnarch.convert_norm(cnnarch.convnet(), "layer")  # type: ignore[arg-type]


def test_in_place_activations_and_gradient_checkpointing_do_not_change_values(
    model: cnnarch.ImageClassifier,
) -> None:
    copied, images = copy.deepcopy(model).train(), example_images(model)
    expected: list[torch.Tensor | None] = []
    for inplace, checkpoints in ((False, False), (True, False), (True, True)):
        cnnarch.set_inplace(copied, inplace)
        copied.set_grad_checkpointing(checkpoints)
        copied.zero_grad()
        torch.manual_seed(0)
        maps = copied.forward_stages(images)
        copied.forward_head(maps[-1]).square().sum().backward()
        found = [*(m.detach() for m in maps), *(p.grad for p in copied.parameters())]
        expected = expected or found
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)


class ClampedNorm(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).clamp(-10, 10)


def test_a_frozen_norm_of_the_users_own_keeps_its_statistics() -> None:
    model = cnnarch.resnet20_cifar()
    model.stem.norm = ClampedNorm(16)
    calibrate(model, torch.randn(8, 3, 32, 32) + 1)
    cnnarch.freeze(model, upto=0)
    before = model.stem.norm.running_mean.clone()
    update_bn([torch.randn(4, 3, 32, 32)], model)
    assert torch.equal(model.stem.norm.running_mean, before)
    cnnarch.unfreeze(model)
    model.train().stem.norm.reset_running_stats()
    assert model.stem.norm.running_mean.count_nonzero() == 0


def test_a_frozen_norm_loads_a_state_dict_without_counters() -> None:
    model = cnnarch.convert_norm(cnnarch.resnet20_cifar(), "frozen")
    state = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    model.load_state_dict(state)
    model.stem.norm.reset_running_stats()


def test_only_conversions_that_happened_are_recorded() -> None:
    assert cnnarch.convert_norm(cnnarch.lenet5(), "frozen").conversions == ()
    model = cnnarch.convert_norm(cnnarch.resnet20_cifar(), "frozen")
    assert cnnarch.convert_norm(model, "frozen").conversions == (("convert_norm", "frozen"),)
