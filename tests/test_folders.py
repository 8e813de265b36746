"""Which files in a folder are images, and which splits and classes they belong to."""

import io
import logging
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cnnarch.folders import image_formats, image_suffixes, printable, scan_folder
from cnnarch.images import decode_image, find_images, find_unreadable, read_image
from cnnarch.splits import label_folder, split_role


def photograph(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)
    return path


def photographs(folder: Path, count: int) -> None:
    for i in range(count):
        photograph(folder / f"{i}.png")


def labels(root: Path) -> dict[str, dict[str, int]]:
    """Return the number of images of each class in each split."""
    splits = label_folder(root).splits
    return {
        role: {name: len(files) for name, files in found.items()} for role, found in splits.items()
    }


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *[(name, "train") for name in ("train", "Training", "TRAIN", "train_set", "train2017")],
        *[(name, "test") for name in ("Testing", "test_images", "TEST", "testset", "test1")],
        *[(name, "validation") for name in ("val", "Valid", "dev", "Validation Data", "VAL_SET")],
        *[(name, None) for name in ("trains", "cat", "tests_a", "valley", "développement")],
    ],
)
def test_splits_have_their_usual_names_in_any_case(name: str, role: str | None) -> None:
    assert split_role(name) == role


@pytest.mark.parametrize("names", [("Training", "dev", "Testing"), ("TRAIN", "Valid", "test_set")])
def test_split_folders_are_not_classes(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for name, count in zip(names, (3, 2, 1), strict=True):
        for kind in ("x", "y"):
            photographs(tmp_path / name / kind, count)
    assert labels(tmp_path) == {
        "train": {"x": 3, "y": 3},
        "validation": {"x": 2, "y": 2},
        "test": {"x": 1, "y": 1},
    }


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git"])
@pytest.mark.parametrize("place", ["", "cat", "cat/young"])
def test_hidden_folders_do_not_count(tmp_path: Path, name: str, place: str) -> None:
    for kind in ("cat", "dog"):
        photographs(tmp_path / kind, 2)
    photographs(tmp_path / place / name, 2)
    assert labels(tmp_path) == {"all": {"cat": 2, "dog": 2}}
    assert "skipped 1 hidden item" in label_folder(tmp_path).notes


def test_hidden_images_do_not_count(tmp_path: Path) -> None:
    """On other disks, macOS writes a file ._1.jpg next to each 1.jpg."""
    photograph(tmp_path / "1.jpg")
    (tmp_path / "._1.jpg").write_bytes(b"resource fork")
    (tmp_path / ".DS_Store").write_bytes(b"")
    assert find_images([tmp_path]) == [tmp_path / "1.jpg"]


def test_the_folder_itself_may_be_hidden(tmp_path: Path) -> None:
    photograph(tmp_path / ".data" / "1.png")
    assert len(find_images([tmp_path / ".data"])) == 1


@pytest.mark.parametrize("place", ["runs/first", "first", "cat/first", "results/a/b"])
def test_run_folders_are_known_by_their_recipe(tmp_path: Path, place: str) -> None:
    for kind in ("cat", "dog"):
        photographs(tmp_path / kind, 2)
    photographs(tmp_path / place, 3)
    (tmp_path / place / "recipe.yaml").write_text("")
    assert labels(tmp_path) == {"all": {"cat": 2, "dog": 2}}
    assert f"skipped 1 run folder ({place})" in label_folder(tmp_path).notes


def test_a_class_may_be_called_runs(tmp_path: Path) -> None:
    for kind in ("hits", "runs"):
        photographs(tmp_path / kind, 2)
    assert labels(tmp_path) == {"all": {"hits": 2, "runs": 2}}


def plot(path: Path) -> None:
    """Write a figure as matplotlib does, with its name in the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Figure().savefig(path)


def make_run(folder: Path) -> None:
    photographs(folder, 1)
    (folder / "recipe.yaml").write_text("")


@pytest.mark.parametrize("place", ["runs/first", "results/lenet5/first", "cat/first"])
def test_plots_next_to_run_folders_are_not_data(tmp_path: Path, place: str) -> None:
    for kind in ("cat", "dog"):
        photographs(tmp_path / kind, 2)
    make_run(tmp_path / place)
    plot((tmp_path / place).parent / "maps.png")
    plot(tmp_path / place.partition("/")[0] / "comparison.png")
    assert labels(tmp_path) == {"all": {"cat": 2, "dog": 2}}
    expected = f"skipped 1 run folder ({place}), 2 plots next to run folders"
    assert label_folder(tmp_path).notes == [expected]
    assert len(find_images([tmp_path])) == 4


def test_plots_are_data_where_there_are_no_runs(tmp_path: Path) -> None:
    for kind in ("bars", "lines"):
        plot(tmp_path / kind / "1.png")
    assert labels(tmp_path) == {"all": {"bars": 1, "lines": 1}}


@pytest.mark.parametrize("parent", ["", "train"])
def test_a_few_pictures_next_to_runs_are_not_a_class(tmp_path: Path, parent: str) -> None:
    """`runs` is where training writes by default."""
    for kind in ("cat", "dog"):
        photographs(tmp_path / parent / kind, 3)
    make_run(tmp_path / parent / "runs/first")
    photographs(tmp_path / parent / "runs", 1)
    photographs(tmp_path / parent / "runs/old/figures", 1)
    assert labels(tmp_path) == {parent or "all": {"cat": 3, "dog": 3}}
    assert "not used: 2 images next to run folders in runs" in label_folder(tmp_path).notes


@pytest.mark.parametrize(("name", "count"), [("runs", 3), ("runs", 9), ("results", 2)])
def test_runs_among_photographs_that_may_be_a_class_are_rejected(
    tmp_path: Path, name: str, count: int
) -> None:
    for kind in ("cat", "dog"):
        photographs(tmp_path / kind, 3)
    make_run(tmp_path / name / "first")
    photographs(tmp_path / name, count)
    message = (
        rf"/{name} contains {count} images and 1 run folder \({name}/first\); if it is a class"
    )
    with pytest.raises(ValueError, match=message):
        label_folder(tmp_path)


def test_unlabeled_test_images_are_counted_but_not_used(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        photographs(tmp_path / "train" / kind, 2)
    photographs(tmp_path / "test", 3)
    assert labels(tmp_path) == {"train": {"cat": 2, "dog": 2}}
    assert label_folder(tmp_path).notes == ["not used: 3 images without a class in test"]


def test_images_outside_the_classes_are_counted(tmp_path: Path) -> None:
    for place in ("train/cat", "train/dog", "test/cat", "extra/cat"):
        photographs(tmp_path / place, 2)
    photograph(tmp_path / "plot.png")
    photograph(tmp_path / "train/sheet.png")
    assert label_folder(tmp_path).notes == [
        "not used: 1 image directly in the folder",
        "not used: 1 image without a class in train",
        "not used: 2 images in extra",
    ]


def test_empty_split_folders_are_mentioned(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        photographs(tmp_path / "train" / kind, 2)
    photograph(tmp_path / "train" / "sheet.png")
    (tmp_path / "test").mkdir()
    photographs(tmp_path / "val", 2)
    assert labels(tmp_path) == {"train": {"cat": 2, "dog": 2}}
    assert label_folder(tmp_path).notes == [
        "not used: 1 image without a class in train",
        "not used: 2 images without a class in val",
        "test contains no images",
    ]


def test_folds_are_mentioned(tmp_path: Path) -> None:
    for place in ("fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog"):
        photographs(tmp_path / place, 1)
    assert labels(tmp_path) == {"all": {"fold1": 2, "fold2": 2}}
    assert label_folder(tmp_path).notes == ["all classes contain the same subfolders (cat, dog)"]


def test_among_other_classes_train_is_a_class(tmp_path: Path) -> None:
    for kind in ("bus", "car", "train"):
        photographs(tmp_path / kind, 2)
    assert labels(tmp_path) == {"all": {"bus": 2, "car": 2, "train": 2}}


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (["cat", "dog", "test"], r"both split folders \(test\) and other folders .*\(cat, dog\)"),
        (["cat", "dog", "val/cat"], r"both split folders \(val\) and other folders"),
        (["cat", "dog", "train/cat", "train/dog"], "both split folders"),
        (["train/a", "Training/a", "test/a"], "several folders for the train split"),
        (["train/a", "train/b", "val/a", "dev/a"], "several folders for the validation split"),
        (["train", "test"], "test, train must contain one subfolder of images per class"),
        (["train", "test/a", "test/b"], "train must contain one subfolder of images per class"),
        (["cat/train", "cat/test", "dog/train"], r"mixes classes and splits \(test, train\)"),
        (["cats_train", "cats_test", "dogs_train"], r"\(cats_test, cats_train\); move the images"),
        (["train/a", "train/b", "val", "dev", "test/a"], r"validation split: dev, val; merge"),
        (["seg_train/a", "seg_train/b", "seg_test/a", "seg_test/b"], "seem to be splits"),
        (["seg_train/a", "seg_test/a", "seg_pred/b"], "seem to be splits; rename them to train"),
        (["train/a", "train/b", "new_test/a"], "rename the folders that are splits to train, val"),
        (["train/a", "train/b", "train/val/a"], r"another split folder \(val\); move it next to"),
        (["images", "labels"], "contains images and labels, like a data set of boxes"),
        (["images/train", "images/val", "masks/train"], "contains images and masks, like"),
        (
            ["train/JPEGImages", "train/Annotations"],
            "JPEGImages and Annotations, like a data set of boxes",
        ),
    ],
)
def test_contradictory_folders_are_rejected(
    tmp_path: Path, places: list[str], message: str
) -> None:
    for place in places:
        photographs(tmp_path / place, 2)
    with pytest.raises(ValueError, match=message):
        label_folder(tmp_path)


@pytest.mark.parametrize("parent", ["", "train", "valid"])
def test_images_beside_a_folder_of_boxes_are_not_a_class(tmp_path: Path, parent: str) -> None:
    """YOLO's format: a text file of boxes for each image."""
    photographs(tmp_path / parent / "images", 2)
    (tmp_path / parent / "labels").mkdir()
    (tmp_path / parent / "labels/0.txt").write_text("0 0.5 0.5 0.2 0.2")
    with pytest.raises(ValueError, match=r"images and labels, like a data set of boxes") as error:
        label_folder(tmp_path)
    place = tmp_path / parent
    assert f"use folder:{place}/images" in str(error.value)


@pytest.mark.parametrize(
    "names", [("valid", "invalid"), ("Valid", "not_valid"), ("test", "untest")]
)
def test_a_name_and_its_negation_are_classes(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        photographs(tmp_path / name, 2)
    assert labels(tmp_path) == {"all": dict.fromkeys(sorted(names), 2)}


def test_splits_may_contain_classes_with_names_of_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("valid", "invalid"):
            photographs(tmp_path / split / name, 2)
    expected = {"invalid": 2, "valid": 2}
    assert labels(tmp_path) == {"train": expected, "test": expected}


def test_unlabeled_folders_next_to_a_training_folder_are_not_used(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        photographs(tmp_path / "train" / kind, 2)
    for name in ("predict", "unseen_test", "test"):
        photographs(tmp_path / name, 3)
    assert labels(tmp_path) == {"train": {"cat": 2, "dog": 2}}
    assert label_folder(tmp_path).notes == [
        "not used: 3 images without a class in test",
        "not used: 3 images in predict",
        "not used: 3 images in unseen_test",
    ]


def test_a_folder_in_a_folder_of_the_same_name_is_read(tmp_path: Path) -> None:
    """Archives are often unpacked into a folder of their own name."""
    for kind in ("cat", "dog"):
        photographs(tmp_path / "photos/Photos/Train/train" / kind, 2)
        photographs(tmp_path / "photos/Photos/val/valid" / kind, 1)
    photographs(tmp_path / "photos/Photos/test/test", 3)
    assert labels(tmp_path / "photos") == {
        "train": {"cat": 2, "dog": 2},
        "validation": {"cat": 1, "dog": 1},
    }
    found = label_folder(tmp_path / "photos")
    assert found.names == {"train": "Photos/Train/train", "validation": "Photos/val/valid"}
    assert found.notes == ["not used: 3 images without a class in Photos/test/test"]
    assert labels(tmp_path / "photos/Photos/Train") == {"all": {"cat": 2, "dog": 2}}
    for kind in ("cat", "dog"):
        photographs(tmp_path / "animals/animals" / kind, 2)
    assert labels(tmp_path / "animals") == {"all": {"cat": 2, "dog": 2}}


def test_splits_in_a_folder_of_any_name_are_read(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for kind in ("cat", "dog"):
            photographs(tmp_path / "archive" / split / kind, 2)
    expected = {"cat": 2, "dog": 2}
    assert labels(tmp_path) == {"train": expected, "test": expected}
    assert label_folder(tmp_path).names == {"train": "archive/train", "test": "archive/test"}


def test_empty_folders_of_another_spelling_are_mentioned(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        photographs(tmp_path / "train" / kind, 2)
    (tmp_path / "Training").mkdir()
    assert labels(tmp_path) == {"train": {"cat": 2, "dog": 2}}
    assert label_folder(tmp_path).notes == ["Training contains no images"]


def test_class_names_in_different_encodings_are_one_class(tmp_path: Path) -> None:
    """Copies from macOS may contain decomposed letters."""
    for form in ("NFC", "NFD"):
        photographs(tmp_path / unicodedata.normalize(form, "Käfer"), 2)
    photographs(tmp_path / "Wal", 1)
    assert labels(tmp_path) == {"all": {"Käfer": 4, "Wal": 1}}
    assert label_folder(tmp_path).notes == ["2 folders are named Käfer in different encodings"]


def test_a_class_name_that_is_not_utf_8_is_escaped(tmp_path: Path) -> None:
    photographs(tmp_path / os.fsdecode(b"K\xe4fer"), 2)
    photographs(tmp_path / "Wal", 1)
    assert labels(tmp_path) == {"all": {"K\\xe4fer": 2, "Wal": 1}}


def test_names_are_printable() -> None:
    assert printable(os.fsdecode(b"K\xe4fer\n")) == r"K\xe4fer\n"
    assert printable("Käfer 猫") == "Käfer 猫"


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    photographs(tmp_path / "far", 2)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cat").symlink_to(tmp_path / "far")
    (tmp_path / "far/parent").symlink_to(tmp_path / "data")
    assert len(find_images([tmp_path / "data"])) == 2


def test_folders_without_permission_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("cat", "dog"):
        photographs(tmp_path / kind, 2)
    monkeypatch.setattr(os, "access", lambda path, _: path.name != "dog")  # ignored for root
    with pytest.raises(ValueError, match=r"/dog cannot be read: permission denied; change"):
        scan_folder(tmp_path)


def test_links_to_themselves_are_no_folders(tmp_path: Path) -> None:
    photographs(tmp_path / "cat", 2)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "cat/3.png").symlink_to("3.png")
    scan = scan_folder(tmp_path)
    assert scan.skipped_text() == "skipped 1 without a suffix"
    (broken,) = find_unreadable(scan.images, 3)
    assert "3.png is not a readable image" in broken.reason


def test_a_link_to_a_missing_file_is_found_and_reported(tmp_path: Path) -> None:
    photograph(tmp_path / "1.png")
    (tmp_path / "2.png").symlink_to(tmp_path / "gone.png")
    (broken,) = find_unreadable(find_images([tmp_path]), 3)
    assert "2.png" in broken.name


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_not_opened(tmp_path: Path) -> None:
    photograph(tmp_path / "1.png")
    os.mkfifo(tmp_path / "2.png")
    scan = scan_folder(tmp_path)
    assert scan.images == [tmp_path / "1.png"]
    assert scan.skipped_text() == "skipped 1 special files"


def test_skipped_files_are_counted_by_suffix(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photograph(tmp_path / "1.png")
    for name in ("a.txt", "b.TXT", "c.heic", "README"):
        (tmp_path / name).write_text("")
    with caplog.at_level(logging.WARNING, "cnnarch"):
        assert len(find_images([tmp_path])) == 1
    assert caplog.messages == [f"{tmp_path}: skipped 2 .txt, 1 without a suffix, 1 .heic"]


def test_formats_that_start_other_programs_are_not_read(tmp_path: Path) -> None:
    assert {"JPEG", "PNG", "PPM", "WEBP", "TIFF"} <= set(image_formats())
    assert not {"EPS", "WMF", "MPEG", "GRIB", "HDF5", "BUFR", "IPTC"} & set(image_formats())
    assert {".jfif", ".pgm", ".jpg", ".mpo", ".jp2", ".tga"} <= image_suffixes()
    assert not {".eps", ".ps", ".pdf", ".h5", ".mpg", ".emf"} & image_suffixes()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    disguised = (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is not a readable image: unknown format"):
        read_image(disguised)


def test_formats_of_plugins_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins such as pillow-heif may register their format after the first use."""
    photograph(tmp_path / "1.png").rename(tmp_path / "1.heic")
    assert not scan_folder(tmp_path).images
    monkeypatch.setattr(Image, "ID", [*Image.ID, "HEIF"])
    monkeypatch.setitem(Image.OPEN, "HEIF", Image.OPEN["PNG"])
    monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")
    (path,) = scan_folder(tmp_path).images
    assert read_image(path).shape == (3, 8, 8)


@pytest.mark.parametrize("suffix", sorted({"jfif", "pgm", "jp2", "tga", "pcx", "sgi", "ico"}))
def test_every_raster_format_is_found_and_read(tmp_path: Path, suffix: str) -> None:
    mode = "L" if suffix == "pgm" else "RGB"
    Image.new(mode, (16, 16), "white").save(tmp_path / f"a.{suffix}")
    (path,) = find_images([tmp_path])
    assert read_image(path).min() == 255


def test_16_bit_files_of_8_bit_values_keep_them(tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 1).flatten().tolist() == list(range(256))


def test_16_bit_files_of_12_bit_values_are_rejected(tmp_path: Path) -> None:
    """Only 16 gray levels would remain."""
    Image.fromarray(np.array([[0, 4095]], np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"reach only 4095, so at most 16 gray levels"):
        read_image(tmp_path / "a.png")


def test_16_bit_pgm_files_are_read() -> None:
    """The pixels are the high byte of each big-endian value."""
    file = io.BytesIO(b"P5 2 1 65535\n" + bytes([200, 1, 0, 255]))
    assert decode_image(file, 1).flatten().tolist() == [200, 0]


def test_truncated_files_are_found_without_decoding(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    paths = [tmp_path / name for name in ("a.jpg", "b.jpg", "c.png", "d.png", "e.bmp")]
    for path in paths:
        Image.fromarray(noise).save(path)
    for path in (paths[1], paths[3]):
        path.write_bytes(path.read_bytes()[:-100])
    paths[4].write_bytes(b"junk")
    found = find_unreadable(paths, 3, thorough=False)
    assert [Path(file.name).name for file in found] == ["b.jpg", "d.png", "e.bmp"]
