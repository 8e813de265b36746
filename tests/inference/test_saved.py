"""Saved networks load without conversion or are rebuilt; altered files are rejected."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.inference import Optimized, fuse, load_optimized, optimize
from cnnarch.testing import assert_close, calibrate
from cnnarch.weights.files import sha256

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")

QUICK = ["eager", "openvino", "onnxruntime"]
GRAPHS = {
    "eager": set(),
    "openvino": {"model.xml", "model.bin"},
    "onnxruntime": {"model.onnx"},
}
NETWORK = {"model.safetensors", "config.json", "README.md"}
ALWAYS = {"optimized.json", "check.safetensors"}


def images(batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, 1, 32, 32, generator=generator)


@pytest.fixture(scope="module")
def model() -> cnnarch.ImageClassifier:
    torch.manual_seed(0)
    model = cnnarch.lenet5_bn(num_classes=7)
    calibrate(model, images(8))
    model.categories = tuple("abcdefg")
    return model


class Foreign(nn.Sequential):
    """A network that no cnnarch builder creates."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 5))


@pytest.fixture(scope="module")
def saved(
    model: cnnarch.ImageClassifier, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Return a function that copies the folder in which an engine's network was saved."""
    kept: dict[str, Path] = {}

    def copy(backend: str) -> Path:
        if backend not in kept:
            kept[backend] = tmp_path_factory.mktemp("kept") / backend
            optimize(model, images(2), backend=backend, budget_s=1).save(kept[backend])
        folder = tmp_path_factory.mktemp("copy") / backend
        shutil.copytree(kept[backend], folder)
        return folder

    return copy


@pytest.mark.parametrize("backend", QUICK)
def test_saved_files_have_default_permissions(
    model: cnnarch.ImageClassifier, tmp_path: Path, backend: str
) -> None:
    """Other users of a machine can read them, unless the umask says otherwise."""
    (tmp_path / "default").touch()
    (tmp_path / "folder").mkdir()
    optimize(model, images(2), backend=backend, budget_s=1).save(tmp_path / "fast")
    expected = (tmp_path / "default").stat().st_mode
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "fast").iterdir()}
    assert modes == dict.fromkeys(ALWAYS | NETWORK | GRAPHS[backend], expected)
    assert (tmp_path / "fast").stat().st_mode == (tmp_path / "folder").stat().st_mode


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "optimized.json"
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


@pytest.mark.parametrize("backend", QUICK)
def test_a_loaded_network_computes_the_same_logits(
    model: cnnarch.ImageClassifier, saved: Callable[[str], Path], backend: str
) -> None:
    folder = saved(backend)
    assert {file.name for file in folder.iterdir()} == GRAPHS[backend] | NETWORK | ALWAYS
    loaded = load_optimized(folder)
    assert loaded.backend == backend
    assert loaded.categories == tuple("abcdefg")
    assert loaded.report.notes == ()
    assert loaded.report.chosen.engine == backend
    for batch in (1, 2, 3):
        assert_close(loaded(images(batch)), model(images(batch)), 1e-4)
    larger = torch.nn.functional.pad(images(2), (4, 4, 4, 4))
    assert_close(loaded(larger), model(larger), 1e-4)


