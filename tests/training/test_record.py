"""Runs know their images by their contents, wherever the files are."""

import csv
import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import cnnarch
from cnnarch.contents import hash_files
from cnnarch.training import (
    ImageData,
    ImageSet,
    Recipe,
    fit,
    leave_out_trained,
    read_results,
    train,
)
from cnnarch.training import record as record_module
from cnnarch.training.record import FILES, read_record
from tests.training.conftest import CLASSES
from tests.training.test_folders import cats_and_dogs, load, names, photographs

QUICK = Recipe(num_epochs=2, batch_size=8, validation=0.25)


class KilledError(Exception):
    """Simulates a killed process."""


def network() -> cnnarch.ImageClassifier:
    torch.manual_seed(0)
    return cnnarch.lenet5(num_classes=2, in_channels=3)


def load_32(folder: Path, **options: object) -> ImageData:
    return load(folder, **options).prepared(cnnarch.weights.Preprocessing(32, 32))


def kill(_row: object) -> None:
    raise KilledError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return cats_and_dogs(tmp_path / "photos", 20)


@pytest.fixture
def killed(tmp_path: Path, photos: Path) -> Path:
    """The folder of a run that was killed in its second epoch."""

    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise KilledError

    with pytest.raises(KilledError):
        fit(network(), load_32(photos), QUICK, output=tmp_path / "run", on_epoch_end=stop)
    return tmp_path / "run"


def test_the_record_names_every_file_with_its_split_size_and_hash(
    photos: Path, tmp_path: Path
) -> None:
    data = load_32(photos)
    with pytest.raises(KilledError):
        fit(network(), data, QUICK, output=tmp_path / "run", on_epoch_end=kill)
    with (tmp_path / "run" / FILES).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    trained, validated = data.hold_back(0.25)
    for split, images in (("train", trained), ("validation", validated), ("test", data.test)):
        assert {row["name"] for row in rows if row["split"] == split} == names(images)
    for row in rows:
        content = (photos / row["name"]).read_bytes()
        assert int(row["size"]) == len(content)
        assert row["hash"] == f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize("size", [10, 65_536, 100_000, 200_000])
def test_of_large_sets_only_the_ends_are_hashed(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    known = hashlib.sha256(content[:65_536])
    known.update(content[65_536:][-65_536:] + size.to_bytes(8, "big"))
    expected = (size, f"sha256-of-ends:{known.hexdigest()}")
    assert hash_files([path], "sha256-of-ends") == [expected]
    if size > 2 * 65_536:  # the middle is not read
        path.write_bytes(content[:70_000] + b"\0" * 100 + content[70_100:])
        assert hash_files([path], "sha256-of-ends") == [expected]


def test_a_large_set_is_recorded_by_its_ends_and_recognized_when_smaller(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(record_module, "CONTENT_LIMIT", 0)
        with pytest.raises(KilledError):
            fit(network(), load_32(photos), QUICK, output=tmp_path / "run", on_epoch_end=kill)
    assert all(e.hash.startswith("sha256-of-ends:") for e in read_record(tmp_path / "run"))
    images = load(photos, hold_out=False).test
    assert len(leave_out_trained(images, tmp_path / "run")) == 8  # a fifth of 40


# --- resuming ---


def test_the_same_files_in_another_place_resume(killed: Path, photos: Path, tmp_path: Path) -> None:
    expected = network()
    fit(expected, load_32(photos), QUICK)
    moved = photos.rename(tmp_path / "scratch")
    resumed = network()
    history = fit(resumed, load_32(moved), QUICK, output=killed, resume=True)
    assert history["epoch"] == [1, 2]
    pairs = zip(expected.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def remove(photos: Path) -> None:
    (photos / "cat/cat3.png").unlink()


def add(photos: Path) -> None:
    photographs(photos / "dog", 1, first=77)


def change(photos: Path) -> None:
    shutil.copy(photos / "cat/cat1.png", photos / "cat/cat2.png")


def rename(photos: Path) -> None:
    (photos / "cat/cat3.png").rename(photos / "cat/new.png")


def relabel(photos: Path) -> None:
    (photos / "cat/cat3.png").rename(photos / "dog/cat3.png")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (remove, r"1 missing \(cat/cat3\.png\)"),
        (add, r"1 new \(dog/dog77\.png\)"),
        (change, r"1 changed \(cat/cat2\.png\)"),
        (rename, r"1 missing \(cat/cat3\.png\), 1 new \(cat/new\.png\)"),
        (relabel, r"1 missing \(cat/cat3\.png\), 1 new \(dog/cat3\.png\)"),
    ],
)
def test_other_files_do_not_resume(killed: Path, photos: Path, edit: object, message: str) -> None:
    edit(photos)  # type: ignore[operator]
    before = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=rf"has other images than folder:.*{message}"):
        fit(network(), load_32(photos), QUICK, output=killed, resume=True)
    assert before == {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}


