"""cnnarch.embed: which features, from what, into what, and what a kill leaves."""

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
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
from cnnarch.images import Unreadable
from cnnarch.testing import assert_close, example_images
from cnnarch.weights import Preprocessing

SMALL = Preprocessing(32, 36)


class Counted:
    """Counts the images that go through a network's stem."""

    def __init__(self, model: cnnarch.ImageClassifier) -> None:
        self.images = 0
        model.stem.register_forward_hook(self.count)

    def count(self, _module: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> None:
        self.images += len(inputs[0])


@pytest.fixture
def lenet() -> cnnarch.ImageClassifier:
    return cnnarch.lenet5()


@pytest.fixture
def colour() -> cnnarch.ImageClassifier:
    """A small network of coloured images that knows how they are prepared."""
    model = cnnarch.lenet5(in_channels=3)
    model.preprocessing = SMALL
    return model


def pictures(folder: Path, count: int = 5, size: tuple[int, int] = (50, 40)) -> list[Path]:
    folder.mkdir(exist_ok=True)
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
    """An untrained VGG-19 gives thousandths."""
    return [tensor / like.abs().max() for tensor in tensors]


# --- which features ---


def test_rows_are_what_the_classifier_reads(model: cnnarch.ImageClassifier) -> None:
    x = example_images(model, batch=3)
    found = cnnarch.embed(model, x, batch_size=2)
    assert found.features.shape == (3, model.num_features)
    assert found.features.dtype == np.float32
    with torch.no_grad():  # in the same batches: in others deep networks round otherwise
        maps = [model.forward_features(images) for images in x.split(2)]
        rows = torch.cat([model.forward_head(m, pre_logits=True) for m in maps])
        logits = torch.cat([model.forward_head(m) for m in maps])
    features = torch.from_numpy(found.features)
    assert_close(*in_units_of(rows, features, rows), 1e-6)
    classifier = model.head.classifier if hasattr(model.head, "classifier") else None
    if isinstance(classifier, nn.Linear):  # the logits follow from them
        with torch.no_grad():
            assert_close(*in_units_of(logits, classifier(features), logits))


def test_the_mode_of_every_module_is_put_back(lenet: cnnarch.ImageClassifier) -> None:
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


def test_a_network_in_bfloat16_gives_float32() -> None:
    model = cnnarch.lenet5().bfloat16()
    assert cnnarch.embed(model, torch.rand(2, 1, 32, 32)).features.dtype == np.float32


def test_numpy_takes_the_result_as_an_array(lenet: cnnarch.ImageClassifier) -> None:
    found = cnnarch.embed(lenet, torch.rand(4, 1, 32, 32))
    assert len(found) == 4
    assert np.asarray(found) is not None
    np.testing.assert_array_equal(np.asarray(found), found.features)
    assert np.asarray(found, dtype=np.float64).dtype == np.float64


def test_timm_networks_are_cut_in_the_same_way() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet10t", num_classes=3).eval()
    x = torch.rand(2, 3, 64, 64)
    np.testing.assert_allclose(cnnarch.embed(model, x).features, by_hand(model, x), atol=1e-5)


# --- from what ---


def test_arrays_tensors_and_loaders_give_the_same(lenet: cnnarch.ImageClassifier) -> None:
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


def test_pixels_are_prepared(colour: cnnarch.ImageClassifier) -> None:
    pixels = torch.randint(0, 256, (3, 3, 50, 40), dtype=torch.uint8)
    expected = by_hand(colour, SMALL.transform()(pixels))
    by_pixel = pixels.permute(0, 2, 3, 1).numpy()
    for images in (pixels, by_pixel, [pixels]):
        found = cnnarch.embed(colour, images)
        np.testing.assert_allclose(found.features, expected, atol=1e-6)


def test_an_array_may_be_mapped_from_a_file(tmp_path: Path, lenet: cnnarch.ImageClassifier) -> None:
    x = torch.rand(5, 1, 32, 32)
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    found = cnnarch.embed(lenet, mapped, batch_size=2)
    np.testing.assert_allclose(found.features, by_hand(lenet, x), atol=1e-6)


def test_a_folder_gives_a_row_for_each_file_by_name(
    tmp_path: Path, colour: cnnarch.ImageClassifier
) -> None:
    paths = pictures(tmp_path / "photos")
    found = cnnarch.embed(colour, tmp_path / "photos", batch_size=2)
    assert found.names == tuple(map(str, paths))
    prepared = torch.stack([SMALL.transform()(Image.open(path)) for path in paths])
    np.testing.assert_allclose(found.features, by_hand(colour, prepared), atol=1e-5)
    some = cnnarch.embed(colour, [str(paths[3]), paths[1]])
    np.testing.assert_allclose(some.features, found.features[[3, 1]], atol=1e-6)
    assert some.names == (str(paths[3]), str(paths[1]))
    np.testing.assert_allclose(
        cnnarch.embed(colour, str(paths[2])).features, found.features[2:3], atol=1e-6
    )


def test_any_function_may_prepare(tmp_path: Path) -> None:
    pictures(tmp_path / "photos", size=(32, 32))
    model = cnnarch.lenet5(in_channels=3)
    found = cnnarch.embed(model, tmp_path / "photos", preprocessing=lambda image: image / 255)
    assert found.features.shape == (5, 84)


def test_batches_are_read_as_they_are_needed(lenet: cnnarch.ImageClassifier) -> None:
    given: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def batches() -> Iterator[Tensor]:
        for _ in range(20):
            alive.append(sum(batch() is not None for batch in given))
            batch = torch.zeros(8, 1, 32, 32)
            given.append(weakref.ref(batch))
            yield batch

    cnnarch.embed(lenet, batches())
    assert len(alive) == 20
    assert max(alive) <= 2


# --- into what ---


def test_a_batch_size_may_be_numpys_or_exceed_the_images(lenet: cnnarch.ImageClassifier) -> None:
    x = torch.rand(3, 1, 32, 32)
    for batch_size in (np.int64(3), 10**12):
        assert len(cnnarch.embed(lenet, x, batch_size=batch_size)) == 3  # type: ignore[arg-type]


def test_a_npy_file_is_numpys(tmp_path: Path, lenet: cnnarch.ImageClassifier) -> None:
    x = torch.rand(5, 1, 32, 32)
    found = cnnarch.embed(lenet, x, output=tmp_path / "x.npy", batch_size=2)
    expected = cnnarch.embed(lenet, x, batch_size=2).features
    for rows in (found.features, np.load(tmp_path / "x.npy")):
        np.testing.assert_array_equal(rows, expected)
    assert isinstance(found.features, np.memmap)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(mapped, expected)
    assert {p.name for p in tmp_path.iterdir()} == {"x.npy", "x.npy.json"}


def test_a_safetensors_file_has_the_tensor_features(
    tmp_path: Path, lenet: cnnarch.ImageClassifier
) -> None:
    x = torch.rand(5, 1, 32, 32)
    found = cnnarch.embed(lenet, x, output=tmp_path / "x.safetensors", batch_size=2)
    expected = cnnarch.embed(lenet, x, batch_size=2).features
    (read,) = load_file(tmp_path / "x.safetensors").values()
    assert set(load_file(tmp_path / "x.safetensors")) == {"features"}
    np.testing.assert_array_equal(read, expected)
    np.testing.assert_array_equal(found.features, expected)


def test_the_result_is_shown_without_its_names(
    tmp_path: Path, colour: cnnarch.ImageClassifier
) -> None:
    pictures(tmp_path / "photos")
    assert "0.png" not in repr(cnnarch.embed(colour, tmp_path / "photos"))


def test_what_the_rows_belong_to_stands_beside_them(
    tmp_path: Path, colour: cnnarch.ImageClassifier
) -> None:
    paths = pictures(tmp_path / "photos", 3)
    paths[1].write_bytes(b"")
    found = cnnarch.embed(
        colour, tmp_path / "photos", output=tmp_path / "x.npy", skip_unreadable=True
    )
    facts = json.loads((tmp_path / "x.npy.json").read_text())
    assert facts["names"] == list(found.names or ()) == [str(paths[0]), str(paths[2])]
    assert facts["rows"] == len(found) == 2
    assert facts["unreadable"] == [list(entry) for entry in found.unreadable]
    assert found.unreadable[0].name == str(paths[1])
    again = cnnarch.embed(
        colour, tmp_path / "photos", output=tmp_path / "x.npy", skip_unreadable=True
    )
    assert (again.names, again.unreadable) == (found.names, found.unreadable)
    assert isinstance(again.unreadable[0], Unreadable)


def test_labels_are_kept_through_a_file(tmp_path: Path, lenet: cnnarch.ImageClassifier) -> None:
    labels = torch.tensor([4, 1, 7])
    loader = DataLoader(TensorDataset(torch.rand(3, 1, 32, 32), labels), batch_size=2)
    for _ in range(2):
        found = cnnarch.embed(lenet, loader, output=tmp_path / "x.npy")
        np.testing.assert_array_equal(found.labels, labels.numpy())


# --- after a kill ---

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


def test_goes_on_after_a_kill_without_computing_again(tmp_path: Path) -> None:
    computed, journal = tmp_path / "computed", tmp_path / "rows.npy.part.jsonl"
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    child = subprocess.Popen([*command, "0.05"])
    while not (computed.exists() and computed.stat().st_size >= 6):
        time.sleep(0.005)
        assert child.poll() is None, "it ended before it could be killed"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    before = computed.stat().st_size
    written = len(journal.read_bytes().splitlines()) - 1
    assert 5 <= written <= before < 30
    assert not (tmp_path / "rows.npy").exists()

    subprocess.run([*command, "0"], check=True)
    assert computed.stat().st_size - before == 30 - written  # batches of two out of 60 images
    torch.manual_seed(0)
    model = cnnarch.lenet5()
    expected = by_hand(model, torch.rand(60, 1, 32, 32))
    np.testing.assert_allclose(np.load(tmp_path / "rows.npy"), expected, atol=1e-6)

    before = computed.stat().st_size
    subprocess.run([*command, "0"], check=True)
    assert computed.stat().st_size == before  # all is there


def interrupted(model: cnnarch.ImageClassifier, x: Tensor, output: Path, after: int) -> None:
    """Leave what a stop after some batches of two leaves."""

    def batches() -> Iterator[Tensor]:
        yield from x.split(2)[:after]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cnnarch.embed(model, batches(), output=output)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 20])