def test_a_new_process_starts_without_converting(saved: Callable[[str], Path]) -> None:
    code = """
import sys, torch
def fail(*arguments, **options): raise AssertionError("converted again")
torch.export.export = fail
from cnnarch.inference import load_optimized
print(tuple(load_optimized(sys.argv[1])(torch.zeros(2, 1, 32, 32)).shape))
"""
    command = [sys.executable, "-W", "error", "-c", code, str(saved("openvino"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("(2, 7)", "")


def test_from_pretrained_reads_the_same_folder(
    model: cnnarch.ImageClassifier, saved: Callable[[str], Path]
) -> None:
    loaded = cnnarch.from_pretrained(saved("openvino")).eval()
    assert torch.equal(loaded(images(2)), model(images(2)))


def test_saving_again_replaces_the_folder(
    model: cnnarch.ImageClassifier, saved: Callable[[str], Path]
) -> None:
    folder = saved("onnxruntime")
    optimized = optimize(model, images(3), backend="openvino", budget_s=1)
    optimized.save(folder)
    assert {file.name for file in folder.iterdir()} == GRAPHS["openvino"] | NETWORK | ALWAYS
    assert load_optimized(folder).backend == "openvino"
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_no_other_folder_is_replaced(model: cnnarch.ImageClassifier, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    optimized = optimize(model, images(2), backend="eager", budget_s=1)
    with pytest.raises(ValueError, match="exists and is not an optimized network"):
        optimized.save(tmp_path)
    with pytest.raises(ValueError, match="exists and is not an optimized network"):
        optimized.save(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    optimized.save(tmp_path / "new" / "place")
    assert load_optimized(tmp_path / "new" / "place").backend == "eager"
    optimized.close()
    with pytest.raises(RuntimeError, match="closed"):
        optimized.save(tmp_path / "late")
    assert not (tmp_path / "late").exists()


@pytest.mark.parametrize(
    "name", ["model.bin", "model.xml", "model.safetensors", "check.safetensors"]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_rejected(saved: Callable[[str], Path], name: str, damage: str) -> None:
    path = saved("openvino") / name
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes(content[:-1] if damage == "cut" else content)
    if damage == "remove":
        path.unlink()
    with pytest.raises(ValueError, match=name):
        load_optimized(path.parent)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "{", '{"format": 1, "files": {"../x": "y"}}', "[" * 100_000]
)
def test_a_damaged_json_file_is_rejected(saved: Callable[[str], Path], text: str) -> None:
    folder = saved("eager")
    (folder / "optimized.json").write_text(text)
    with pytest.raises(ValueError, match=r"optimized\.json"):
        load_optimized(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts.update(format=2),
        lambda facts: facts.update(engine="shell"),
        lambda facts: facts.update(precision="float8"),
        lambda facts: facts.update(batch="many"),
        lambda facts: facts["report"].update(candidates=[{}]),
        lambda facts: facts["files"].update({"../escape": "0" * 64}),
        lambda facts: facts.pop("report"),
    ],
)
def test_invalid_json_entries_are_rejected(
    saved: Callable[[str], Path], change: Callable[[dict[str, Any]], object]
) -> None:
    folder = saved("eager")
    edit(folder, change)
    with pytest.raises(ValueError, match=r"optimized\.json"):
        load_optimized(folder)


def test_a_missing_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"optimized\.json cannot be read"):
        load_optimized(tmp_path / "missing")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda facts: facts["versions"].update(openvino="2020.1"), "openvino 2020.1, this is"),
        (
            lambda facts: facts["machine"].update(capabilities=["abacus"]),
            "different kind of machine",
        ),
    ],
)
def test_the_network_is_rebuilt_on_a_different_machine_or_version(
    model: cnnarch.ImageClassifier,
    saved: Callable[[str], Path],
    change: Callable[[dict[str, Any]], object],
    why: str,
) -> None:
    folder = saved("openvino")
    edit(folder, change)
    with pytest.raises(ValueError, match=why):
        load_optimized(folder, rebuild=False)
    loaded = load_optimized(folder, budget_s=0.5)
    assert why in loaded.report.notes[-1]
    assert_close(loaded(images(2)), model(images(2)), 1e-4)