def test_another_validation_split_does_not_resume(killed: Path, photos: Path) -> None:
    with pytest.raises(ValueError, match="in another split"):
        fit(network(), load_32(photos), replace(QUICK, seed=1), output=killed, resume=True)


def test_other_images_in_memory_do_not_resume(data: ImageData, tmp_path: Path) -> None:
    lenet = cnnarch.lenet5(num_classes=len(CLASSES))
    with pytest.raises(KilledError):
        fit(lenet, data, QUICK, output=tmp_path, on_epoch_end=kill)
    pixels = data.train.pixels
    assert isinstance(pixels, torch.Tensor)
    other = data._replace(train=replace(data.train, pixels=255 - pixels))
    with pytest.raises(ValueError, match="their pixels or labels differ"):
        fit(lenet, other, QUICK, output=tmp_path, resume=True)


def test_checkpoints_without_a_record_do_not_resume(killed: Path, photos: Path) -> None:
    (killed / FILES).unlink()
    with pytest.raises(ValueError, match=r"contains checkpoints but no files\.csv"):
        fit(network(), load_32(photos), QUICK, output=killed, resume=True)


HEADER = "split,name,size,hash\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "split,name\n",
        HEADER,
        "a\nb\n",
        f"{HEADER}train,cat/1.png,5,sha256:{'0' * 64}\n",
        f"{HEADER}train,a.png,5,sha256:{'0' * 64}\ntest,b.png,5,sha256:{'0' * 40}",
    ],
)
def test_a_corrupted_record_is_named(killed: Path, photos: Path, text: str) -> None:
    (killed / FILES).write_text(text)
    with pytest.raises(ValueError, match=r"files\.csv is corrupted"):
        fit(network(), load_32(photos), QUICK, output=killed, resume=True)


def test_names_of_any_bytes_are_recorded(photos: Path, tmp_path: Path) -> None:
    for i, name in enumerate([b"K\xe4.png", b'a\n,"b.png', "é.png".encode()]):
        photographs(photos / "cat", 1, first=50 + i)
        (photos / f"cat/cat{50 + i}.png").rename(photos / "cat" / os.fsdecode(name))
    with pytest.raises(KilledError):
        fit(network(), load_32(photos), QUICK, output=tmp_path / "run", on_epoch_end=kill)
    recorded = {entry.name for entry in read_record(tmp_path / "run")}
    assert {"cat/" + os.fsdecode(b"K\xe4.png"), 'cat/a\n,"b.png', "cat/é.png"} <= recorded


