"""Conversion of state dicts between libraries, and the errors it raises."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import cnnarch
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.facts.sheets import twins
from cnnarch.testing import assert_close, calibrate
from cnnarch.weights import WeightsError, export, port
from cnnarch.weights.matching import match_layout, pair_names
from cnnarch.weights.porting import Layout, Pair, layouts_of
from tests.small_forms import without_memory

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def torchvision_resnet18() -> nn.Module:
    model = torchvision.models.resnet18()
    calibrate(model, X)
    return model.eval()


@pytest.mark.parametrize(
    "twin", [t for t in twins() if t.library != "timm"], ids=lambda t: f"{t.library}-{t.name}"
)
def test_every_twin_has_a_layout_with_one_name_per_tensor(twin: Any) -> None:
    ours = without_memory(twin.builder, **twin.options)
    layouts = [one for one in layouts_of(ours) if one.library == twin.library]
    names = next(filter(None, (pair_names(ours, one) for one in layouts)))
    theirs = [pair.theirs for pair in names.values()]
    assert len(theirs) == len(set(theirs)) == len(ours.state_dict())


def test_ported_tensors_share_memory_with_the_given_ones() -> None:
    theirs = torchvision.models.resnet18().state_dict()
    ported = port(theirs, cnnarch.resnet18())
    assert ported["head.classifier.weight"].data_ptr() == theirs["fc.weight"].data_ptr()


def test_counters_missing_from_checkpoints_before_pytorch_0_4_1_are_created() -> None:
    theirs = {
        name: tensor
        for name, tensor in torchvision_resnet18().state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    with torch.device("meta"):
        ours = cnnarch.resnet18()
    ported = port(theirs, ours)
    assert ported.keys() == ours.state_dict().keys()
    assert ported["stem.norm.num_batches_tracked"].item() == 0


def test_a_wrong_network_raises_an_error_that_lists_at_most_20_tensors() -> None:
    theirs = torchvision.models.resnet50().state_dict()
    with pytest.raises(WeightsError) as caught:
        port(theirs, cnnarch.resnet18())
    lines = str(caught.value).splitlines()
    assert "missing, " in lines[0]
    assert "unexpected, " in lines[0]
    assert 3 <= len(lines) - 1 <= 20
    assert any("unexpected: layer1.0.conv3.weight" in line for line in lines)
    shapes = "different: stages.1.0.branch.conv1.conv.weight (128, 256, 1, 1) float32"
    assert any(line.strip().startswith(shapes) for line in lines)


def test_unknown_tensor_names_raise() -> None:
    with pytest.raises(
        WeightsError, match="none of the checkpoint's tensors belong to resnet18: foo"
    ):
        port({"foo": torch.zeros(1)}, cnnarch.resnet18())


def test_a_layout_that_the_network_lacks_raises() -> None:
    model = cnnarch.resnet18()
    with pytest.raises(WeightsError, match="resnet18 has no layout 'cadene'; it has pytorchcv"):
        export(model, "cadene")
    with pytest.raises(WeightsError, match="has no layout 'cadene'"):
        port(model.state_dict(), model, "cadene")


def test_a_network_that_no_other_library_provides_cannot_be_exported() -> None:
    with pytest.raises(WeightsError, match="plain18 has no layout 'torchvision'; it has none"):
        export(cnnarch.plain18())


def test_the_position_of_a_stride_must_match() -> None:
    ours = cnnarch.resnet50(stride_in_1x1=True)
    with pytest.raises(WeightsError, match="built with stride_in_1x1=False"):
        export(ours, "torchvision")
    with pytest.raises(WeightsError, match="built with stride_in_1x1=False"):
        port(torchvision.models.resnet50().state_dict(), ours)


def test_options_select_between_layouts_with_the_same_names() -> None:
    """Pytorchcv's resnet50 and resnet50b have the same tensor names but different strides."""
    from pytorchcv.model_provider import get_model

    x = torch.randn(2, 3, 224, 224)
    theirs = get_model("resnet50")
    calibrate(theirs, x)
    theirs.eval()
    ours = cnnarch.resnet50(stride_in_1x1=True).eval()
    ours.load_state_dict(port(theirs.state_dict(), ours))
    with torch.no_grad():
        assert_close(ours(x), theirs(x))
    theirs.load_state_dict(export(ours, "pytorchcv"), strict=True)
    get_model("resnet50b").load_state_dict(export(cnnarch.resnet50(), "pytorchcv"), strict=True)


def test_layouts_apply_to_subclasses_of_a_network() -> None:
    class Mine(cnnarch.ResNet):
        """A user's subclass."""

    mine = Mine(cnnarch.blocks.Residual, (2, 2, 2, 2))
    assert set(port(torchvision.models.resnet18().state_dict(), mine)) == set(mine.state_dict())
    assert layouts_of(nn.Linear(1, 1)) == ()


def test_small_images_do_not_change_exported_names() -> None:
    small, large = cnnarch.resnet18(small_images=True), cnnarch.resnet18()
    assert export(small).keys() == export(large).keys()


class Toy(nn.Module):
    """A network with a linear layer that is a convolution in the other library."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ConvNormAct(3, 4, 3)
        self.hidden = nn.Linear(4 * 2 * 2, 5)


def toy_pairs(_model: Any) -> Iterator[Pair]:
    yield Pair("body.conv", "conv")
    yield Pair("body.norm", "bn")
    yield Pair("absent", "nothing")
    yield Pair("hidden", "fc", shape=(-1, 4, 2, 2))


def test_a_pair_can_reshape_a_weight() -> None:
    model, layout = Toy(), Layout("toy", toy_pairs)
    theirs: dict[str, Tensor] = {"conv.weight": torch.randn(4, 3, 3, 3)}
    for name in ("weight", "bias", "running_mean", "running_var"):
        theirs[f"bn.{name}"] = torch.rand(4)
    theirs |= {"fc.weight": torch.randn(5, 4, 2, 2), "fc.bias": torch.randn(5)}
    pairs = pair_names(model, layout)
    assert pairs is not None
    found = match_layout(theirs, model, layout, pairs)
    assert (found.missing, found.unexpected) == ({}, ())
    x = torch.randn(1, 4, 2, 2)
    as_convolution = nn.functional.conv2d(x, theirs["fc.weight"], theirs["fc.bias"]).flatten(1)
    as_linear = nn.functional.linear(
        x.flatten(1), found.tensors["hidden.weight"], found.tensors["hidden.bias"]
    )
    assert torch.allclose(as_convolution, as_linear, atol=1e-6)


def test_a_layout_that_does_not_cover_a_tensor_does_not_match() -> None:
    layout = Layout("toy", lambda _: iter([Pair("body", "b")]))
    assert pair_names(Toy(), layout) is None


def test_a_layout_can_rename_old_tensors_before_porting() -> None:
    def rename(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.replace("old_", ""): tensor for name, tensor in theirs.items()}

    layout = Layout("toy", toy_pairs, before_port=rename, ignored=("aux",))
    pairs = pair_names(Toy(), layout)
    assert pairs is not None
    theirs = {"old_fc.bias": torch.ones(5), "aux.weight": torch.ones(1)}
    found = match_layout(theirs, Toy(), layout, pairs)
    assert found.tensors["hidden.bias"].sum() == 5
    assert found.unexpected == ()
    assert found.missing["body.conv.weight"] == "conv.weight"
