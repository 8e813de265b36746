"""Reading labeled folders: splits, unreadable files, and what is said about them."""

import logging
import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from cnnarch.training import ImageData, ImageSet, Recipe, file_pixels, load_data
from cnnarch.training.file_pixels import FilePixels
from cnnarch.weights import Preprocessing


def photographs(folder: Path, count: int, first: int = 0) -> None:
    """Write images that all differ."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        generator = np.random.default_rng([i, *folder.name.encode()])
        pixels = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{folder.name.strip('.')}{i}.png")


def load(folder: Path, **options: object) -> ImageData:
    return load_data(f"folder:{folder}", image_resolution=8, **options)  # type: ignore[arg-type]


def names(images: ImageSet | None) -> set[str]:
    assert images is not None
    assert isinstance(images.pixels, FilePixels)
    return set(images.pixels.names)


def cats_and_dogs(folder: Path, count: int, first: int = 0) -> Path:
    for kind in ("cat", "dog"):
        photographs(folder / kind, count, first)
    return folder


def test_a_validation_folder_is_the_validation_set(tmp_path: Path) -> None:
    for name, count in (("Train", 6), ("Val", 3), ("Test", 2)):
        cats_and_dogs(tmp_path / name, count)
    data = load(tmp_path)
    assert data.validation is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 6, 4)
    train, validation = data.hold_back(0.1)
    assert (len(train), names(validation)) == (12, names(data.validation))
    assert data.training_size(0.1) == 12
    assert data.hold_back(0) == (data.train, None)
    larger = data.prepared(Preprocessing(16, 16)).hold_back(0.1)[1]
    assert larger is not None
    assert larger.inputs(torch.arange(2)).shape == (2, 3, 16, 16)


def test_without_a_test_folder_a_training_folder_holds_out_a_fifth(tmp_path: Path) -> None:
    cats_and_dogs(tmp_path / "Training", 10)
    data = load(tmp_path)
    assert (len(data.train), len(data.test), data.classes) == (16, 4, ("cat", "dog"))


def test_only_test_images_cannot_be_trained_on_but_evaluated(tmp_path: Path) -> None:
    photographs(tmp_path / "test" / "dog", 3)
    with pytest.raises(ValueError, match="contains no training images, only test"):
        load(tmp_path)
    data = load(tmp_path, hold_out=False, classes=("cat", "dog", "owl"))
    assert data.test.labels.tolist() == [1, 1, 1]
    assert data.classes == ("cat", "dog", "owl")


def test_a_folder_to_evaluate_may_have_empty_classes(tmp_path: Path) -> None:
    photographs(tmp_path / "dog", 3)
    (tmp_path / "cat").mkdir()
    assert load(tmp_path, hold_out=False, classes=("dog", "cat")).test.labels.tolist() == [0] * 3
    with pytest.raises(ValueError, match="cat contains no images"):
        load(tmp_path)


def test_the_error_suggests_the_folder_inside_an_archives_folder(tmp_path: Path) -> None:
    cats_and_dogs(tmp_path / "archive" / "photos", 2)
    cats_and_dogs(tmp_path / "archive" / "__MACOSX" / "photos", 2)
    with pytest.raises(ValueError, match=rf"use folder:{tmp_path}/archive/photos;"):
        load(tmp_path / "archive")


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.zip is not a folder"):
        load(tmp_path / "a.zip")


def test_a_path_may_begin_with_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell does not expand ~ within a word such as folder:~/photos."""
    monkeypatch.setenv("HOME", str(tmp_path))
    cats_and_dogs(tmp_path / "photos", 5)
    assert len(load(Path("~/photos")).train) == 8


