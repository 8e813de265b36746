"""Loading into an existing network."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import cnnarch
from cnnarch.blocks.head import ClassifierHead
from cnnarch.facts.sheets import twins
from cnnarch.testing import assert_close, calibrate
from cnnarch.weights import WeightsError, download, export, load, port
from cnnarch.weights.channels import adapt_input, first_convolutions
from tests.oracles.libraries import build

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


def test_all_values_are_loaded(resnet: cnnarch.ImageClassifier) -> None:
    model = cnnarch.resnet18()
    report = load(model, resnet.state_dict())
    assert_equal(model.state_dict(), resnet.state_dict())
    assert (report.fresh, report.adapted, dict(report.changed_options)) == ((), (), {})


def test_any_module_loads_its_own_state_dict() -> None:
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    load(one, other.state_dict())
    assert torch.equal(one.weight, other.weight)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_ema", None])
def test_wrappers_and_prefixes_are_removed(
    resnet: cnnarch.ImageClassifier, prefix: str, wrapper: str | None
) -> None:
    state: dict[str, Any] = {prefix + k: v for k, v in resnet.state_dict().items()}
    model = cnnarch.resnet18()
    load(model, state if wrapper is None else {wrapper: state, "epoch": 3, "optimizer": {}})
    assert_equal(model.state_dict(), resnet.state_dict())


def test_averaged_weights_are_preferred_over_unaveraged_weights(
    resnet: cnnarch.ImageClassifier,
) -> None:
    average = torch.optim.swa_utils.AveragedModel(resnet)
    model = cnnarch.resnet18()
    load(model, {"model": cnnarch.resnet18().state_dict(), "model_ema": average.state_dict()})
    assert_equal(model.state_dict(), resnet.state_dict())


def test_parameters_remain_the_same_objects(resnet: cnnarch.ImageClassifier) -> None:
    model = cnnarch.resnet18()
    before = [id(p) for p in (*model.parameters(), *model.buffers())]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    load(model, resnet.state_dict())
    assert [id(p) for p in (*model.parameters(), *model.buffers())] == before
    model(X).sum().backward()
    optimizer.step()
    assert not torch.equal(model.stem.conv.weight, resnet.stem.conv.weight)


def test_a_callers_state_dict_is_copied(resnet: cnnarch.ImageClassifier) -> None:
    source = values(resnet)
    model = cnnarch.resnet18()
    load(model, source)
    source["stem.conv.weight"].zero_()
    assert torch.equal(model.stem.conv.weight, resnet.stem.conv.weight)


def test_tensors_shared_in_a_file_are_separate_in_the_network(tmp_path: Path) -> None:
    shared = torch.randn(4, 4)
    torch.save({"0.weight": shared, "1.weight": shared}, tmp_path / "tied.pth")
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    load(model, tmp_path / "tied.pth")
    with torch.no_grad():
        model[0].weight.zero_()
    assert torch.equal(model[1].weight, shared)


def test_the_network_keeps_its_dtype_and_memory_format(saved: Path) -> None:
    model = cnnarch.resnet18().to(torch.float64, memory_format=torch.channels_last)
    load(model, saved)
    weight = model.get_parameter("stages.0.1.branch.conv1.conv.weight")
    assert weight.dtype == torch.float64
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert model.stem.norm.num_batches_tracked.dtype == torch.int64


def test_a_half_precision_checkpoint_is_cast(resnet: cnnarch.ImageClassifier) -> None:
    half = copy.deepcopy(resnet).half().state_dict()
    model = cnnarch.resnet18()
    load(model, half)
    assert model.stem.conv.weight.dtype == torch.float32
    assert torch.equal(model.stem.conv.weight, half["stem.conv.weight"].float())


def test_integer_tensors_are_rejected_as_weights(resnet: cnnarch.ImageClassifier) -> None:
    state = values(resnet)
    state["stem.conv.weight"] = torch.ones_like(state["stem.conv.weight"], dtype=torch.int8)
    model = cnnarch.resnet18()
    before = values(model)
    with pytest.raises(WeightsError, match="int8, but the network has"):
        load(model, state)
    assert_equal(model.state_dict(), before)


def broken(state: dict[str, Tensor], fault: str) -> dict[str, Any]:
    state = dict(state)
    last = list(state)[-1]
    if fault == "missing":
        del state["stages.3.1.branch.conv2.conv.weight"]
    elif fault == "unexpected":
        state["extra"] = torch.zeros(1)
    elif fault == "shape":
        state["stages.3.1.branch.conv2.conv.weight"] = torch.zeros(512, 512, 1, 1)
    elif fault == "classifier":
        state["head.classifier.weight"] = torch.zeros(10, 100)
    elif fault == "sparse":
        state[last] = state[last].to_sparse()
    elif fault == "meta":
        state[last] = state[last].to("meta")
    return state


FAULTS = ["missing", "unexpected", "shape", "classifier", "sparse", "meta"]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_network_is_unchanged_after_an_error(
    resnet: cnnarch.ImageClassifier, fault: str
) -> None:
    model = cnnarch.resnet18()
    before, pointers = values(model), [p.data_ptr() for p in model.parameters()]
    with pytest.raises(WeightsError):
        load(model, broken(dict(resnet.state_dict()), fault))
    assert_equal(model.state_dict(), before)
    assert [p.data_ptr() for p in model.parameters()] == pointers


def test_an_unknown_value_of_adapt_raises() -> None:
    with pytest.raises(ValueError, match="'mean', 'repeat' or 'random', got 'sum'"):
        load(cnnarch.resnet18(), {}, adapt="sum")  # type: ignore[arg-type]


@pytest.mark.parametrize("source", [3, None, [1]])
def test_an_unsupported_source_raises_a_type_error(source: Any) -> None:
    with pytest.raises(TypeError, match="weights must be a tag, a path"):
        load(cnnarch.resnet18(), source)


def test_an_unknown_tag_raises_an_error_that_lists_known_tags() -> None:
    with pytest.raises(
        WeightsError, match="resnet18 has no weights 'V9'; the catalog has IMAGENET1K_V1"
    ):
        load(cnnarch.resnet18(), "V9")
    with pytest.raises(WeightsError, match="a network without a builder has no weights 'DEFAULT'"):
        load(nn.Linear(1, 1), "DEFAULT")


NAMESAKES = {
    "alexnet": "alexnet_owt",
    "googlenet": "googlenet_bn",
    "regnet_x_400mf": "regnet_x_400mf_tv",
    "regnet_y_800mf": "regnet_y_800mf_tv",
    "regnet_y_8gf": "regnet_y_8gf_tv",
}
"""Networks whose names torchvision uses for others, and the names of those here."""


@pytest.mark.parametrize(("name", "right"), NAMESAKES.items())
def test_errors_name_the_network_that_torchvision_calls_by_this_name(name: str, right: str) -> None:
    hint = f"torchvision's {name} is {right}, and the paper's is {name}"
    model = cnnarch.get_model(name)
    with pytest.raises(WeightsError, match=f"the catalog has .*; {hint}. Paths"):
        load(model, "IMAGENET1K_V1")
    with pytest.raises(WeightsError, match=f"it has .*; {hint}$"):
        download(name, Path(), weights="IMAGENET1K_V1")
    theirs = build(twins(right, "torchvision")[0], "cpu").state_dict()
    for read in (load, lambda model, tensors: port(tensors, model)):
        with pytest.raises(WeightsError, match=hint):
            read(model, theirs)
    with torch.device("meta"):
        other = cnnarch.get_model(right)
    assert port(theirs, other).keys() == other.state_dict().keys()


@pytest.mark.parametrize(("name", "right"), NAMESAKES.items())
def test_tensors_of_the_papers_network_do_not_fit_torchvisions(name: str, right: str) -> None:
    hint = f"; torchvision's {name} is {right}, and the paper's is {name}"
    papers, model = cnnarch.get_model(name), cnnarch.get_model(right)
    theirs = [export(papers, twin.library) for twin in twins(name)]
    for tensors in (dict(papers.state_dict()), *theirs):
        for read in (load, lambda model, tensors: port(tensors, model)):
            with pytest.raises(WeightsError, match=hint):
                read(model, tensors)


@pytest.mark.parametrize("name", [*NAMESAKES, *NAMESAKES.values()])
def test_networks_are_only_exported_to_libraries_that_have_them(name: str) -> None:
    with torch.device("meta"):
        model = cnnarch.get_model(name)
    hint = next(f"torchvision's {k} is {v}" for k, v in NAMESAKES.items() if name in (k, v))
    for library in ("torchvision", "timm", "pytorchcv"):
        if library in {twin.library for twin in twins(name)}:
            assert export(model, library)
        else:
            with pytest.raises(WeightsError, match=f"has no layout '{library}'; it has .*; {hint}"):
                export(model, library)


def test_names_that_mean_the_same_network_everywhere_have_no_hint() -> None:
    with pytest.raises(WeightsError) as caught:
        load(cnnarch.resnet18(), torchvision.models.resnet34().state_dict())
    assert "resnet18 is" not in str(caught.value)


# Different numbers of classes


def test_with_different_classes_everything_except_the_classifiers_is_loaded() -> None:
    source = cnnarch.googlenet_bn(aux_logits=True)
    model = cnnarch.googlenet_bn(num_classes=7, aux_logits=True)
    before = values(model)
    report = load(model, source.state_dict())
    heads = [name for name, m in model.named_modules() if isinstance(m, ClassifierHead)]
    assert heads == ["head", "aux1", "aux2"]
    classifiers = {f"{h}.classifier.{leaf}" for h in heads for leaf in ("weight", "bias")}
    assert set(report.fresh) == classifiers
    for name, tensor in model.state_dict().items():
        expected = before if name in classifiers else source.state_dict()
        assert torch.equal(tensor, expected[name]), name


def test_auxiliary_heads_that_the_network_lacks_are_ignored() -> None:
    source = cnnarch.googlenet_bn(aux_logits=True)
    model = cnnarch.googlenet_bn()
    load(model, source.state_dict())
    assert torch.equal(model.stem.conv.weight, source.stem.conv.weight)
    with pytest.raises(WeightsError, match="missing: aux1"):
        load(source, model.state_dict())


def test_a_network_without_a_classifier_ignores_the_checkpoints_classifier(
    resnet: cnnarch.ImageClassifier,
) -> None:
    model = cnnarch.resnet18(num_classes=0).eval()
    assert load(model, resnet.state_dict()).fresh == ()
    with torch.no_grad():
        expected = resnet.forward_head(resnet.forward_features(X), pre_logits=True)
        assert_close(model(X), expected, 0.0)


def test_a_checkpoint_without_a_classifier_keeps_the_networks_classifier() -> None:
    backbone = cnnarch.resnet18(num_classes=0)
    model = cnnarch.resnet18(num_classes=5)
    assert set(load(model, backbone.state_dict()).fresh) == {
        "head.classifier.weight",
        "head.classifier.bias",
    }


# Different numbers of channels


@pytest.mark.parametrize("target", [1, 2, 4, 13])
@pytest.mark.parametrize("source", [3, 1, 13])
def test_adapted_networks_produce_the_same_logits_for_gray_images(source: int, target: int) -> None:
    """With "mean", images with equal channels produce the same logits as the source network."""
    torch.manual_seed(0)
    theirs, x = cnnarch.resnet20_cifar(in_channels=source), torch.randn(2, 1, 32, 32)
    calibrate(theirs, torch.randn(8, source, 32, 32))
    theirs.eval()
    ours = cnnarch.resnet20_cifar(in_channels=target).eval()
    report = load(ours, theirs.state_dict())
    assert report.adapted == (() if source == target else ("stem.conv.weight",))
    with torch.no_grad():
        assert_close(ours(x.expand(-1, target, -1, -1)), theirs(x.expand(-1, source, -1, -1)))


def test_mean_divides_the_sum_of_the_source_channels() -> None:
    weight = torch.arange(6.0).reshape(1, 3, 1, 2)  # channels (0, 1), (2, 3), (4, 5)
    assert adapt_input(weight, 1).flatten().tolist() == [6, 9]
    assert adapt_input(weight, 2).tolist() == [[[[3, 4.5]], [[3, 4.5]]]]


def test_repeat_cycles_through_the_source_channels() -> None:
    weight = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1)
    assert adapt_input(weight, 6, "repeat").flatten().tolist() == [0.5, 1, 2, 0.5, 1, 2]
    assert adapt_input(weight, 4, "repeat").flatten().tolist() == [0.75, 1.5, 3, 0.75]
    assert adapt_input(weight, 1, "repeat").flatten().tolist() == [3]


def test_random_keeps_the_first_convolution(resnet: cnnarch.ImageClassifier) -> None:
    model = cnnarch.resnet18(in_channels=4)
    before = model.stem.conv.weight.clone()
    report = load(model, resnet.state_dict(), adapt="random")
    assert report.fresh == ("stem.conv.weight",)
    assert torch.equal(model.stem.conv.weight, before)


def test_the_first_convolutions_are_found_in_every_network(model_name: str) -> None:
    """They are those whose width changes with the number of image channels."""
    with torch.device("meta"):
        model = cnnarch.get_model(model_name)
        wider = cnnarch.get_model(model_name, in_channels=model.in_channels + 1)
    pairs = zip(model.named_parameters(), wider.parameters(), strict=True)
    changed = [name for (name, tensor), other in pairs if tensor.shape != other.shape]
    assert first_convolutions(model) == changed
    assert all(name.startswith("stem.") for name in changed)


# Options that cannot be inferred from tensors


def test_eps_is_set_on_an_existing_network() -> None:
    torch.manual_seed(0)
    model = cnnarch.efficientnet_lite0(norm_eps=1e-5, padding="same")
    report = load(model, "IMAGENET1K_V1")
    assert dict(report.changed_options) == {"norm_eps": 1e-3}
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    assert model.options["norm_eps"] == 1e-3
    assert model.preprocessing.crop_size == 224  # type: ignore[attr-defined]


def test_options_that_cannot_be_set_are_rejected_by_name() -> None:
    model = cnnarch.efficientnet_lite0(norm_eps=1e-5)
    before = values(model)
    with pytest.raises(WeightsError, match="requires a network built with padding='same'"):
        load(model, "IMAGENET1K_V1")
    assert_equal(model.state_dict(), before)
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-5}


def test_a_different_stride_is_rejected_by_name() -> None:
    model = cnnarch.resnet50(stride_in_1x1=True)
    with pytest.raises(WeightsError, match="built with stride_in_1x1=False"):
        load(model, torchvision.models.resnet50().state_dict())


def test_an_ambiguous_checkpoint_warns() -> None:
    """Pytorchcv provides two ResNet-50 variants with the same tensor names."""
    state = cnnarch.weights.export(cnnarch.resnet50(), "pytorchcv")
    with pytest.warns(UserWarning, match="pytorchcv's resnet\\* need .*'stride_in_1x1': True"):
        cnnarch.resnet50(weights=state)
    assert cnnarch.resnet50(weights=state, stride_in_1x1=True).options["stride_in_1x1"] is True