@pytest.mark.usefixtures("without_pictures")
def test_a_finished_run_is_returned_only_for_its_own_images(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = replace(QUICK, num_epochs=1)
    train(network(), load_32(photos), recipe, run)
    moved = photos.rename(tmp_path / "scratch")
    assert train(network(), load_32(moved), recipe, run, resume=True) == read_results(run)
    other = cats_and_dogs(photos, 20, first=100)  # the old place, but other images
    with pytest.raises(ValueError, match="40 missing"):
        train(network(), load_32(other), recipe, run, resume=True)


def test_a_new_run_in_place_of_a_resumed_one_warns(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KilledError):
        fit(
            network(), load_32(photos), QUICK, output=tmp_path / "b", resume=True, on_epoch_end=kill
        )
    assert f"there is no run to resume in {tmp_path}/b" in caplog.messages[-1]


# --- evaluating ---


def test_images_that_a_run_trained_on_are_left_out(
    killed: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = names(load(photos).test)
    photos.rename(tmp_path / "elsewhere")
    images = load(tmp_path / "elsewhere", hold_out=False).test
    left = leave_out_trained(images, killed)
    assert names(left) == expected
    assert "left out 32 of 40 images" in caplog.messages[-1]
    assert "8 remain; 8 of them are among the 8 test images" in caplog.messages[-1]
    new = load(cats_and_dogs(tmp_path / "new", 4, first=50), hold_out=False).test
    assert leave_out_trained(new, killed) is new


def test_renamed_copies_of_training_images_are_left_out(
    killed: Path, photos: Path, tmp_path: Path
) -> None:
    trained, _ = load(photos).hold_back(0.25)
    cats_and_dogs(tmp_path / "new", 3, first=50)
    shutil.copy(photos / min(names(trained)), tmp_path / "new/dog/copy.png")
    left = leave_out_trained(load(tmp_path / "new", hold_out=False).test, killed)
    assert len(left) == 6


@pytest.mark.parametrize("weights", ["", "checkpoints/stage-1-last.ckpt"])
def test_training_images_of_the_initial_weights_are_left_out(
    killed: Path,
    photos: Path,
    tmp_path: Path,
    weights: str,
) -> None:
    trained, _ = load(photos).hold_back(0.25)
    other = cats_and_dogs(tmp_path / "other", 20, first=50)
    (same,) = sorted(names(trained))[:1]
    shutil.copy(photos / same, other / "dog/same.png")
    recipe = replace(QUICK, weights=str(killed / weights))
    with pytest.raises(KilledError):
        fit(network(), load_32(other), recipe, output=tmp_path / "second", on_epoch_end=kill)
    left = leave_out_trained(load(photos, hold_out=False).test, tmp_path / "second")
    assert names(left) == names(load(photos, hold_out=False).test) - names(trained)
    shutil.rmtree(killed)  # is not needed to resume
    fit(network(), load_32(other), recipe, output=tmp_path / "second", resume=True)


def test_a_file_of_a_run_stands_for_the_run(killed: Path, photos: Path) -> None:
    images = load(photos, hold_out=False).test
    last = killed / "checkpoints" / "stage-1-last.ckpt"
    assert names(leave_out_trained(images, last)) == names(leave_out_trained(images, killed))


def test_a_set_of_training_images_is_rejected(killed: Path, photos: Path) -> None:
    trained, _ = load(photos).hold_back(0.25)
    with pytest.raises(ValueError, match=f"all {len(trained)} images were used for training"):
        leave_out_trained(trained, killed)


def in_memory(count: int = 12) -> ImageData:
    """A data set of two classes that is not in files."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2 * count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    numbers = torch.arange(2 * count)
    inputs = cnnarch.weights.Preprocessing(32, 32)
    images = ImageSet(pixels, numbers % 2, ("cat", "dog"), inputs)
    return ImageData("memory", images.subset(numbers[:count]), images.subset(numbers[count:]))


def test_images_in_memory_are_compared_as_a_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "cnnarch")
    data, run = in_memory(), tmp_path / "run"
    with pytest.raises(KilledError):
        fit(network(), data, replace(QUICK, validation=0.0), output=run, on_epoch_end=kill)
    caplog.clear()
    assert leave_out_trained(data.test, run) is data.test
    assert caplog.messages == []
    with pytest.raises(ValueError, match="all 12 images were used for training"):
        leave_out_trained(data.train, run)
    caplog.clear()
    part = data.train.subset(torch.arange(5))
    assert leave_out_trained(part, run) is part
    assert caplog.messages == [
        f"images that the run in {run} used may be among these: images in memory are compared only "
        "as a whole, and it used other sets"
    ]


def test_files_and_images_in_memory_are_not_compared_silently(
    killed: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, run = in_memory(), tmp_path / "second"
    with pytest.raises(KilledError):
        fit(network(), data, QUICK, output=run, on_epoch_end=kill)
    caplog.clear()
    leave_out_trained(data.test, killed)
    leave_out_trained(load(photos, hold_out=False).test, run)
    assert [message.partition("among these: ")[2] for message in caplog.messages] == [
        "images in memory cannot be compared with the files that it used",
        "files cannot be compared with the images in memory that it used",
    ]


def test_training_images_of_weights_are_left_out_between_files_and_memory(
    killed: Path, photos: Path, tmp_path: Path
) -> None:
    data, second, third = in_memory(), tmp_path / "second", tmp_path / "third"
    recipe = replace(QUICK, validation=0.0)
    weights = replace(recipe, weights=str(killed))
    with pytest.raises(KilledError):
        fit(network(), data, weights, output=second, on_epoch_end=kill)
    trained, _ = load(photos).hold_back(0.25)
    images = load(photos, hold_out=False).test
    assert names(leave_out_trained(images, second)) == names(images) - names(trained)
    other = load_32(cats_and_dogs(tmp_path / "other", 20, first=50))
    weights = replace(recipe, weights=str(second))
    with pytest.raises(KilledError):
        fit(network(), other, weights, output=third, on_epoch_end=kill)
    assert names(leave_out_trained(images, third)) == names(images) - names(trained)
    with pytest.raises(ValueError, match="all 12 images were used for training"):
        leave_out_trained(data.train, third)


def test_without_a_record_nothing_is_left_out(photos: Path, tmp_path: Path) -> None:
    images: ImageSet = load(photos).test
    assert leave_out_trained(images, tmp_path) is images


def test_byte_equal_images_are_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cats_and_dogs(tmp_path / "data/train", 8)
    cats_and_dogs(tmp_path / "data/test", 4, first=50)
    shutil.copy(tmp_path / "data/train/cat/cat1.png", tmp_path / "data/test/cat/same.png")
    recipe = replace(QUICK, validation=0.0)
    data = load_32(tmp_path / "data")
    with pytest.raises(KilledError):
        fit(network(), data, recipe, output=tmp_path / "run", on_epoch_end=kill)
    found = [message for message in caplog.messages if "byte-equal" in message]
    assert found == [
        "byte-equal to training images: 1 of 9 test images, for example test/cat/same.png and "
        "train/cat/cat1.png"
    ]


def doubtful(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if "byte-equal" in message]


def test_each_kind_of_byte_equal_images_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split, first in (("train", 0), ("val", 30), ("test", 60)):
        cats_and_dogs(tmp_path / split, 4, first)
    for old, new in (
        ("val/cat/cat30.png", "test/cat/a.png"),
        ("val/dog/dog31.png", "test/dog/b.png"),
        ("train/cat/cat1.png", "train/cat/c.png"),  # harmless
        ("test/cat/cat60.png", "test/dog/d.png"),
        ("train/dog/dog2.png", "train/cat/e.png"),
        ("train/dog/dog2.png", "train/cat/f.png"),
    ):
        shutil.copy(tmp_path / old, tmp_path / new)
    with pytest.raises(KilledError):
        fit(network(), load_32(tmp_path), QUICK, output=tmp_path / "run", on_epoch_end=kill)
    first, second = doubtful(caplog)
    start = "byte-equal to validation images: 2 of 11 test images, for example test/"
    assert first.startswith(start)
    start = "byte-equal, but of different classes: 5 of 30 images, for example t"
    assert second.startswith(start)


def test_test_images_that_the_initial_weights_know_are_reported(
    killed: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = sorted(names(load(photos).hold_back(0.25)[0]))
    other = tmp_path / "other"
    for split, first in (("train", 50), ("test", 80)):
        cats_and_dogs(other / split, 4, first)
    for i in range(3):
        shutil.copy(photos / trained[i], other / "test" / trained[i])
    recipe = replace(QUICK, weights=str(killed))
    with pytest.raises(KilledError):
        fit(network(), load_32(other), recipe, output=tmp_path / "second", on_epoch_end=kill)
    (line,) = doubtful(caplog)
    assert line.startswith(
        "byte-equal to images that the initial weights were trained on: 3 of 11 test images, for "
    )