def test_the_batch_size_may_change_in_between(
    tmp_path: Path, lenet: cnnarch.ImageClassifier, batch_size: int
) -> None:
    x = torch.rand(11, 1, 32, 32)
    interrupted(lenet, x, tmp_path / "x.npy", 3)
    counted = Counted(lenet)
    loader: DataLoader[Any] = DataLoader(x, batch_size=batch_size)  # type: ignore[arg-type]
    found = cnnarch.embed(lenet, loader, output=tmp_path / "x.npy")
    assert counted.images == 5
    np.testing.assert_allclose(found.features, by_hand(lenet, x), atol=1e-6)


@pytest.mark.parametrize("harm", ["torn line", "torn rows", "zeroed rows", "no journal"])
def test_what_is_damaged_is_computed_again(
    tmp_path: Path, lenet: cnnarch.ImageClassifier, harm: str
) -> None:
    x = torch.rand(10, 1, 32, 32)
    interrupted(lenet, x, tmp_path / "x.npy", 4)
    part, journal = tmp_path / "x.npy.part", tmp_path / "x.npy.part.jsonl"
    if harm == "torn line":
        journal.write_bytes(journal.read_bytes()[:-9])
    elif harm == "torn rows":
        part.write_bytes(part.read_bytes()[:-9])
    elif harm == "zeroed rows":  # as a file system may leave them when the power goes
        part.write_bytes(part.read_bytes()[: -2 * 84 * 4] + bytes(2 * 84 * 4))
    else:
        journal.unlink()
    counted = Counted(lenet)
    found = cnnarch.embed(lenet, x, output=tmp_path / "x.npy", batch_size=2)
    assert counted.images == (10 if harm == "no journal" else 4)
    np.testing.assert_allclose(found.features, by_hand(lenet, x), atol=1e-6)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    "other", ["weights", "network", "images", "order", "fewer", "more", "preprocessing"]
)
def test_another_networks_or_other_images_rows_are_not_continued(
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
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    options: dict[str, Any] = {}
    if other == "weights":
        model = network(seed=1)
    elif other == "network":  # the same tensors
        model = network(pool="max")
    elif other == "preprocessing":
        options = {"preprocessing": SMALL}
    elif other == "more" and finished:
        x = torch.cat([x, x])
    elif other in ("fewer", "more"):
        x = x[:3]  # less than was done
    else:
        x = x.flip(0) if other == "order" else x + 0.001
    with pytest.raises(ValueError, match="another network or other images; overwrite=True"):
        cnnarch.embed(model, x, output=output, **options)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    found = cnnarch.embed(model, x, output=output, overwrite=True, **options)
    np.testing.assert_allclose(found.features, by_hand(model, x), atol=1e-6)
    assert len(np.load(output)) == len(x)


def test_a_changed_file_is_another_image(tmp_path: Path, colour: cnnarch.ImageClassifier) -> None:
    paths = pictures(tmp_path / "photos", 3)
    cnnarch.embed(colour, paths, output=tmp_path / "x.npy")
    Image.new("RGB", (40, 40), "red").save(paths[0])
    with pytest.raises(ValueError, match="other images"):
        cnnarch.embed(colour, paths, output=tmp_path / "x.npy")


def test_a_shuffled_loader_is_not_continued(tmp_path: Path, lenet: cnnarch.ImageClassifier) -> None:
    x = torch.rand(32, 1, 32, 32)
    interrupted(lenet, x, tmp_path / "x.npy", 4)
    loader: DataLoader[Any] = DataLoader(x, batch_size=2, shuffle=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="other images"):
        cnnarch.embed(lenet, loader, output=tmp_path / "x.npy")


def test_two_processes_do_not_write_one_file(
    tmp_path: Path, lenet: cnnarch.ImageClassifier
) -> None:
    def meanwhile() -> Iterator[Tensor]:
        yield torch.rand(1, 1, 32, 32)
        with pytest.raises(ValueError, match="another process is writing"):
            cnnarch.embed(lenet, torch.rand(1, 1, 32, 32), output=tmp_path / "x.npy")

    assert len(cnnarch.embed(lenet, meanwhile(), output=tmp_path / "x.npy")) == 1


def test_a_kill_while_a_file_is_replaced_leaves_no_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = cnnarch.lenet5(), cnnarch.lenet5()
    x, output = torch.rand(3, 1, 32, 32), tmp_path / "x.npy"
    cnnarch.embed(old, x, output=output)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            cnnarch.embed(new, x, output=output, overwrite=True)
    found = cnnarch.embed(new, x, output=output)
    np.testing.assert_allclose(found.features, by_hand(new, x), atol=1e-6)


# --- bad input ---


def test_an_unreadable_file_is_named(tmp_path: Path, colour: cnnarch.ImageClassifier) -> None:
    paths = pictures(tmp_path / "photos")
    paths[2].write_bytes(paths[2].read_bytes()[:200])
    with pytest.raises(ValueError, match=r"2\.png is not a readable image"):
        cnnarch.embed(colour, tmp_path / "photos", output=tmp_path / "x.npy", batch_size=1)
    counted = Counted(colour)
    found = cnnarch.embed(
        colour,
        tmp_path / "photos",
        output=tmp_path / "x.npy",
        batch_size=1,
        skip_unreadable=True,
    )
    assert counted.images == 2  # the two before it were written
    assert found.names == tuple(str(paths[i]) for i in (0, 1, 3, 4))
    assert [entry.name for entry in found.unreadable] == [str(paths[2])]
    assert "not a readable image" in found.unreadable[0].reason


@pytest.mark.parametrize("rows", [2, 4])  # stopped halfway, and finished
def test_what_was_skipped_is_an_error_where_nothing_may_be(
    tmp_path: Path, colour: cnnarch.ImageClassifier, rows: int
) -> None:
    paths, output = pictures(tmp_path / "photos"), tmp_path / "x.npy"
    paths[1].write_bytes(b"")
    counted = Counted(colour)

    def stop(*_: object) -> None:
        if counted.images > rows:
            raise KeyboardInterrupt

    hook = colour.stem.register_forward_hook(stop)
    with suppress(KeyboardInterrupt):
        cnnarch.embed(colour, paths, output=output, skip_unreadable=True, batch_size=1)
    hook.remove()
    assert output.exists() == (rows == 4)
    with pytest.raises(ValueError, match=r"1\.png is not a readable image"):
        cnnarch.embed(colour, paths, output=output)


def test_a_batch_without_a_readable_file_is_passed_over(
    tmp_path: Path, colour: cnnarch.ImageClassifier
) -> None:
    paths = pictures(tmp_path / "photos")
    for path in paths[:2]:
        path.write_bytes(b"")
    for output in (None, tmp_path / "x.npy"):
        found = cnnarch.embed(
            colour, tmp_path / "photos", batch_size=2, skip_unreadable=True, output=output
        )
        assert len(found) == 3
        assert len(found.unreadable) == 2
    for path in paths[2:]:
        path.write_bytes(b"")
    for output in (None, tmp_path / "y.npy"):
        with pytest.raises(ValueError, match=r"no file can be read; the first: .*0\.png"):
            cnnarch.embed(colour, tmp_path / "photos", skip_unreadable=True, output=output)


def test_files_of_mixed_sizes_are_named_where_nothing_scales_them(tmp_path: Path) -> None:
    pictures(tmp_path / "a", 2, (32, 32))
    pictures(tmp_path / "b", 1, (40, 32))
    model = cnnarch.lenet5(in_channels=3)
    with pytest.raises(ValueError, match=r"0\.png is \(3, 32, 32\) .* is \(3, 32, 40\)"):
        cnnarch.embed(
            model, [tmp_path / "a", tmp_path / "b"], preprocessing=lambda image: image / 255
        )


def test_a_network_that_does_not_say_how_images_are_prepared(tmp_path: Path) -> None:
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
        (iter(()), ValueError, "the loader gave none"),
        (torch.zeros(1, 32, 32), ValueError, "4 dimensions, got shape"),
        (np.zeros((2, 1, 32, 32), np.uint8), ValueError, r"\(N, H, W, 1 or 3\), got \(2, 1, 32"),
        (torch.zeros(1, 1, 32, 32, dtype=torch.int64), TypeError, "floats or uint8, got torch.int"),
        ("gone", FileNotFoundError, "no file or folder gone"),
        (["gone.png"], FileNotFoundError, "gone.png"),
        (3, TypeError, "arrays, files or a loader, got int"),
        ([torch.zeros(1, 32, 32)], TypeError, r"got \(1, 32, 32\)"),
        ([{"image": 1}], TypeError, "got dict"),
        ([Path("a.png"), torch.zeros(1, 1, 32, 32)], TypeError, "Path"),
    ],
)
def test_what_is_no_image_is_refused(
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
        ({"output": "gone/x.npy"}, FileNotFoundError, "no folder gone"),
        ({"preprocessing": 3}, TypeError, "a Preprocessing or a function: 3"),
    ],
)
def test_bad_options_are_refused(
    options: dict[str, Any], error: type[Exception], message: str, lenet: cnnarch.ImageClassifier
) -> None:
    with pytest.raises(error, match=message):
        cnnarch.embed(lenet, torch.zeros(1, 1, 32, 32), **options)


