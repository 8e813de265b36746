"""Every row of "Coming from torchvision" and "Coming from timm" runs and its results agree."""

import contextlib
import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import torchvision
import yaml
from PIL import Image
from torch import Tensor, nn
from torchvision import models
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import cnnarch
from cnnarch import cli
from cnnarch.facts.sheets import twins
from cnnarch.testing import assert_close
from tests.coming_from import TOLERANCE, Names, Row, compare, rows_of, run
from tests.oracles.libraries import randomize

timm = pytest.importorskip("timm")
pytest.importorskip("timm.optim")

PAGES = ("torchvision", "timm")
ROWS = {page: rows_of(page) for page in PAGES}
CALLS = [(page, row) for page in PAGES for row in ROWS[page] if not row.is_command]
LEVEL = 1 / 255 / 0.224  # one gray level, divided by the smallest standard deviation
SLOW = (
    *("inference.optimize", "inference.export", "inference.quantize", "torch.export", "torch.jit"),
    *("resnet50(", "regnet_y", "alexnet", "inception_v3"),
)
Check = Callable[[Any, Any, Names, Names], object]


def check_names(theirs: list[str], ours: list[str], *_: Names) -> None:
    """Every list contains networks of the other; only transformers are missing in the whole one."""
    assert {name.split(".")[0] for name in theirs} & set(ours)
    if "vit_b_16" in theirs:
        missing = {name.split("_")[0] for name in set(theirs) - set(ours)}
        assert missing == {"maxvit", "swin", "vit"}


def check_tags(theirs: list[str], ours: list[str], *_: Names) -> None:
    assert {name.replace("resnet18.", "timm_").upper() for name in theirs} & set(ours)


def check_report(_theirs: Any, ours: Any, a: Names, b: Names) -> None:
    assert not ours.dropped
    compare(a["model"], b["model"], a["images"], loaded=True)


def check_exported(theirs: dict[str, Tensor], ours: dict[str, Tensor], a: Names, _: Names) -> None:
    expected = {name: value.clone() for name, value in theirs.items()}
    for value in a["model"].parameters():
        nn.init.zeros_(value)
    a["model"].load_state_dict(ours, strict=True)
    assert all(torch.equal(value, expected[k]) for k, value in a["model"].state_dict().items())


def check_pixels(theirs: Tensor, ours: Tensor, *_: Names) -> None:
    assert (theirs - ours).abs().max() < 1.01 * LEVEL
    assert (theirs - ours).abs().mean() < 0.01 * LEVEL


def check_classifier(theirs: nn.Linear, ours: nn.Linear, *_: Names) -> None:
    assert torch.equal(theirs.weight, ours.weight)


def check_new_classifier(theirs: nn.Module, ours: nn.Module, a: Names, _: Names) -> None:
    """The features are the same. The classifiers have the same shape but random weights."""
    images = a["images"]
    compare(
        theirs.forward_features(images),  # type: ignore[operator]
        ours.forward_features(images),  # type: ignore[operator]
        images,
        loaded=True,
    )
    assert theirs(images).shape == ours(images).shape == (len(images), 10)


def check_rates(_: Any, ours: list[dict[str, Any]], *__: Names) -> None:
    rates = {group["name"].split(",")[0]: group["lr"] for group in ours}
    assert list(rates) == ["conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x", "head"]
    assert list(rates.values()) == pytest.approx([1e-3 * 0.7**k for k in (5, 4, 3, 2, 1, 0)])


def check_optimizers(theirs: Any, ours: Any, *_: Names) -> None:
    """Both decay the same number of weights."""
    decayed = [
        sum(p.numel() for group in o.param_groups if group["weight_decay"] for p in group["params"])
        for o in (theirs, ours)
    ]
    assert decayed[0] == decayed[1] > 0
    assert type(theirs).__name__ == type(ours).__name__ == "AdamW"


def check_rows(theirs: Any, ours: list[Any], *_: Names) -> None:
    nodes = theirs[1] if isinstance(theirs, tuple) else theirs
    assert {"layer1", "layer4"} <= {node.split(".")[0] for node in nodes}
    names = [row if isinstance(row, str) else row.name for row in ours]
    assert names == ["conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x"]


def check_last_of_each_stride(theirs: nn.Module, ours: nn.Module, a: Names, _: Names) -> None:
    randomize(theirs)
    cnnarch.weights.load(ours, theirs.state_dict())
    with torch.no_grad():
        maps, found = theirs(a["images"]), ours(a["images"])
    kept = {m.shape[-1]: m for m in maps}
    assert len(maps) == len(kept) + 1
    compare(list(kept.values()), found, a["images"], loaded=True)


def check_averages(theirs: Any, ours: Any, a: Names, b: Names) -> None:
    for average, model in ((theirs, a["model"]), (ours, b["model"])):
        update = getattr(average, "update_parameters", None) or average.update
        update(model)  # the first update may copy
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        update(model)
    found = ours.module.get_submodule("stages.3.0.branch.conv1.conv").weight
    assert_close(found, theirs.module.layer4[0].conv1.weight, TOLERANCE)


