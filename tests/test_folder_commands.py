"""The commands on folders of images: train, evaluate, predict, check."""

import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cnnarch
from cnnarch.cli import main
from cnnarch.training import read_results
from cnnarch.weights import Preprocessing

TRAIN = ["train", "lenet5", "--num_epochs", "2", "--batch_size", "8", "--grayscale", "true"]


pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture(autouse=True)
def _in_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def photographs(
    folder: str, count: int, first: int = 0, kinds: tuple[str, ...] = ("cat", "dog")
) -> None:
    """Write images that all differ; cats are dark and dogs are bright."""
    for kind in kinds:
        Path(folder, kind).mkdir(parents=True, exist_ok=True)
        for i in range(first, first + count):
            noise = np.random.default_rng([i, len(kind), *os.fsencode(kind)]).integers(
                0, 99, (32, 32)
            )
            pixels = (noise + 150 * (kind == "dog")).astype("uint8")
            Image.fromarray(pixels).save(Path(folder, kind, f"{kind}{i}.png"))


def accuracies(out: str) -> list[str]:
    """Return the number of images and the accuracies of an evaluation."""
    return [line for line in out.splitlines() if "accuracy, " in line or "test images" in line]


def failure(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the error message of a command that fails with status 2."""
    assert main(words) == 2
    return capsys.readouterr().err.splitlines()[-1]


def save_small(folder: str) -> cnnarch.ImageClassifier:
    model = cnnarch.lenet5()
    model.preprocessing = Preprocessing(32, 32, mean=(0.5,), std=(0.25,))
    model.save_pretrained(folder)
    return model


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Train a network on the folder `photos`, and return the lines of its evaluation."""
    photographs("photos", 10)
    assert main([*TRAIN, "--data", "folder:photos", "--output", "run"]) == 0
    return accuracies(capsys.readouterr().out)[1:]


def test_train_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    for split, count in (("Train", 8), ("Val", 3), ("Test", 2)):
        photographs(f"photos/{split}", count)
    Path("photos/Train/cat/notes.txt").write_text("")
    assert main([*TRAIN, "--data", "folder:photos", "--output", "photos/first"]) == 0
    expected = (
        "photos: 2 classes (cat, dog): 16 training images (in Train), 4 test images (in Test), "
        "6 validation images (in Val); skipped 1 .txt"
    )
    assert capsys.readouterr().err.splitlines()[0] == expected
    assert read_results("photos/first")["test_images"] == 4
    assert main(["evaluate", "photos/first"]) == 0  # the run's pictures are not data
    assert "skipped 1 .txt, 1 run folder (first)" in capsys.readouterr().err


def test_moved_data_has_the_same_accuracy(
    run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photos").rename("moved")
    assert main(["evaluate", "run", "--data", "folder:moved"]) == 0
    captured = capsys.readouterr()
    assert accuracies(captured.out) == run
    assert run[0] == "4 test images"
    assert "left out 16 of 20 images" in captured.err
    line = failure(capsys, "evaluate", "run")
    assert "photos does not exist; if it has moved, pass its new path with --data" in line


@pytest.mark.usefixtures("run")
def test_a_folder_of_the_same_name_is_not_the_trained_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.rmtree("photos")
    photographs("photos", 10, first=50)
    assert main(["evaluate", "run"]) == 0
    assert accuracies(capsys.readouterr().out)[0] == "20 test images"
    line = failure(capsys, *TRAIN, "--data", "folder:photos", "--output", "run", "--resume")
    assert "the run in run has other images than folder:photos: 20 missing" in line


def test_evaluate_works_from_any_working_directory(
    run: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert main(["evaluate", "../run"]) == 0
    assert accuracies(capsys.readouterr().out) == run
    monkeypatch.chdir(tmp_path / "run")
    assert main(["evaluate", "."]) == 0
    assert accuracies(capsys.readouterr().out) == run


def test_images_added_after_training_are_evaluated_too(
    run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    photographs("photos", 3, first=70)
    assert main(["evaluate", "run"]) == 0
    captured = capsys.readouterr()
    assert accuracies(captured.out)[0] == "10 test images"
    assert "left out 16 of 26 images" in captured.err
    assert "10 remain; 4 of them are among the 4 test images" in captured.err
    assert run[0] == "4 test images"


@pytest.mark.usefixtures("run")
def test_new_images_may_be_in_a_test_folder_or_lack_classes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    photographs("new/test", 3, first=50)
    assert main(["evaluate", "run", "--data", "folder:new"]) == 0
    assert accuracies(capsys.readouterr().out)[0] == "6 test images"
    photographs("one", 3, first=50, kinds=("dog",))
    Path("one/cat").mkdir()
    assert main(["evaluate", "run", "--data", "folder:one"]) == 0
    lines = accuracies(capsys.readouterr().out)
    assert lines[0] == "3 test images"
    assert lines[1].split() == ["accuracy,", "cat"]
    assert lines[2].split()[2] == lines[3].split()[3]  # dogs are all images
    photographs("other", 3, first=50, kinds=("cow", "dog"))
    line = failure(capsys, "evaluate", "run", "--data", "folder:other")
    assert "among the network's classes: cow; these are cat, dog" in line


@pytest.mark.usefixtures("run")
def test_metrics_on_training_images_are_announced(capsys: pytest.CaptureFixture[str]) -> None:
    trained = [row.split(",")[1] for row in Path("run/files.csv").read_text().splitlines()]
    for name in trained[1:4]:
        target = Path("copy", name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path("photos", name), target)
    assert main(["evaluate", "run", "--data", "folder:copy"]) == 0
    assert "all 3 images were used for training or validation" in capsys.readouterr().err


@pytest.mark.usefixtures("run")
def test_a_run_without_a_record_holds_out_a_fifth_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Earlier versions wrote no record."""
    Path("run/files.csv").unlink()
    assert main(["evaluate", "run"]) == 0
    captured = capsys.readouterr()
    assert accuracies(captured.out)[0] == "4 test images"
    assert "run does not record the images that it was trained on" in captured.err


@pytest.mark.usefixtures("run")
def test_draw_shows_the_images_of_a_split(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = []

    def draw(images: object, **_: object) -> object:
        drawn.append(len(images))  # type: ignore[arg-type]
        return cnnarch.viz.diagram(cnnarch.lenet5())

    monkeypatch.setattr(cnnarch.viz, "data_grid", draw)
    for split in ("train", "test"):
        assert main(["draw", "data_grid", "--model", "run", "--split", split]) == 0
    assert drawn == [16, 4]
    capsys.readouterr()


def test_an_interrupted_job_resumes_at_a_new_path(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs("job1", 10)
    words = [*TRAIN, "--data", "folder:job1", "--output"]
    assert main([*words, "whole"]) == 0

    def die(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise OSError("the job ends")

    with monkeypatch.context() as patch:
        patch.setattr("cnnarch.cli.training._epoch_line", die)
        assert "the job ends" in failure(capsys, *words, "run")
    Path("job1").rename("job2")
    words[words.index("folder:job1")] = "folder:job2"
    assert main([*words, "run", "--resume"]) == 0
    models = [cnnarch.from_pretrained(name).state_dict() for name in ("whole", "run")]
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    assert read_results("run")["data"] == "folder:job2"


def test_resume_says_that_it_starts_a_new_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without --output, the run folder is named after the data folder."""
    photographs("job1", 10)

    def die(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise OSError("the job ends")

    with monkeypatch.context() as patch:
        patch.setattr("cnnarch.cli.training._epoch_line", die)
        assert main([*TRAIN, "--data", "folder:job1"]) == 2
    Path("job1").rename("job2")
    assert main([*TRAIN, "--data", "folder:job2", "--resume"]) == 0
    (message,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert message == (
        "there is no run to resume in runs/lenet5-folder-job2, so a new run starts there; to "
        "resume an unfinished run (in runs: lenet5-folder-job1), stop this one and pass its "
        "folder with --output"
    )


def test_unreadable_files_are_named_or_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    photographs("photos", 10)
    broken = [f"photos/cat/cat{i}.png" for i in (1, 5)]
    for path in broken:
        Path(path).write_bytes(b"junk")
    words = [*TRAIN, "--data", "folder:photos", "--output", "run"]
    line = failure(capsys, *words)
    assert line.startswith("cnnarch: 2 of 20 files cannot be read")
    assert all(path in line for path in broken)
    assert not Path("run").exists()
    assert main([*words, "--skip_unreadable"]) == 0
    assert "2 of 20 files" in failure(capsys, "evaluate", "run")
    assert main(["evaluate", "run", "--skip_unreadable"]) == 0
    assert main([*words, "--skip_unreadable", "--resume"]) == 0


def test_check_names_unreadable_and_byte_equal_files(capsys: pytest.CaptureFixture[str]) -> None:
    for split, first in (("train", 0), ("Test", 50)):
        photographs(f"photos/{split}", 4, first)
    assert main(["check", "photos"]) == 0
    out = capsys.readouterr().out
    assert "train split, in train: 8 images of 2 classes (cat 4, dog 4)" in out
    assert "8 images of 2 classes" in out
    assert out.splitlines()[-1] == "16 images, 0 of them cannot be read"
    shutil.copy("photos/train/cat/cat1.png", "photos/Test/dog/same.png")
    for name in ("train/cat/cat2.png", "Test/dog/dog51.png"):
        Path("photos", name).write_bytes(b"junk")
    assert main(["check", "folder:photos"]) == 1
    captured = capsys.readouterr()
    equal = [line for line in captured.out.splitlines() if "byte-equal" in line]
    assert equal == ["byte-equal: photos/train/cat/cat1.png and photos/Test/dog/same.png"]
    assert re.findall(r"cnnarch: (\S+) is not", captured.err) == [
        "photos/Test/dog/dog51.png",
        "photos/train/cat/cat2.png",
    ]
    assert captured.out.splitlines()[-1] == "17 images, 2 of them cannot be read"


def test_check_accepts_a_folder_without_classes_and_rejects_contradictions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    photographs("photos", 2, kinds=("cat",))
    Path("photos/cat/notes.txt").write_text("")
    assert main(["check", "photos/cat"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "skipped 1 .txt",
        "2 images, 0 of them cannot be read",
    ]
    photographs("photos/test", 2)
    assert "contains both split folders" in failure(capsys, "check", "photos")
    assert "gone does not exist" in failure(capsys, "check", "gone")


def test_folders_and_classes_with_any_name_are_trained_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = os.fsdecode(b"K\xe4fig")
    photographs(place, 10, kinds=("cat", os.fsdecode(b"K\xe4fer")))
    words = [*TRAIN, "--data", f"folder:{place}", "--output", os.fsdecode(b"L\xe4ufe")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert r"accuracy, K\xe4fer" in out
    run = Path(os.fsdecode(b"L\xe4ufe"))
    assert cnnarch.from_pretrained(run.rename("run")).categories == (r"K\xe4fer", "cat")
    assert main(["evaluate", "run"]) == 0
    capsys.readouterr()
    with (tmp_path / "out.txt").open("w", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdout", file)
        assert main(["predict", "--model", "run", place]) == 0
    lines = Path("out.txt").read_text().splitlines()
    assert len(lines) == 1 + 20
    assert sum(r"K\udce4f" in line for line in lines) == 20


def test_predict_and_embed_count_skipped_files(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    photographs("photos", 1)
    for name in ("a.txt", "b.heic"):
        Path("photos/cat", name).write_text("")
    model = save_small("saved")
    assert main(["predict", "--model", "saved", "photos"]) == 0
    assert capsys.readouterr().err.splitlines() == ["photos: skipped 1 .txt, 1 .heic"]
    caplog.clear()
    assert len(cnnarch.embed(model, "photos").features) == 2
    assert len(cnnarch.inference.Predictor(model)("photos")) == 2
    assert caplog.messages == ["photos: skipped 1 .txt, 1 .heic"] * 2


def test_flags_without_effect_are_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    photographs("photos", 2)
    save_small("saved")
    photo = "photos/cat/cat1.png"
    for words, message in (
        (["predict", "--model", "saved", photo, "--data_root", "x"], "--data_root cannot be used"),
        (
            ["predict", "--model", "saved", photo, "--weights", "V1"],
            "saved is a saved network with",
        ),
        (["evaluate", "saved", "--weights", "V1", "--data", "digits"], "with its own weights"),
        (["draw", "data_grid", photo, "--data_root", "x"], "--data_root cannot be used"),
        (["draw", "data_grid", photo, "--model", "saved"], "--model cannot be used"),
        (
            ["draw", "filters", "--model", "saved", "--split", "train"],
            "no images, so --split",
        ),
        (["draw", "diagram", "--model", "saved", "--data", "digits"], "no images, so --data"),
        (["draw", "diagram", "--model", "resnet18", "--weights", "V1"], "so --weights cannot"),
        ([*TRAIN, "--data", "folder:photos", "--resume", "--overwrite"], "resume or overwrite"),
        ([*TRAIN, "--data", "folder:photos", "--data_root", "x"], "in the path: folder:x/photos"),
        (["draw", "data_grid", "--data", "folder:photos", "--data_root", "x"], "folder:x/photos"),
    ):
        assert message in failure(capsys, *words)


def test_predict_and_draw_skip_unreadable_files(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs("photos", 10)
    save_small("saved")
    words = ["predict", "--model", "saved", "photos"]
    Path("photos/cat/cat3.png").write_bytes(b"junk")
    assert main(words) == 1
    assert main([*words, "--skip_unreadable"]) == 0
    assert "cat3.png is not a readable image" in capsys.readouterr().err
    shown = []

    def draw(images: object, **_: object) -> object:
        shown.append(len(images))  # type: ignore[arg-type]
        return cnnarch.viz.diagram(cnnarch.lenet5())

    monkeypatch.setattr(cnnarch.viz, "data_grid", draw)
    for data in (["photos"], ["--data", "folder:photos", "--split", "train"]):
        assert main(["draw", "data_grid", *data, "--skip_unreadable"]) == 0
        assert "cat3.png is not a readable image" in capsys.readouterr().err
    assert shown == [19, 15]  # of ten cats, two are test images; one of the others is broken
    assert "1 of 20 files" in failure(capsys, "draw", "data_grid", "--data", "folder:photos")


def test_a_data_set_called_like_a_folder_suggests_the_folder(
    capsys: pytest.CaptureFixture[str],
) -> None:
    photographs("photos", 2)
    assert "did you mean folder:photos?" in failure(capsys, *TRAIN, "--data", "photos")


def animate(path: str) -> None:
    frames = [Image.new("L", (8, 8), 40 * i) for i in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def test_files_of_several_images_are_counted(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    photographs("photos", 10)
    for suffix in ("tif", "gif", "png", "webp"):
        animate(f"photos/cat/moving.{suffix}")
    Image.new("L", (8, 8)).save("photos/cat/single.tif")
    expected = "only the first page or frame is used of 4 files with several, for example {}"
    line = expected.format("photos/cat/moving.gif")
    assert main(["check", "photos"]) == 0
    assert capsys.readouterr().out.splitlines()[-2] == line
    assert main([*TRAIN, "--data", "folder:photos", "--output", "run"]) == 0
    assert capsys.readouterr().err.splitlines()[0].endswith(f"(held out); {line}")
    caplog.clear()
    assert main(["predict", "--model", "run", "photos"]) == 0
    model = cnnarch.from_pretrained("run")
    cnnarch.embed(model, "photos")
    cnnarch.inference.Predictor(model)(["photos/cat", "photos/cat/cat1.png"])
    assert caplog.messages == [line] * 3


@pytest.mark.usefixtures("run")
def test_a_runs_folder_can_be_passed_as_weights_by_its_name() -> None:
    words = [*TRAIN, "--data", "folder:photos", "--learning_rate", "0", "--output", "second"]
    assert main([*words, "--weights", "run"]) == 0
    first, second = (cnnarch.from_pretrained(name) for name in ("run", "second"))
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    again = cnnarch.lenet5(weights="run", num_classes=2)
    assert torch.equal(next(again.parameters()), next(first.parameters()))