def test_an_empty_folder_is_named(tmp_path: Path, colour: cnnarch.ImageClassifier) -> None:
    with pytest.raises(ValueError, match="holds no images"):
        cnnarch.embed(colour, tmp_path)


def test_a_network_of_five_channels_reads_no_files(tmp_path: Path) -> None:
    pictures(tmp_path / "photos", 1)
    with pytest.raises(ValueError, match="1 or 3 channels, the network reads 5"):
        cnnarch.embed(cnnarch.lenet5(in_channels=5), tmp_path / "photos", preprocessing=SMALL)


def test_a_network_without_a_cut_is_refused() -> None:
    with pytest.raises(TypeError, match="Linear has no forward_features and forward_head"):
        cnnarch.embed(nn.Linear(3, 3), torch.zeros(1, 3, 8, 8))


def test_a_function_that_gives_no_tensor_is_named(tmp_path: Path) -> None:
    pictures(tmp_path / "photos", 1)
    model = cnnarch.lenet5(in_channels=3)
    with pytest.raises(TypeError, match="must give a tensor"):
        cnnarch.embed(model, tmp_path / "photos", preprocessing=lambda _: None)


# --- what is seen ---


def test_the_bar_counts_images(
    lenet: cnnarch.ImageClassifier, capsys: pytest.CaptureFixture[str]
) -> None:
    x = torch.rand(6, 1, 32, 32)
    cnnarch.embed(lenet, x)
    assert capsys.readouterr() == ("", "")  # nobody looks on
    cnnarch.embed(lenet, x, batch_size=2, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "6/6" in captured.err


def test_without_rich_there_is_no_bar(
    lenet: cnnarch.ImageClassifier,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cnnarch.images.find_spec", lambda _name: None)
    assert len(cnnarch.embed(lenet, torch.rand(2, 1, 32, 32), progress=True)) == 2
    assert capsys.readouterr() == ("", "")
