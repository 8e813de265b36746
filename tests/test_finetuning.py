"""Preparing a network for training."""

import copy
import math

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.testing import assert_close, example_images
from cnnarch.testing._steps import train_step


def test_xavier_has_the_variance_of_its_paper() -> None:
    layer = nn.Linear(400, 200)
    cnnarch.init_weights(layer, "xavier")
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 600), rel=0.02)
    assert layer.bias.count_nonzero() == 0


def test_kaiming_has_the_variance_of_its_paper() -> None:
    layer = nn.Conv2d(64, 128, 3)
    cnnarch.init_weights(layer, "kaiming")
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.02)


def test_kaiming_keeps_the_signal_of_a_linear_layer_however_few_its_outputs() -> None:
    """A classifier of 10 classes after 4096 features: logits of variance 2, not of 819."""
    layer = nn.Linear(4096, 10)
    cnnarch.init_weights(layer, "kaiming")
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 4096), rel=0.02)


def test_orthogonal_rows_are_orthogonal() -> None:
    layer = nn.Linear(32, 8)
    cnnarch.init_weights(layer, "orthogonal")
    torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(8), atol=1e-5, rtol=0)


def test_every_rule_reaches_every_layer() -> None:
    for rule in ("xavier", "kaiming", "orthogonal", "torch"):
        model = cnnarch.resnet18(num_classes=4)
        weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        for weight in weights:
            weight.data.fill_(7.0)
        cnnarch.init_weights(model, rule)
        assert all(weight.std() > 0 for weight in weights)


def test_an_unknown_rule_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"rule must be one of .*xavier.*got 'glorot'"):
        cnnarch.init_weights(nn.Linear(1, 1), "glorot")


def train_once(model: cnnarch.ImageClassifier) -> None:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, weight_decay=0.1)
    train_step(model, example_images(model))
    optimizer.step()


def test_what_is_frozen_stays_bit_identical(model: cnnarch.ImageClassifier) -> None:
    twin = copy.deepcopy(model)
    middle = len(twin.stages) // 2
    cnnarch.freeze(twin, upto=middle)
    before = {k: v.clone() for k, v in twin.state_dict().items()}
    train_once(twin)
    frozen = ("stem.", *(f"stages.{i}." for i in range(middle)))
    after = twin.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith(frozen))
    assert any(not torch.equal(before[k], after[k]) for k in before if not k.startswith(frozen))


def test_statistics_move_where_that_is_asked_for() -> None:
    model = cnnarch.resnet18(num_classes=2)
    cnnarch.freeze(model, "conv1", batch_norm="train")
    weight, mean = model.stem.conv.weight.clone(), model.stem.norm.running_mean.clone()
    train_once(model)
    assert torch.equal(model.stem.conv.weight, weight)
    assert not torch.equal(model.stem.norm.running_mean, mean)


def test_the_last_word_on_statistics_holds() -> None:
    model = cnnarch.resnet18(num_classes=2)
    cnnarch.freeze(model, "conv3_x")
    cnnarch.freeze(model, "conv1", batch_norm="train")
    parts = (model.stem, *model.stages)
    assert [part.training for part in parts] == [True, False, False, True, True]
    assert not any(p.requires_grad for part in parts[:3] for p in part.parameters())


def test_gradients_left_from_before_move_nothing() -> None:
    model = cnnarch.convnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    model(example_images(model)).square().sum().backward()
    optimizer.step()
    cnnarch.freeze(model, upto=0)
    before = copy.deepcopy(model.state_dict())
    optimizer.step()
    moved = {
        k.split(".")[0] for k, v in model.state_dict().items() if not torch.equal(v, before[k])
    }
    assert moved == {"stages", "head"}


def test_unfreezing_goes_down_to_a_stage() -> None:
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