def check_called(theirs: Any, ours: Tensor, a: Names, _: Names) -> None:
    with torch.no_grad():
        assert_close(ours, a["model"](a["images"]), 1e-4)
    assert callable(theirs)


def check_programs(theirs: Any, ours: Any, a: Names, b: Names) -> None:
    with torch.no_grad():
        assert_close(ours.module()(b["images"]), theirs.module()(a["images"]), TOLERANCE)


def check_traced(_: Any, ours: Any, a: Names, b: Names) -> None:
    with torch.no_grad():
        assert_close(ours(b["images"]), a["model"](a["images"]), TOLERANCE)


def check_onnx(_: Any, ours: Path, a: Names, __: Names) -> None:
    session = onnxruntime.InferenceSession(ours)
    (logits,) = session.run(["logits"], {"images": a["images"].numpy()})
    with torch.no_grad():
        assert_close(torch.from_numpy(logits), a["model"](a["images"]), 1e-4)


def check_functions(theirs: Any, ours: Any, *_: Names) -> None:
    assert callable(theirs)
    assert callable(ours)


def check_statistics(theirs_change: bool) -> Check:
    """Return a check that training mode keeps our stem's BatchNorm statistics."""

    def check(_theirs: Any, _ours: Any, a: Names, b: Names) -> None:
        compare(a["model"], b["model"], a["images"], loaded=False)
        for norm, model, changes in (
            (a["model"].bn1, a["model"], theirs_change),
            (b["model"].stem.norm, b["model"], False),
        ):
            before = norm.running_mean.clone()
            model.train()(a["images"])
            assert torch.equal(before, norm.running_mean) != changes

    return check


def check_quantized(theirs: Any, ours: Any, *_: Names) -> None:
    assert any("quantized" in type(m).__module__ for m in theirs.modules())
    assert "FakeQuantize" in {op.get_type_name() for op in ours.get_ops()}


def check_class_names(theirs: str, ours: str, *_: Names) -> None:
    assert theirs.split(", ")[0] == ours == "tabby"


def check_saved(*_: Any) -> None:
    assert cnnarch.from_pretrained("mine").builder == "resnet18"


AVERAGES = next(row.ours for row in ROWS["timm"] if "AveragedModel" in row.ours)
SPECIAL: dict[str, Check] = {
    "cnnarch.list_models()": check_names,
    'cnnarch.list_models("resnet*")': check_names,
    'cnnarch.list_models("resnet18*")': check_names,
    'cnnarch.list_models("densenet*", weights=True)': check_names,
    'list(cnnarch.weights.get_weights("resnet18"))': check_tags,
    'cnnarch.get_model_builder("resnet18")': check_functions,
    "cnnarch.weights.push_to_hub": check_functions,
    'cnnarch.weights.load(model, "checkpoint.pth")': check_report,
    'cnnarch.weights.export(model, "torchvision")': check_exported,
    'cnnarch.weights.export(model, "timm")': check_exported,
    'cnnarch.resnet18(weights="IMAGENET1K_V1").preprocessing.transform()(photo)': check_pixels,
    'cnnarch.resnet18(weights="TIMM_A1_IN1K").preprocessing.transform()(photo)': check_pixels,
    'cnnarch.resnet18(weights="TIMM_A1_IN1K", num_classes=10)': check_new_classifier,
    "model.get_classifier()": check_classifier,
    "cnnarch.param_groups(model, lr=1e-3, layer_decay=0.7)": check_rates,
    "cnnarch.param_groups(model, lr=1e-3, weight_decay=0.05, layer_decay=0.7)": check_rates,
    "torch.optim.AdamW(cnnarch.param_groups(model, lr=1e-3, weight_decay=0.05))": check_optimizers,
    "model.feature_info": check_rows,
    "[row.name for row in model.feature_info]": check_rows,
    'cnnarch.get_backbone("resnet18", output_stride=16)': check_last_of_each_stride,
    'cnnarch.inference.optimize(model, images, backend="eager")(images)': check_called,
    'cnnarch.inference.export(model, "resnet18.onnx")': check_onnx,
    "cnnarch.inference.quantize(model, calibration)": check_quantized,
    'timm.utils.freeze(model, ["conv1", "bn1", "layer1"])': check_statistics(theirs_change=False),
    'cnnarch.freeze(model, upto="head")': check_statistics(theirs_change=True),
    "torch.export.export(model, (images,))": check_programs,
    "torch.jit.trace(model, images)": check_traced,
    'model.save_pretrained("mine")': check_saved,
    'cnnarch.weights.get_weights("resnet18")["TIMM_A1_IN1K"].categories[281]': check_class_names,
    AVERAGES: check_averages,
}


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """ResNet-18 of the three libraries with the same weights."""
    torch.manual_seed(0)
    theirs = models.resnet18()
    randomize(theirs)
    timms = timm.create_model("resnet18")
    timms.load_state_dict(theirs.state_dict())
    ours = cnnarch.resnet18(weights=theirs.state_dict())
    return {"torchvision": theirs.eval(), "timm": timms.eval(), "cnnarch": ours.eval()}


