"""Tests for cnnarch.embed."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import cnnarch
from cnnarch.images import Unreadable, read_image
from cnnarch.testing import assert_close, example_images
from cnnarch.training import load_data
from cnnarch.weights import Preprocessing

SMALL = Preprocessing(32, 36)


class Counted:
    """Counts the images that a network's stem processes."""

    def __init__(self, model: cnnarch.ImageClassifier) -> None:
        self.images = 0
        model.stem.register_forward_hook(self.count)

    def count(self, _module: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> None:
        self.images += len(inputs[0])


@pytest.fixture
def lenet() -> cnnarch.ImageClassifier:
    return cnnarch.lenet5()


@pytest.fixture
def color() -> cnnarch.ImageClassifier:
    """Return a small network for color images, with preprocessing."""
    model = cnnarch.lenet5(in_channels=3)
    model.preprocessing = SMALL
    return model


def pictures(folder: Path, count: int = 5, size: tuple[int, int] = (50, 40)) -> list[Path]:
    folder.mkdir(exist_ok=True, parents=True)
    generator = np.random.default_rng(0)
    paths = [folder / f"{i}.png" for i in range(count)]
    for path in paths:
        values = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(values).save(path)
    return paths


def by_hand(model: Any, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        return model.eval().forward_head(model.forward_features(x), pre_logits=True).numpy()


def in_units_of(like: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Divide by the largest value, because the outputs of an untrained VGG-19 are small."""
    return [tensor / like.abs().max() for tensor in tensors]


# --- features ---


def test_features_are_the_input_to_the_classifier(model: cnnarch.ImageClassifier) -> None:
    x = example_images(model, batch=3)
    found = cnnarch.embed(model, x, batch_size=2)
    assert found.features.shape == (3, model.num_features)
    assert found.features.dtype == np.float32
    with torch.no_grad():  # in batches of the same size, for the same rounding
        maps = [model.forward_features(images) for images in x.split(2)]
        rows = torch.cat([model.forward_head(m, pre_logits=True) for m in maps])
        logits = torch.cat([model.forward_head(m) for m in maps])
    features = torch.from_numpy(found.features)
    assert_close(*in_units_of(rows, features, rows), 1e-6)
    classifier = model.head.classifier if hasattr(model.head, "classifier") else None
    if isinstance(classifier, nn.Linear):  # computes the logits
        with torch.no_grad():
            assert_close(*in_units_of(logits, classifier(features), logits))


def test_the_mode_of_every_module_is_restored(lenet: cnnarch.ImageClassifier) -> None:
    lenet.train()
    lenet.stages[0].eval()
    modes = {name: module.training for name, module in lenet.named_modules()}
    seen: list[bool] = []
    lenet.stem.register_forward_hook(lambda module, *_: seen.append(module.training))
    cnnarch.embed(lenet, torch.zeros(1, 1, 32, 32))
    assert seen == [False]
    assert {name: module.training for name, module in lenet.named_modules()} == modes
    with pytest.raises(ValueError, match=r"got \(1, 3, 32, 32\)"):
        cnnarch.embed(lenet, torch.zeros(1, 3, 32, 32))
    assert {name: module.training for name, module in lenet.named_modules()} == modes


def test_no_gradients_are_kept(lenet: cnnarch.ImageClassifier) -> None:
    seen: list[bool] = []
    lenet.stem.register_forward_hook(lambda _m, _i, output: seen.append(output.requires_grad))
    cnnarch.embed(lenet, torch.zeros(1, 1, 32, 32))
    assert seen == [False]


def test_features_of_a_bfloat16_network_are_float32() -> None:
    model = cnnarch.lenet5().bfloat16()
    assert cnnarch.embed(model, torch.rand(2, 1, 32, 32)).features.dtype == np.float32


def test_numpy_reads_the_result_as_an_array(lenet: cnnarch.ImageClassifier) -> None:
    found = cnnarch.embed(lenet, torch.rand(4, 1, 32, 32))
    assert len(found) == 4
    assert np.asarray(found) is not None
    np.testing.assert_array_equal(np.asarray(found), found.features)
    assert np.asarray(found, dtype=np.float64).dtype == np.float64


def test_timm_networks_are_supported() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet10t", num_classes=3).eval()
    x = torch.rand(2, 3, 64, 64)
    np.testing.assert_allclose(cnnarch.embed(model, x).features, by_hand(model, x), atol=1e-5)


# --- inputs ---


def test_arrays_tensors_and_loaders_produce_the_same_features(
    lenet: cnnarch.ImageClassifier,
) -> None:
    x = torch.rand(7, 1, 32, 32)
    expected = by_hand(lenet, x)
    labels = torch.arange(7) % 3
    loader = DataLoader(TensorDataset(x, labels), batch_size=3)
    plain: DataLoader[Any] = DataLoader(x, batch_size=3)  # type: ignore[arg-type]
    for images in (x, x.numpy(), loader, plain, iter(x.split(2))):
        found = cnnarch.embed(lenet, images, batch_size=3)
        np.testing.assert_allclose(found.features, expected, atol=1e-6)
        assert found.names is None
        if images is loader:
            np.testing.assert_array_equal(found.labels, labels.numpy())
        else:
            assert found.labels is None


def test_pixels_are_preprocessed(color: cnnarch.ImageClassifier) -> None:
    pixels = torch.randint(0, 256, (3, 3, 50, 40), dtype=torch.uint8)
    expected = by_hand(color, SMALL.transform()(pixels))
    channels_last = pixels.permute(0, 2, 3, 1).numpy()
    for images in (pixels, channels_last, [pixels]):
        found = cnnarch.embed(color, images)
        np.testing.assert_allclose(found.features, expected, atol=1e-6)


def test_every_kind_of_image_has_the_same_features(
    tmp_path: Path, color: cnnarch.ImageClassifier
) -> None:
    (path,) = pictures(tmp_path / "photos", 1)
    pixels = read_image(path)
    array = pixels.permute(1, 2, 0).numpy()
    x = SMALL.transform()(pixels)
    expected = by_hand(color, x[None])
    with Image.open(path) as opened, path.open("rb") as file:
        kinds = [str(path), path, path.read_bytes(), file, opened, array, pixels, x]
        for kind in kinds:
            np.testing.assert_allclose(cnnarch.embed(color, kind), expected, atol=1e-5)
        kinds = kinds[:-1]
        for images in (kinds, iter(kinds), tuple(kinds)):
            found = cnnarch.embed(color, images, batch_size=3)
            np.testing.assert_allclose(found, expected.repeat(7, axis=0), atol=1e-5)
    first = str(path)
    assert found.names == (first, first, "image 2", first, first, "image 5", "image 6")
    found = cnnarch.embed(color, tmp_path.rglob("*.png"))
    assert found.names == (first,)
    gray = np.asarray(Image.open(path).convert("L"))
    np.testing.assert_allclose(
        cnnarch.embed(color, gray), cnnarch.embed(color, gray[None, ..., None]), atol=1e-5
    )


def test_an_image_set_has_the_features_of_its_inputs_and_its_labels(tmp_path: Path) -> None:
    data = load_data("digits", image_resolution=32)
    model = cnnarch.lenet5()
    images = data.test.subset(torch.arange(5))
    found = cnnarch.embed(model, images, output=tmp_path / "x.npy", batch_size=2)
    assert found.labels is not None
    assert found.labels.tolist() == images.labels.tolist()
    expected = by_hand(model, images.inputs(torch.arange(5)))
    np.testing.assert_allclose(found.features, expected, atol=1e-5)
    counted = Counted(model)
    cnnarch.embed(model, data.test.subset(torch.arange(7)), output=tmp_path / "x.npy")
    assert counted.images == 2


def test_an_image_set_of_files_has_their_names(
    tmp_path: Path, color: cnnarch.ImageClassifier
) -> None:
    paths = pictures(tmp_path / "photos" / "0", 3) + pictures(tmp_path / "photos" / "1", 3)
    images = load_data(f"folder:{tmp_path / 'photos'}", hold_out=False).test
    found = cnnarch.embed(color, images, batch_size=4)
    assert found.names is not None
    assert sorted(found.names) == list(map(str, paths))
    assert found.labels is not None
    assert [str(label) for label in found.labels] == [Path(n).parent.name for n in found.names]


def test_a_memory_mapped_array_is_accepted(tmp_path: Path, lenet: cnnarch.ImageClassifier) -> None:
    x = torch.rand(5, 1, 32, 32)
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    found = cnnarch.embed(lenet, mapped, batch_size=2)
    np.testing.assert_allclose(found.features, by_hand(lenet, x), atol=1e-6)


def test_a_folder_produces_one_row_per_file_in_name_order(
    tmp_path: Path, color: cnnarch.ImageClassifier
) -> None:
    paths = pictures(tmp_path / "photos")
    found = cnnarch.embed(color, tmp_path / "photos", batch_size=2)
    assert found.names == tuple(map(str, paths))
    prepared = torch.stack([SMALL.transform()(Image.open(path)) for path in paths])
    np.testing.assert_allclose(found.features, by_hand(color, prepared), atol=1e-5)
    some = cnnarch.embed(color, [str(paths[3]), paths[1]])
    np.testing.assert_allclose(some.features, found.features[[3, 1]], atol=1e-6)
    assert some.names == (str(paths[3]), str(paths[1]))
    np.testing.assert_allclose(
        cnnarch.embed(color, str(paths[2])).features, found.features[2:3], atol=1e-6
    )


def test_preprocessing_can_be_any_function(tmp_path: Path) -> None:
    pictures(tmp_path / "photos", size=(32, 32))
    model = cnnarch.lenet5(in_channels=3)
    found = cnnarch.embed(model, tmp_path / "photos", preprocessing=lambda image: image / 255)
    assert found.features.shape == (5, 84)


def test_batches_are_consumed_as_needed(lenet: cnnarch.ImageClassifier) -> None:
    yielded: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def batches() -> Iterator[Tensor]:
        for _ in range(20):
            alive.append(sum(batch() is not None for batch in yielded))
            batch = torch.zeros(8, 1, 32, 32)
            yielded.append(weakref.ref(batch))
            yield batch

    cnnarch.embed(lenet, batches())
    assert len(alive) == 20
    assert max(alive) <= 2


# --- output files ---


def test_a_batch_size_can_be_a_numpy_integer_or_exceed_the_images(
    lenet: cnnarch.ImageClassifier,
) -> None:
    x = torch.rand(3, 1, 32, 32)
    for batch_size in (np.int64(3), 10**12):
        assert len(cnnarch.embed(lenet, x, batch_size=batch_size)) == 3  # type: ignore[arg-type]


def test_numpy_reads_an_npy_file(tmp_path: Path, lenet: cnnarch.ImageClassifier) -> None:
    x = torch.rand(5, 1, 32, 32)
    found = cnnarch.embed(lenet, x, output=tmp_path / "x.npy", batch_size=2)
    expected = cnnarch.embed(lenet, x, batch_size=2).features
    for rows in (found.features, np.load(tmp_path / "x.npy")):
        np.testing.assert_array_equal(rows, expected)
    assert isinstance(found.features, np.memmap)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(mapped, expected)
    assert {p.name for p in tmp_path.iterdir()} == {"x.npy", "x.npy.json"}


def test_a_safetensors_file_contains_a_tensor_named_features(
    tmp_path: Path, lenet: cnnarch.ImageClassifier
) -> None:
    x = torch.rand(5, 1, 32, 32)
    found = cnnarch.embed(lenet, x, output=tmp_path / "x.safetensors", batch_size=2)
    expected = cnnarch.embed(lenet, x, batch_size=2).features
    (read,) = load_file(tmp_path / "x.safetensors").values()
    assert set(load_file(tmp_path / "x.safetensors")) == {"features"}
    np.testing.assert_array_equal(read, expected)
    np.testing.assert_array_equal(found.features, expected)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_an_output_file_has_default_permissions(
    tmp_path: Path, lenet: cnnarch.ImageClassifier, suffix: str
) -> None:
    (tmp_path / "default").touch()
    cnnarch.embed(lenet, torch.rand(2, 1, 32, 32), output=tmp_path / f"x{suffix}")
    assert (tmp_path / f"x{suffix}").stat().st_mode == (tmp_path / "default").stat().st_mode


def test_the_repr_omits_names(tmp_path: Path, color: cnnarch.ImageClassifier) -> None:
    pictures(tmp_path / "photos")
    assert "0.png" not in repr(cnnarch.embed(color, tmp_path / "photos"))


def test_the_json_file_lists_names_and_unreadable_files(
    tmp_path: Path, color: cnnarch.ImageClassifier
) -> None:
    paths = pictures(tmp_path / "photos", 3)
    paths[1].write_bytes(b"")
    found = cnnarch.embed(
        color, tmp_path / "photos", output=tmp_path / "x.npy", skip_unreadable=True
    )
    metadata = json.loads((tmp_path / "x.npy.json").read_text())
    assert metadata["names"] == list(found.names or ()) == [str(paths[0]), str(paths[2])]
    assert len(found) == 2
    assert metadata["unreadable"] == [list(entry) for entry in found.unreadable]
    assert found.unreadable[0].name == str(paths[1])
    again = cnnarch.embed(
        color, tmp_path / "photos", output=tmp_path / "x.npy", skip_unreadable=True
    )
    assert (again.names, again.unreadable) == (found.names, found.unreadable)
    assert isinstance(again.unreadable[0], Unreadable)


def test_labels_are_saved_and_restored(tmp_path: Path, lenet: cnnarch.ImageClassifier) -> None:
    labels = torch.tensor([4, 1, 7])
    loader = DataLoader(TensorDataset(torch.rand(3, 1, 32, 32), labels), batch_size=2)
    for _ in range(2):
        found = cnnarch.embed(lenet, loader, output=tmp_path / "x.npy")
        np.testing.assert_array_equal(found.labels, labels.numpy())


# --- resuming ---

CHILD = """
import sys, time
import numpy as np, torch, cnnarch
folder, delay = sys.argv[1], float(sys.argv[2])
torch.manual_seed(0)
model = cnnarch.lenet5()
def slowly(*_):
    time.sleep(delay)
    with open(folder + "/computed", "a") as file:
        file.write("x")
model.stem.register_forward_hook(slowly)
x = torch.rand(60, 1, 32, 32)
cnnarch.embed(model, x, batch_size=2, output=folder + "/rows.npy")
"""


def test_resumes_after_a_kill_without_computing_saved_rows_again(tmp_path: Path) -> None:
    computed, output = tmp_path / "computed", tmp_path / "rows.npy"
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    child = subprocess.Popen([*command, "0.05"])
    while not (computed.exists() and computed.stat().st_size >= 6):
        time.sleep(0.005)
        assert child.poll() is None, "the process ended before it was killed"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert computed.stat().st_size < 30
    assert not output.exists()

    subprocess.run([*command, "0"], check=True)
    # 60 images form 30 batches of two. Killing the process can lose one computed batch.
    assert 30 <= computed.stat().st_size <= 31
    torch.manual_seed(0)
    model = cnnarch.lenet5()
    expected = by_hand(model, torch.rand(60, 1, 32, 32))
    np.testing.assert_allclose(np.load(output), expected, atol=1e-6)

    before = computed.stat().st_size
    subprocess.run([*command, "0"], check=True)
    assert computed.stat().st_size == before


def interrupted(model: cnnarch.ImageClassifier, x: Tensor, output: Path, after: int) -> None:
    """Interrupt a call after some batches of two images."""

    def batches() -> Iterator[Tensor]:
        yield from x.split(2)[:after]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cnnarch.embed(model, batches(), output=output)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 20])
def test_embedding_resumes_with_a_different_batch_size(
    tmp_path: Path, lenet: cnnarch.ImageClassifier, batch_size: int
) -> None:
    x = torch.rand(11, 1, 32, 32)
    interrupted(lenet, x, tmp_path / "x.npy", 3)
    counted = Counted(lenet)
    loader: DataLoader[Any] = DataLoader(x, batch_size=batch_size)  # type: ignore[arg-type]
    found = cnnarch.embed(lenet, loader, output=tmp_path / "x.npy")
    assert counted.images == 5
    np.testing.assert_allclose(found.features, by_hand(lenet, x), atol=1e-6)


@pytest.mark.parametrize("damage", ["truncated", "zeroed", "deleted"])
def test_a_log_damaged_by_a_power_failure_loses_only_whole_batches(
    tmp_path: Path, lenet: cnnarch.ImageClassifier, damage: str
) -> None:
    x, output = torch.rand(10, 1, 32, 32), tmp_path / "x.npy"
    part, log = tmp_path / "x.npy.part", tmp_path / "x.npy.part-wal"
    copies: list[tuple[bytes, bytes]] = []

    def batches() -> Iterator[Tensor]:
        yield from x.split(2)[:4]
        copies.append((part.read_bytes(), log.read_bytes()))  # as a kill would leave them
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cnnarch.embed(lenet, batches(), output=output)
    ((database, entries),) = copies
    part.write_bytes(database)
    end = {"truncated": b"", "zeroed": bytes(9), "deleted": None}[damage]
    if end is not None:
        log.write_bytes(entries[:-9] + end)
    counted = Counted(lenet)
    found = cnnarch.embed(lenet, x, output=output, batch_size=2)
    assert counted.images == (10 if damage == "deleted" else 4)
    np.testing.assert_allclose(found.features, by_hand(lenet, x), atol=1e-6)


@pytest.mark.parametrize("content", [bytes(5000), b"text"])
def test_a_damaged_database_is_replaced(
    tmp_path: Path, lenet: cnnarch.ImageClassifier, content: bytes
) -> None:
    x, output = torch.rand(1, 1, 32, 32), tmp_path / "x.npy"
    (tmp_path / "x.npy.part").write_bytes(content)
    found = cnnarch.embed(lenet, x, output=output)
    np.testing.assert_allclose(found.features, by_hand(lenet, x), atol=1e-6)


def test_damaged_features_are_computed_again(
    tmp_path: Path, lenet: cnnarch.ImageClassifier
) -> None:
    x, output = torch.rand(8, 1, 32, 32), tmp_path / "x.npy"
    interrupted(lenet, x, output, 3)
    database = sqlite3.connect(tmp_path / "x.npy.part", isolation_level=None)
    database.execute("UPDATE batches SET features = zeroblob(length(features)) WHERE rowid = 2")
    database.close()
    counted = Counted(lenet)
    found = cnnarch.embed(lenet, x, output=output, batch_size=2)
    assert counted.images == 6  # all but the first batch
    np.testing.assert_allclose(found.features, by_hand(lenet, x), atol=1e-6)


def test_a_folder_in_place_of_the_database_raises_os_error(
    tmp_path: Path, lenet: cnnarch.ImageClassifier
) -> None:
    (tmp_path / "x.npy.part").mkdir()
    with pytest.raises(OSError, match=r"x\.npy\.part cannot be read or written"):
        cnnarch.embed(lenet, torch.rand(1, 1, 32, 32), output=tmp_path / "x.npy")


def test_other_files_with_similar_names_are_kept(
    tmp_path: Path, lenet: cnnarch.ImageClassifier
) -> None:
    (tmp_path / "x.part.npy").write_bytes(b"mine")
    cnnarch.embed(lenet, torch.rand(1, 1, 32, 32), output=tmp_path / "x.npy")
    assert (tmp_path / "x.part.npy").read_bytes() == b"mine"


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
@pytest.mark.parametrize("damage", ["empty", "junk", "short", "fewer rows"])
def test_a_damaged_output_is_rejected(
    tmp_path: Path, lenet: cnnarch.ImageClassifier, suffix: str, damage: str
) -> None:
    x, output = torch.rand(4, 1, 32, 32), tmp_path / f"x{suffix}"
    cnnarch.embed(lenet, x, output=output)
    whole = output.read_bytes()
    cnnarch.embed(lenet, x[:2], output=tmp_path / f"y{suffix}")
    fewer = (tmp_path / f"y{suffix}").read_bytes()
    contents = {"empty": b"", "junk": b"junk" * 99, "short": whole[:-8], "fewer rows": fewer}
    output.write_bytes(contents[damage])
    with pytest.raises(ValueError, match="different network or different images; pass overwrite"):
        cnnarch.embed(lenet, x, output=output)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    "other", ["weights", "network", "images", "order", "fewer", "preprocessing"]
)
def test_features_of_a_different_network_or_different_images_are_rejected(
    tmp_path: Path, finished: bool, other: str
) -> None:
    def network(seed: int = 0, **options: Any) -> cnnarch.ImageClassifier:
        torch.manual_seed(seed)
        return cnnarch.lenet5(**options)

    model, x, output = network(), torch.rand(6, 1, 32, 32), tmp_path / "x.npy"
    if finished:
        cnnarch.embed(model, x, output=output)
    else:
        interrupted(model, x, output, 2)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    options: dict[str, Any] = {}
    if other == "weights":
        model = network(seed=1)
    elif other == "network":  # with the same weights
        model = network(pool="max")
    elif other == "preprocessing":
        options = {"preprocessing": replace(SMALL, mean=(0.5,), std=(0.5,))}
    elif other == "fewer":
        x = x[:3]  # fewer than were saved
    else:
        x = x.flip(0) if other == "order" else x + 0.001
    with pytest.raises(ValueError, match="different network or different images; pass overwrite"):
        cnnarch.embed(model, x, output=output, **options)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    found = cnnarch.embed(model, x, output=output, overwrite=True, **options)
    np.testing.assert_allclose(found.features, by_hand(model, x), atol=1e-6)
    assert len(np.load(output)) == len(x)


@pytest.mark.parametrize("metadata", [None, "", "{}", "[]", "null", '{"digest": "a", "size": 2}'])
def test_a_file_without_matching_metadata_is_rejected(
    tmp_path: Path, lenet: cnnarch.ImageClassifier, metadata: str | None
) -> None:
    x, output = torch.rand(2, 1, 32, 32), tmp_path / "x.npy"
    cnnarch.embed(lenet, x, output=output)
    (tmp_path / "x.npy.json").unlink()
    if metadata is not None:
        (tmp_path / "x.npy.json").write_text(metadata)
    with pytest.raises(ValueError, match="from a different network or different images"):
        cnnarch.embed(lenet, x, output=output)


def test_a_shuffled_loader_is_rejected(tmp_path: Path, lenet: cnnarch.ImageClassifier) -> None:
    x = torch.rand(32, 1, 32, 32)
    interrupted(lenet, x, tmp_path / "x.npy", 4)
    loader: DataLoader[Any] = DataLoader(x, batch_size=2, shuffle=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="different images"):
        cnnarch.embed(lenet, loader, output=tmp_path / "x.npy")


def test_a_file_is_written_by_one_process_at_a_time(
    tmp_path: Path, lenet: cnnarch.ImageClassifier
) -> None:
    def batches() -> Iterator[Tensor]:
        yield torch.rand(1, 1, 32, 32)
        with pytest.raises(ValueError, match="another process is writing"):
            cnnarch.embed(lenet, torch.rand(1, 1, 32, 32), output=tmp_path / "x.npy")

    assert len(cnnarch.embed(lenet, batches(), output=tmp_path / "x.npy")) == 1


def test_a_kill_while_the_file_is_replaced_does_not_mix_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = cnnarch.lenet5(), cnnarch.lenet5()
    x, output = torch.rand(3, 1, 32, 32), tmp_path / "x.npy"
    cnnarch.embed(old, x, output=output)

    replace = Path.replace

    def kill(path: Path, target: Path) -> None:
        if target == output:
            raise KeyboardInterrupt
        replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", kill)
        with pytest.raises(KeyboardInterrupt):
            cnnarch.embed(new, x, output=output, overwrite=True)
    counted = Counted(new)
    found = cnnarch.embed(new, x, output=output)
    assert counted.images == 0
    np.testing.assert_allclose(found.features, by_hand(new, x), atol=1e-6)


# --- invalid arguments ---


def test_an_unreadable_file_is_reported(tmp_path: Path, color: cnnarch.ImageClassifier) -> None:
    paths = pictures(tmp_path / "photos")
    paths[2].write_bytes(paths[2].read_bytes()[:200])
    with pytest.raises(ValueError, match=r"2\.png is not a readable image"):
        cnnarch.embed(color, tmp_path / "photos", output=tmp_path / "x.npy", batch_size=1)
    counted = Counted(color)
    found = cnnarch.embed(
        color,
        tmp_path / "photos",
        output=tmp_path / "x.npy",
        batch_size=1,
        skip_unreadable=True,
    )
    assert counted.images == 2  # the first two are saved
    assert found.names == tuple(str(paths[i]) for i in (0, 1, 3, 4))
    assert [entry.name for entry in found.unreadable] == [str(paths[2])]
    assert "not a readable image" in found.unreadable[0].reason


@pytest.mark.parametrize("rows", [2, 4])  # interrupted and finished
def test_files_skipped_by_an_earlier_call_raise_without_skip_unreadable(
    tmp_path: Path, color: cnnarch.ImageClassifier, rows: int
) -> None:
    paths, output = pictures(tmp_path / "photos"), tmp_path / "x.npy"
    paths[1].write_bytes(b"")
    counted = Counted(color)

    def stop(*_: object) -> None:
        if counted.images > rows:
            raise KeyboardInterrupt

    hook = color.stem.register_forward_hook(stop)
    with suppress(KeyboardInterrupt):
        cnnarch.embed(color, paths, output=output, skip_unreadable=True, batch_size=1)
    hook.remove()
    assert output.exists() == (rows == 4)
    with pytest.raises(ValueError, match=r"1\.png is not a readable image"):
        cnnarch.embed(color, paths, output=output)


def test_a_batch_without_readable_files_is_skipped(
    tmp_path: Path, color: cnnarch.ImageClassifier
) -> None:
    paths = pictures(tmp_path / "photos")
    for path in paths[:2]:
        path.write_bytes(b"")
    for output in (None, tmp_path / "x.npy"):
        found = cnnarch.embed(
            color, tmp_path / "photos", batch_size=2, skip_unreadable=True, output=output
        )
        assert len(found) == 3
        assert len(found.unreadable) == 2
    for path in paths[2:]:
        path.write_bytes(b"")
    for output in (None, tmp_path / "y.npy"):
        with pytest.raises(
            ValueError, match=r"none of the files could be read; first error: .*0\.png"
        ):
            cnnarch.embed(color, tmp_path / "photos", skip_unreadable=True, output=output)


def test_different_sizes_after_preprocessing_are_reported(tmp_path: Path) -> None:
    pictures(tmp_path / "a", 2, (32, 32))
    pictures(tmp_path / "b", 1, (40, 32))
    model = cnnarch.lenet5(in_channels=3)
    with pytest.raises(ValueError, match=r"0\.png is \(3, 32, 32\), .*0\.png is \(3, 32, 40\)"):
        cnnarch.embed(
            model, [tmp_path / "a", tmp_path / "b"], preprocessing=lambda image: image / 255
        )


def test_a_network_without_preprocessing_is_rejected(tmp_path: Path) -> None:
    pictures(tmp_path / "photos")
    model = cnnarch.lenet5(in_channels=3)
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    for images in (tmp_path / "photos", pixels):
        with pytest.raises(ValueError, match="pass one, such as preprocessing=cnnarch"):
            cnnarch.embed(model, images)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], ValueError, "the list is empty"),
        (torch.zeros(0, 1, 32, 32), ValueError, "no images"),
        (iter(()), ValueError, "the loader is empty"),
        (torch.zeros(1, 1, 1, 32, 32), ValueError, "3 or 4 dimensions, got shape"),
        (np.zeros(32, np.uint8), ValueError, r"image 0 must have shape \(H, W, C\), got \(32,\)"),
        (np.zeros((2, 1, 32, 32), np.uint8), ValueError, r"\(N, H, W, 1 or 3\), got \(2, 1, 32"),
        (torch.zeros(1, 1, 32, 32, dtype=torch.int64), TypeError, "floats or uint8, got torch.int"),
        ("gone", FileNotFoundError, "no file or folder gone"),
        ("", ValueError, "a path is empty; pass '.' for the current folder"),
        ([""], ValueError, "a path is empty; pass '.' for the current folder"),
        (load_data("digits"), TypeError, r"pass one of its splits, such as data\.test"),
        (["gone.png"], FileNotFoundError, "gone.png"),
        (3, TypeError, "expected a path to a file or folder, .*; got int"),
        ({"image": 1}, TypeError, "expected a path to a file or folder, .*; got dict"),
        ([torch.zeros(1, 32, 32)], TypeError, r"one tensor \(N, C, H, W\)"),
        ([torch.zeros(32, 32)], TypeError, r"got \(32, 32\)"),
        ([{"image": 1}], TypeError, "image 0 is a dict; expected a path to a file"),
        ([b"", torch.zeros(1, 1, 32, 32)], TypeError, "image 1 is a Tensor; expected"),
    ],
)
def test_other_inputs_are_rejected(
    images: Any, error: type[Exception], message: str, lenet: cnnarch.ImageClassifier
) -> None:
    with pytest.raises(error, match=message):
        cnnarch.embed(lenet, images, preprocessing=Preprocessing(32, 32, mean=(0.5,), std=(0.5,)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "at least 1, got 0"),
        ({"batch_size": 2.5}, ValueError, "got 2.5"),
        ({"output": "x.csv"}, ValueError, r"\.npy or \.safetensors file, got 'x.csv'"),
        ({"output": "gone/x.npy"}, FileNotFoundError, "folder gone does not exist"),
        ({"preprocessing": 3}, TypeError, "a Preprocessing or a function: 3"),
    ],
)
def test_bad_options_are_rejected(
    options: dict[str, Any], error: type[Exception], message: str, lenet: cnnarch.ImageClassifier
) -> None:
    with pytest.raises(error, match=message):
        cnnarch.embed(lenet, torch.zeros(1, 1, 32, 32), **options)


def test_an_empty_folder_is_reported(tmp_path: Path, color: cnnarch.ImageClassifier) -> None:
    with pytest.raises(ValueError, match="contains no images"):
        cnnarch.embed(color, tmp_path)


def test_files_for_a_network_with_five_channels_are_rejected(tmp_path: Path) -> None:
    pictures(tmp_path / "photos", 1)
    five = replace(SMALL, mean=(0.5,) * 5, std=(0.5,) * 5)
    with pytest.raises(ValueError, match="1 or 3 channels, but 5 are needed"):
        cnnarch.embed(cnnarch.lenet5(in_channels=5), tmp_path / "photos", preprocessing=five)


def test_a_module_without_forward_features_is_rejected() -> None:
    with pytest.raises(TypeError, match="Linear does not define forward_features and forward_head"):
        cnnarch.embed(nn.Linear(3, 3), torch.zeros(1, 3, 8, 8))


def test_a_preprocessing_function_must_return_a_tensor(tmp_path: Path) -> None:
    pictures(tmp_path / "photos", 1)
    model = cnnarch.lenet5(in_channels=3)
    with pytest.raises(TypeError, match="must return a tensor"):
        cnnarch.embed(model, tmp_path / "photos", preprocessing=lambda _: None)


# --- progress bar ---


def test_the_progress_bar_counts_images(
    lenet: cnnarch.ImageClassifier, capsys: pytest.CaptureFixture[str]
) -> None:
    x = torch.rand(6, 1, 32, 32)
    cnnarch.embed(lenet, x)
    assert capsys.readouterr() == ("", "")  # not a terminal
    cnnarch.embed(lenet, x, batch_size=2, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "6/6" in captured.err


def test_without_rich_there_is_no_progress_bar(
    lenet: cnnarch.ImageClassifier,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cnnarch.images.find_spec", lambda _name: None)
    assert len(cnnarch.embed(lenet, torch.rand(2, 1, 32, 32), progress=True)) == 2
    assert capsys.readouterr() == ("", "")