def test_freezing_past_the_last_stage_is_named() -> None:
    with pytest.raises(ValueError, match="no stage 'head'; the stages are 0 'conv1'"):
        cnnarch.freeze(cnnarch.resnet18(), upto="head")
    with pytest.raises(ValueError, match="batch_norm must be one of 'eval', 'train'"):
        cnnarch.freeze(cnnarch.resnet18(), batch_norm="off")  # type: ignore[arg-type]


def test_what_is_frozen_stays_in_eval_mode(model: cnnarch.ImageClassifier) -> None:
    twin = copy.deepcopy(model)
    for row in twin.feature_info:
        cnnarch.freeze(twin, upto=row.name)
        twin.train()
        count = twin.stage_index(row.name) + 1
        parts = [twin.stem, *twin.stages]
        modes = [{m.training for m in part.modules()} for part in parts]
        assert modes == [{False}] * count + [{True}] * (len(parts) - count)
        for index, part in enumerate(parts):
            assert all(p.requires_grad == (index >= count) for p in part.parameters())
        assert twin.head.training
        assert all(p.requires_grad for p in twin.head.parameters())
    for past in (len(twin.feature_info), "head"):
        with pytest.raises(ValueError, match=f"there is no stage {past!r}; the stages are 0"):
            cnnarch.freeze(twin, upto=past)


def test_only_networks_and_backbones_are_frozen() -> None:
    for wrong in (nn.Conv2d(3, 8, 3), "resnet18", nn.Sequential(cnnarch.convnet())):
        expected = f"model must be a network or a backbone of cnnarch, got {type(wrong).__name__}"
        for call in (cnnarch.freeze, cnnarch.unfreeze, lambda m: cnnarch.param_groups(m, lr=0.1)):
            with pytest.raises(TypeError, match=expected):
                call(wrong)


def test_a_compiled_network_is_seen_through() -> None:
    model = cnnarch.convnet()
    compiled = torch.compile(model)  # nothing is compiled before it is called
    groups = cnnarch.param_groups(compiled, lr=1.0, layer_decay=0.5)
    assert {g["name"] for g in groups} == {g["name"] for g in cnnarch.param_groups(model, lr=1.0)}
    assert min(g["lr"] for g in groups) < 1.0
    cnnarch.freeze(compiled, upto=0)
    assert not any(p.requires_grad for p in model.stem.parameters())