@pytest.fixture
def published(
    networks: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replace every download by a file with the networks' tensors, in the current folder."""
    monkeypatch.chdir(tmp_path)
    tensors = networks["torchvision"].state_dict()
    torch.save(tensors, file := tmp_path / "checkpoint.pth")

    def from_hub(_: object, *names: str) -> Path | None:
        return None if names == ("config.json",) else file

    monkeypatch.setattr("cnnarch.weights.checkpoint.fetch", lambda _: file)
    monkeypatch.setattr("cnnarch.weights.checkpoint.fetch_from_hub", from_hub)
    config = {"num_classes": 1000, "hf_hub_id": "timm/resnet18.a1_in1k"}
    for name, value in {
        "torchvision.models._api.load_state_dict_from_url": tensors,
        "timm.models._builder.load_state_dict_from_url": tensors,
        "timm.models._builder.load_state_dict_from_hf": tensors,
        "timm.models._factory.load_model_config_from_hf": (config, "resnet18", {}),
    }.items():
        monkeypatch.setattr(name, lambda *_, value=value, **__: copy.copy(value))


def names_for(library: str, model: nn.Module) -> Names:
    """Return what the pages say that the calls can use."""
    pixels = torch.randint(0, 256, (80, 120, 3), dtype=torch.uint8)
    images = torch.randn(2, 3, 96, 96)
    names: Names = {"torch": torch, "nn": nn, "model": copy.deepcopy(model), "images": images}
    names["calibration"] = torch.randn(8, 3, 96, 96)
    names["photo"] = Image.fromarray(pixels.numpy()).resize((360, 240))
    if library == "timm":
        return names | {"timm": timm}
    tools = (create_feature_extractor, get_graph_node_names, IntermediateLayerGetter)
    return names | {"models": models, "torchvision": torchvision} | {t.__name__: t for t in tools}


def cases() -> list[Any]:
    return [
        pytest.param(page, row, id=f"{page}: {row.ours}", marks=marks_of(row))
        for page, row in CALLS
    ]


def marks_of(row: Row) -> Any:
    return pytest.mark.slow if any(name in row.ours for name in SLOW) else ()


@pytest.mark.usefixtures("published")
@pytest.mark.filterwarnings("ignore")  # of the other libraries
@pytest.mark.parametrize(("page", "row"), cases())
def test_both_calls_in_a_row_do_the_same(
    page: str, row: Row, networks: dict[str, nn.Module]
) -> None:
    torch.manual_seed(1)
    a = names_for(page, networks[page])
    b = names_for(page, networks["cnnarch"]) | {"cnnarch": cnnarch}
    b |= {name: a[name] for name in ("images", "photo")}
    theirs, ours = run(row.theirs, a), run(row.ours, b)
    check = SPECIAL.get(row.ours, SPECIAL.get(row.theirs))
    if check is not None:
        check(theirs, ours, a, b)
        return
    if theirs is None or ours is None:  # the calls change `model`
        theirs, ours = a["model"], b["model"]
    images = torch.randn(1, 3, 224, 224) if "_224" in row.theirs else a["images"]
    compare(theirs, ours, images, loaded=row.loads_weights)


def test_every_special_check_has_a_row() -> None:
    assert {call for _, row in CALLS for call in row} >= SPECIAL.keys()
    assert {page for page, _ in CALLS} == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_flags_set_the_keys_of_the_recipe(page: str) -> None:
    flags = [row.ours.split() for row in ROWS[page] if row.ours.startswith("--")]
    assert len(flags) > 10
    given = [word for words in flags for word in words]
    command = ["train", "efficientnet_b0", "--data", "folder:photos", *given, "--print_config"]
    with contextlib.redirect_stdout(printed := io.StringIO()), pytest.raises(SystemExit):
        cli.main(command)
    config = yaml.safe_load(printed.getvalue())
    for flag, *value in flags:
        keys = flag.removeprefix("--").split(".")
        found = config
        for key in keys:
            found = found[key]
        expected = value[0] if value else "true"
        same = float(expected) == found if isinstance(found, float) else expected == str(found)
        assert same or yaml.safe_load(expected) is found, flag


@pytest.mark.slow
def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(40):
        folder = Path("photos") / ("train" if i < 30 else "val") / ("dark" if i % 2 else "light")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (0, 0, i) if i % 2 else (200, 200, i)).save(folder / f"{i}.png")
    commands = {row.ours for page in PAGES for row in ROWS[page] if row.ours.startswith("cnnarch ")}
    train = "cnnarch train resnet18 --data folder:photos"
    short = "cnnarch train lenet5 --data folder:photos --num_epochs 1 --output runs/first"
    assert train in commands
    for command in (short, *sorted(commands - {train})):
        assert not cli.main(command.split()[1:]), command


def test_names_that_differ_in_torchvision_are_on_its_page() -> None:
    found = {twin.name: twin.builder for twin in twins(library="torchvision")}
    different = {f"models.{name}(": ours for name, ours in found.items() if name != ours}
    assert len(different) > 3
    for theirs, ours in different.items():
        (row,) = [row for row in ROWS["torchvision"] if row.theirs.startswith(theirs)]
        assert row.ours.startswith(f"cnnarch.{ours}(")