def test_a_network_that_fell_back_to_float32_is_rebuilt_as_requested(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A different machine may support bfloat16; float32 is checked with its own tolerance."""
    requested: list[tuple[str, float]] = []

    def note(*arguments: Any, precision: str, tolerance: float, budget_s: float) -> Optimized:
        requested.append((precision, tolerance))
        return optimize(*arguments, budget_s=budget_s)

    monkeypatch.setattr("cnnarch.inference.saved.optimize", note)
    for wanted, tolerance in (("bfloat16", 0.03), ("int8", 0.05)):
        folder = saved("openvino")
        report = {"precision": wanted, "tolerance": tolerance}
        edit(folder, lambda facts, report=report: facts["report"].update(report))
        edit(folder, lambda facts: facts.update(versions={}))
        load_optimized(folder, budget_s=0.5)
    assert requested == [("bfloat16", 0.03), ("float32", 1e-4)]


def test_a_network_saved_as_a_graph_keeps_its_preprocessing_and_categories(
    model: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    """A `Predictor` needs the preprocessing and categories of a fused network."""
    preprocessing = cnnarch.weights.Preprocessing(28, 32, mean=(0.5,), std=(0.25,))
    fused = fuse(model, preprocessing)
    fused.preprocessing = preprocessing  # type: ignore[assignment]
    fused.categories = tuple("abcdefg")  # type: ignore[assignment]
    pixels = torch.randint(256, (2, 1, 28, 28), dtype=torch.uint8)
    with optimize(fused, pixels, backend="openvino", budget_s=1) as fast:
        fast.save(tmp_path / "fast")
    loaded = load_optimized(tmp_path / "fast")
    assert (loaded.preprocessing, loaded.categories) == (preprocessing, tuple("abcdefg"))


def test_int8_cannot_be_rebuilt(saved: Callable[[str], Path]) -> None:
    folder = saved("openvino")
    edit(folder, lambda facts: facts.update(precision="int8", versions={}))
    with pytest.raises(ValueError, match="optimize the network again"):
        load_optimized(folder)


def test_a_graph_with_different_logits_is_not_used(
    model: cnnarch.ImageClassifier, saved: Callable[[str], Path]
) -> None:
    folder = saved("openvino")
    torch.manual_seed(1)
    other = cnnarch.lenet5_bn(num_classes=7)
    calibrate(other, images(8))
    swapped = folder.parent / "swapped"
    optimize(other, images(2), backend="openvino", budget_s=1).save(swapped)
    for name in GRAPHS["openvino"]:
        shutil.copy(swapped / name, folder / name)
    hashes = {name: sha256(folder / name) for name in GRAPHS["openvino"]}
    edit(folder, lambda facts: facts["files"].update(hashes))
    with pytest.raises(ValueError, match="its logits differ by"):
        load_optimized(folder, rebuild=False)
    loaded = load_optimized(folder, budget_s=0.5)
    assert "its logits differ by" in loaded.report.notes[-1]
    assert_close(loaded(images(2)), model(images(2)), 1e-4)


def test_a_foreign_network_is_saved_without_its_weights(tmp_path: Path) -> None:
    model = Foreign().eval()
    optimize(model, images(2), backend="openvino", budget_s=1).save(tmp_path / "foreign")
    assert {p.name for p in (tmp_path / "foreign").iterdir()} == GRAPHS["openvino"] | ALWAYS
    loaded = load_optimized(tmp_path / "foreign")
    assert_close(loaded(images(3)), model(images(3)), 1e-4)
    with pytest.raises(ValueError, match=r"images of shape \(1, 32, 32\), got \(1, 1, 40, 40\)"):
        loaded(torch.zeros(1, 1, 40, 40))
    edit(tmp_path / "foreign", lambda facts: facts["versions"].update(cnnarch="0.0.0"))
    with pytest.raises(ValueError, match=r"cnnarch 0\.0\.0"):
        load_optimized(tmp_path / "foreign")
    eager = optimize(model, images(2), backend="eager", budget_s=1)
    with pytest.raises(ValueError, match="no cnnarch builder creates this Foreign"):
        eager.save(tmp_path / "eager")
    assert not (tmp_path / "eager").exists()


def test_an_edited_network_is_saved_without_its_weights(
    model: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    edited = cnnarch.lenet5_bn(num_classes=7)
    edited.load_state_dict(model.state_dict())
    edited.eval()
    edited.stem = nn.Sequential(edited.stem, nn.Hardtanh())  # not visible in the state dict
    edited.load_state_dict(edited.state_dict())
    changed: Optimized = optimize(edited, images(2), backend="openvino", budget_s=1)
    changed.save(tmp_path / "changed")
    assert {p.name for p in (tmp_path / "changed").iterdir()} == GRAPHS["openvino"] | ALWAYS
    assert_close(load_optimized(tmp_path / "changed")(images(2)), edited(images(2)), 1e-4)