def test_each_parameter_stands_in_one_group(model: cnnarch.ImageClassifier) -> None:
    groups = cnnarch.param_groups(model, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for layer in model.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            spared = name == "bias" or "Norm" in type(layer).__name__
            assert (id(parameter) in decayed) != spared, f"{name} of {layer}"
    rates = {group["name"]: group["lr"] for group in groups}
    order = [
        rates[n] for n in ("stem", *(f"stages.{i}" for i in range(len(model.stages)))) if n in rates
    ]
    assert order == sorted(order)
    assert rates["stem"] == 0.5 ** (len(model.stages) + 1)
    torch.optim.AdamW(groups)


@pytest.mark.parametrize(
    ("name", "allowed", "values"),
    [
        ("layer_decay", r"in \(0, 1\]", (0, 1.5, -1, math.nan, "half", True)),
        ("weight_decay", "at least 0", (-0.1, math.nan, math.inf, "none")),
        ("lr", "a number above 0", (-0.1, 0, math.nan, math.inf, "fast")),
    ],
)
def test_numbers_out_of_range_are_named(name: str, allowed: str, values: tuple[object]) -> None:
    model = cnnarch.convnet()
    for value in values:
        with pytest.raises(ValueError, match=f"{name} must be {allowed}, got {value!r}"):
            cnnarch.param_groups(model, **{"lr": 0.1, name: value})  # type: ignore[arg-type]


def test_groups_have_names_of_their_own() -> None:
    """Lightning's LearningRateMonitor draws a curve for each, and refuses two of one name."""
    names = [group["name"] for group in cnnarch.param_groups(cnnarch.lenet5_bn(), lr=0.1)]
    assert len(names) == len(set(names))
    assert names[:2] == ["stem", "stem, no decay"]


def has_norms(model: nn.Module) -> bool:
    return any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_group_norm_takes_the_place_of_every_batch_norm(model: cnnarch.ImageClassifier) -> None:
    if not has_norms(model):
        return
    twin = cnnarch.convert_norm(copy.deepcopy(model), "group")
    assert not has_norms(twin)
    assert train_step(twin, example_images(twin)).isfinite()


def test_frozen_norms_give_what_batch_norm_gave_in_eval(model: cnnarch.ImageClassifier) -> None:
    if not has_norms(model):
        return
    twin = copy.deepcopy(model).double()  # the two compute scale and shift in another order
    images = example_images(model).double()
    with torch.no_grad():
        expected = twin(images)
        cnnarch.convert_norm(twin, "frozen")
        assert not has_norms(twin)
        assert_close(twin(images), expected, 1e-9)


def test_norms_for_many_processes_keep_every_value(model: cnnarch.ImageClassifier) -> None:
    twin = cnnarch.convert_norm(copy.deepcopy(model), "sync")
    norms = nn.BatchNorm1d | nn.BatchNorm2d
    count = sum(isinstance(m, norms) for m in model.modules())
    assert [type(m) for m in twin.modules()].count(nn.SyncBatchNorm) == count
    assert not any(isinstance(m, norms) for m in twin.modules())
    before, after = model.state_dict(), twin.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_other_norms_in_frozen_stages_stay_frozen() -> None:
    model = cnnarch.resnet18()
    cnnarch.freeze(model, upto="conv2_x")
    cnnarch.convert_norm(model, "group")
    assert not any(p.requires_grad for p in model.stem.parameters())
    assert not any(p.requires_grad for p in model.stages[0].parameters())
    assert all(p.requires_grad for p in model.stages[1].parameters())


def test_a_norm_alone_is_converted_too() -> None:
    norm = nn.BatchNorm2d(6).eval()
    assert isinstance(cnnarch.convert_norm(norm, "group"), nn.GroupNorm)
    x = torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(cnnarch.convert_norm(norm, "frozen")(x), norm(x))


def test_norms_without_scale_and_shift_are_converted() -> None:
    norm, x = nn.BatchNorm2d(6, affine=False), torch.randn(2, 6, 3, 3)
    norm(x)
    frozen, group = (
        cnnarch.convert_norm(nn.Sequential(norm), kind)
        for kind in ("frozen", "group")  # type: ignore[arg-type]
    )
    torch.testing.assert_close(frozen(x), norm.eval()(x))
    assert not list(group.parameters())


def test_a_norm_without_statistics_is_not_frozen() -> None:
    norm = nn.BatchNorm2d(6, track_running_stats=False)
    with pytest.raises(ValueError, match=r"nothing to freeze: BatchNorm2d\(6, .*=False\)"):
        cnnarch.convert_norm(nn.Sequential(norm), "frozen")


def test_a_norm_of_an_unknown_kind_is_named() -> None:
    with pytest.raises(
        ValueError, match="kind must be one of 'group', 'frozen', 'sync', got 'layer'"
    ):
        cnnarch.convert_norm(cnnarch.convnet(), "layer")  # type: ignore[arg-type]


def test_in_place_activations_and_checkpoints_change_no_value(
    model: cnnarch.ImageClassifier,
) -> None:
    twin, images = copy.deepcopy(model).train(), example_images(model)
    expected: list[torch.Tensor | None] = []
    for inplace, checkpoints in ((False, False), (True, False), (True, True)):
        cnnarch.set_inplace(twin, inplace)
        twin.set_grad_checkpointing(checkpoints)
        twin.zero_grad()
        torch.manual_seed(0)
        maps = twin.forward_stages(images)
        twin.forward_head(maps[-1]).square().sum().backward()
        found = [*(m.detach() for m in maps), *(p.grad for p in twin.parameters())]
        expected = expected or found
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)