def test_a_folder_to_evaluate_must_contain_known_classes(tmp_path: Path) -> None:
    cats_and_dogs(tmp_path, 2)
    with pytest.raises(ValueError, match=r"network's classes: dog; these are cat, owl"):
        load(tmp_path, hold_out=False, classes=("cat", "owl"))
    with pytest.raises(ValueError, match=r"more than once, among the network's classes: cat"):
        load(tmp_path, hold_out=False, classes=("cat", "dog", "cat"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="must contain one subfolder of images per class"):
        load(tmp_path / "empty", hold_out=False, classes=("cat", "dog"))


def test_decomposed_class_names_match_a_networks(tmp_path: Path) -> None:
    photographs(tmp_path / unicodedata.normalize("NFD", "Käfer"), 2)
    classes = (unicodedata.normalize("NFC", "Käfer"), "Wal")
    assert load(tmp_path, hold_out=False, classes=classes).test.labels.tolist() == [0, 0]


def test_the_contents_are_said_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cats_and_dogs(tmp_path, 10)
    with caplog.at_level(logging.INFO, "cnnarch"):
        load(tmp_path)
    (tmp_path / "cat" / "notes.txt").write_text("")
    photographs(tmp_path / "dog" / ".hidden", 2)
    with caplog.at_level(logging.WARNING, "cnnarch"):
        load(tmp_path)
    expected = f"{tmp_path}: 2 classes (cat, dog): 16 training images, 4 test images (held out)"
    assert caplog.messages == [expected, f"{expected}; skipped 1 .txt, 1 hidden item"]


def test_all_unreadable_files_are_named_together(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        cats_and_dogs(tmp_path / name, 4)
    broken = [tmp_path / "train/cat/cat0.png", tmp_path / "val/dog/dog3.png"]
    broken.append(tmp_path / "test/cat/cat2.png")
    for path in broken:
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"3 of 24 files cannot be read") as error:
        load(tmp_path)
    named = re.findall(rf"{tmp_path}/(\S+) is not", str(error.value))
    assert named == ["test/cat/cat2.png", "train/cat/cat0.png", "val/dog/dog3.png"]
    assert "--skip_unreadable" in str(error.value)


@pytest.mark.parametrize("limit", [0, 2**31], ids=["in files", "in memory"])
def test_unreadable_files_can_be_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, limit: int
) -> None:
    monkeypatch.setattr(file_pixels, "MEMORY_LIMIT", limit)
    cats_and_dogs(tmp_path, 10)
    before = load(tmp_path)
    broken = tmp_path / sorted(names(before.train))[0]
    broken.write_bytes(b"junk")
    with pytest.raises(ValueError, match="1 of 20 files cannot be read"):
        load(tmp_path)
    after = load(tmp_path, skip_unreadable=True)
    assert names(after.test) == names(before.test)
    assert names(before.train) - names(after.train) == {broken.relative_to(tmp_path).as_posix()}
    assert any(str(broken) in message for message in caplog.messages)
    kept = [i for i, path in enumerate(before.train.pixels.paths) if path != broken]  # type: ignore[union-attr]
    pixels = before.train.pixels.decoded  # type: ignore[union-attr]
    if pixels is not None:
        assert torch.equal(after.train.pixels[torch.arange(len(after.train))], pixels[kept])
    assert after.train.labels.tolist() == before.train.labels[kept].tolist()


def test_classes_without_training_images_are_named_with_their_split(tmp_path: Path) -> None:
    for place in ("train/cat", "train/dog", "val/Cat"):
        photographs(tmp_path / place, 2)
    expected = (
        r"contains test images \(in val\) of classes without training images: Cat; the .* cat, dog"
    )
    with pytest.raises(ValueError, match=expected):
        load(tmp_path)


def test_classes_without_images_to_evaluate_on_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for place in ("train/cat", "train/dog", "val/cat", "test/dog"):
        photographs(tmp_path / place, 2)
    load(tmp_path)
    assert caplog.messages[-1].endswith("; no test images of cat; no validation images of dog")
    load(tmp_path, hold_out=False, classes=("cat", "dog"))
    assert len(caplog.messages) == 1


def test_the_error_for_a_class_of_one_image_names_its_folder(tmp_path: Path) -> None:
    photographs(tmp_path / "train/cat", 2)
    photographs(tmp_path / "train/dog", 1)
    with pytest.raises(ValueError, match=rf"{tmp_path}/train/dog must contain at least two"):
        load(tmp_path)


def test_a_class_of_unreadable_files_is_rejected(tmp_path: Path) -> None:
    cats_and_dogs(tmp_path, 4)
    for path in (tmp_path / "cat").iterdir():
        path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="no training image of class cat can be read"):
        load(tmp_path, skip_unreadable=True)


def test_in_large_folders_all_but_the_training_images_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of training files, only the start and the end are read in advance."""
    monkeypatch.setattr(file_pixels, "MEMORY_LIMIT", 0)
    monkeypatch.setattr(file_pixels, "CONTENT_LIMIT", 0)
    for name in ("train", "test"):
        cats_and_dogs(tmp_path / name, 4)
    inside = bytearray((tmp_path / "test/cat/cat0.png").read_bytes())
    inside[60:90] = bytes(30)  # damages the pixels, not the header or the end
    (tmp_path / "test/cat/cat0.png").write_bytes(inside)
    cut = tmp_path / "train/dog/dog1.png"
    cut.write_bytes(cut.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"2 of 16 files cannot be read") as error:
        load(tmp_path)
    assert f"{cut} is not a readable image: the file is truncated" in str(error.value)
    assert "test/cat/cat0.png" in str(error.value)


def test_files_with_any_name_are_read(tmp_path: Path) -> None:
    cats_and_dogs(tmp_path, 10)
    added = [
        os.fsdecode(b"K\xe4tzchen.png"),
        "a\nb.png",
        "é.png",
        "e\u0301.png",
        "-x .png",
        "猫.png",
    ]
    for i, name in enumerate(added):
        pixels = np.full((8, 8, 3), 40 * i, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "cat" / name)
    data = load(tmp_path)
    assert len(data.train) + len(data.test) == 20 + len(added)
    assert len(data.hold_back(0.25)[0]) < len(data.train)


def test_every_raster_format_counts(tmp_path: Path) -> None:
    cats_and_dogs(tmp_path, 5)
    for i in range(5):
        with Image.open(tmp_path / f"cat/cat{i}.png") as image:
            image.save(tmp_path / f"cat/w{i}.jfif", "JPEG")
            image.convert("L").save(tmp_path / f"dog/{i}.pgm")
    data = load(tmp_path)
    assert (len(data.train), len(data.test)) == (16, 4)


# --- the validation split ---


def test_no_class_goes_whole_to_validation(tmp_path: Path) -> None:
    for i in range(30):
        photographs(tmp_path / f"p{i:02}", 2)
    for fraction in (0.1, 0.5, 0.9):
        assert set(load(tmp_path).hold_back(fraction)[0].labels.tolist()) == set(range(30))


def test_each_class_gives_the_same_share(data: ImageData) -> None:
    train, validation = data.hold_back(0.25, seed=3)
    assert validation is not None
    assert validation.labels.bincount().tolist() == [6] * 4  # of 24 images each
    assert train.labels.bincount().tolist() == [18] * 4


def test_the_validation_split_depends_on_the_seed(tmp_path: Path) -> None:
    data = load(cats_and_dogs(tmp_path, 20))
    first, again, other = (names(data.hold_back(0.25, seed)[1]) for seed in (0, 0, 1))
    assert first == again != other


def test_removing_a_training_image_moves_no_other_into_validation(tmp_path: Path) -> None:
    before, validated = load(cats_and_dogs(tmp_path, 60)).hold_back(0.1)
    (tmp_path / min(name for name in names(before) if name.startswith("cat"))).unlink()
    after = load(tmp_path).hold_back(0.1)[1]
    assert names(after) <= names(validated)


def test_the_split_does_not_depend_on_the_folder(tmp_path: Path) -> None:
    splits = []
    for place in (tmp_path / "a", tmp_path / "far" / "b"):
        data = load(cats_and_dogs(place, 20))
        splits.append([names(images) for images in (*data.hold_back(0.25), data.test)])
    assert splits[0] == splits[1]


def test_a_fraction_of_few_images_is_rounded(tmp_path: Path) -> None:
    """Each class has 4 training images, and 0.4 rounds to 0."""
    data = load(cats_and_dogs(tmp_path, 5))
    assert data.hold_back(Recipe().validation) == (data.train, None)


def test_a_mask_selects_images_of_a_folder(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        photographs(tmp_path / name, 10)
    images = load(tmp_path).test  # two of each class
    assert len(images) == 4
    dogs = images.subset(images.labels == 1)
    assert dogs.labels.tolist() == [1, 1]
    assert [path.parent.name for path in dogs.pixels.paths] == ["dog", "dog"]  # type: ignore[union-attr]
    with pytest.raises(IndexError, match="index 4 is out of bounds"):
        images.subset(torch.tensor([4]))


def test_pictures_drawn_into_a_class_folder_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They count as images, because a class may consist of plots."""
    caplog.set_level(logging.INFO, "cnnarch")
    cats_and_dogs(tmp_path, 8)
    load(tmp_path)
    assert "Matplotlib" not in caplog.text
    Figure(figsize=(1, 1)).savefig(tmp_path / "cat" / "gradcam.png")
    load(tmp_path)
    assert "1 image drawn by Matplotlib, as by cnnarch draw, for example " in caplog.text
    assert "gradcam.png: move them if they are not part of the data" in caplog.text
