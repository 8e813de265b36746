"""The command line: its output, files and errors."""

import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

import cnnarch
from cnnarch.cli import main
from cnnarch.cli.models import show_evaluation
from cnnarch.cli.pictures import PICTURES
from cnnarch.cli.training import TrainingCommand
from cnnarch.facts.sheets import aliases
from cnnarch.training import evaluate, load_data
from cnnarch.training.run import default_folder
from cnnarch.weights import Preprocessing
from tests.forks import ForkResult, Forks

QUICK = ["--num_epochs", "1", "--image_resolution", "32"]


@pytest.fixture(autouse=True)
def _in_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def failure(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the error message of a command that must print one line and exit with status 2."""
    assert main(words) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("cnnarch: ")
    return line


# --- cards ---


def test_list_names_every_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == cnnarch.list_models()


def test_list_accepts_a_wildcard_and_a_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "resnet*0", "--family", "resnet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["resnet50"]
    assert "25,557,032" in lines[1]


def test_list_accepts_limits_with_units(capsys: pytest.CaptureFixture[str]) -> None:
    """VGG-11 and VGG-13 have 7.61 G and 11.31 G multiply-adds."""
    for limit in ("11.4G", "11.4B", "1.14e10", "11400M"):
        words = ["list", "vgg*", "--max_macs", limit, "--min_top1", "70"]
        assert main([*words, "--sort", "macs"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines[1:]] == ["vgg11_bn", "vgg13_bn"]


def test_list_explains_an_empty_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--family", "lenet", "--max_params", "25"]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1
    assert printed.err.startswith("the networks have at least ")


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("no_net", "try '*no_net*' or --family"),
        ("no_net*", "try '*no_net*' or --family"),
        ("*no_net*", "try --family"),
    ],
)
def test_list_suggests_a_wider_pattern(
    pattern: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", pattern]) == 0
    error = f"cnnarch: no network is called {pattern!r}; {hint}\n"
    assert capsys.readouterr().err == error


def test_info_prints_reported_values_alongside_measured_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["info", "resnet50"]) == 0
    out = capsys.readouterr().out
    assert "Deep Residual Learning for Image Recognition" in out
    assert "arxiv.org/abs/1512.03385" in out
    (line,) = [x for x in out.splitlines() if "3.8B (Table 1)" in x]
    assert "3,857,973,248" in line
    assert "agrees" in line
    assert "25,557,032" in out


def test_info_marks_unconfirmed_values_and_explains_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["info", "gmlp_b16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (macs,) = [line for line in lines if "31.6B" in line]
    assert "not confirmed. The FLOPs count multiplications and additions separately" in macs
    (error,) = [line for line in lines if "18.4 (" in line]
    assert error.endswith("not confirmed")


def test_info_accepts_the_name_of_a_family(capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", "lenet"])
    assert capsys.readouterr().out.startswith("lenet5")


def test_verify_checks_cards_against_their_networks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "lenet5", "resnet18"]) == 0
    out = capsys.readouterr().out
    assert "2 networks" in out
    assert "all correct" in out


@pytest.mark.parametrize("figure", ["params", "macs"])
def test_verify_finds_a_wrong_card(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, figure: str
) -> None:
    from dataclasses import replace

    card = cnnarch.get_card("lenet5")
    wrong_form = card.form._replace(**{figure: getattr(card, figure) + 1})
    wrong = replace(card, form=wrong_form)
    monkeypatch.setattr(cnnarch, "get_card", lambda _name: wrong)
    assert main(["verify", "lenet5"]) == 1
    out = capsys.readouterr().out
    assert f"the card says {getattr(card, figure) + 1:,}" in out
    assert "wrong cards: lenet5" in out


@pytest.mark.slow
def test_verify_checks_all_cards(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify"]) == 0
    assert "all correct" in capsys.readouterr().out


def test_aliases_refer_to_networks() -> None:
    assert set(aliases().values()) <= set(cnnarch.list_models())
    wanted = (
        "resnet vgg googlenet densenet senet mobilenet efficientnet mixer nin alexnet lenet cnn"
    )
    assert set(wanted.split()) <= set(aliases())


def test_family_names_work_only_on_the_command_line() -> None:
    with pytest.raises(ValueError, match="no network 'resnet'"):
        cnnarch.get_model("resnet")


# --- export ---


def test_export_writes_a_file_and_prints_its_path(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "lenet5", "--output", "net.onnx", "--half", "--opset", "19"]
    assert main(words) == 0
    assert capsys.readouterr().out == "net.onnx\n"
    assert Path("net.onnx").stat().st_size > 100_000  # 61,706 parameters of two bytes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--output", "net.onnx", "--opset", "11"), "with opset 11"),
        (("--output", "net.xml", "--half"), "half is an option of ONNX files"),
        (("--output", "net.onnx", "--opset", "x"), "invalid int value"),
        (("--output", "missing/net.onnx"), "does not exist"),
        (("--output", "net.onnx", "--half", "--tolerance", "1e-9"), "outputs differ"),
        ((), "required: --output"),
    ],
)
def test_export_prints_errors_on_one_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert message in failure(capsys, "export", "lenet5", *words)
    assert not [*Path().iterdir()]


# --- training ---


def test_a_trained_network_can_be_evaluated_and_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "lenet", "--data", "digits", "--output", "run", "--num_epochs=2"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "61,706 parameters" in out
    assert "epoch   2" in out
    assert "360 test images" in out
    assert "accuracy, all classes" in out

    assert main(["evaluate", "run"]) == 0
    again = capsys.readouterr().out
    accuracy = [line for line in out.splitlines() if "all classes" in line]
    assert accuracy == [line for line in again.splitlines() if "all classes" in line]

    assert main(["predict", "--model", "run", "--data", "digits"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 11

    for i in range(2):
        Image.new("L", (20, 30), 40 * i).save(tmp_path / f"{i}.png")
    assert main(["predict", "--model", "run", "0.png", "1.png", "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["0.png", "1.png"]
    assert lines[1].count("%") == 2


def photographs(place: str, count: int, first: int = 0) -> None:
    """Create gray images of two classes, with the shades first, first + 1, ..."""
    for shade, name in enumerate(("cat", "dog")):
        folder = Path(place) / name
        folder.mkdir(parents=True)
        for i in range(first, first + count):
            Image.new("L", (32, 32), 100 * shade + i).save(folder / f"{i}.png")


def evaluated_images(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the number and kind of images stated in the heading of an evaluation."""
    assert main(["evaluate", *words]) == 0
    return capsys.readouterr().out.partition("images")[0].strip()


@pytest.mark.usefixtures("without_pictures")
def test_evaluate_uses_held_out_images_from_the_training_folder_and_all_images_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs("photos", 10)
    photographs("new", 5, first=20)
    for part, count, first in (("train", 4, 30), ("test", 3, 40)):
        photographs(f"split/{part}", count, first)
    words = ["train", "lenet5", *QUICK, "--grayscale", "true", "--data", "folder:photos"]
    assert main([*words, "--output", "run"]) == 0
    capsys.readouterr()
    assert evaluated_images(capsys, "run") == "4 test"  # a fifth of twenty
    for name in ("photos", "./photos/", str(tmp_path / "photos")):
        assert evaluated_images(capsys, "run", "--data", f"folder:{name}") == "4 test"
    assert evaluated_images(capsys, "run", "--data", "folder:new") == "10 test"
    assert evaluated_images(capsys, "run", "--data", "folder:split") == "6 test"
    assert main(["predict", "--model", "run", "--data", "folder:new"]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert len(rows) == 10
    assert all(Path(row.partition(":")[0]).is_file() for row in rows)  # PATH: LABEL
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    run, photos = str(tmp_path / "run"), f"folder:{tmp_path / 'photos'}"
    assert evaluated_images(capsys, run, "--data", photos) == "4 test"


def test_predict_lists_unreadable_files_and_returns_status_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = cnnarch.lenet5()
    model.preprocessing = Preprocessing(32, 32, mean=(0.5,), std=(0.25,))
    model.save_pretrained("saved")
    Path("photos").mkdir()
    Image.new("L", (20, 30), 90).save("photos/a.png")
    Path("photos/b.png").write_bytes(b"no image")
    assert main(["predict", "--model", "saved", "photos"]) == 1
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()[1:]] == ["photos/a.png"]
    assert captured.out.splitlines()[1].count("%") == 3
    (line,) = captured.err.splitlines()
    assert line.startswith("cnnarch: photos/b.png is not a readable image: ")
    assert main(["predict", "--model", "saved", "photos/b.png"]) == 1
    assert capsys.readouterr().out == ""  # no empty table
    for top in ("0", "11"):
        line = failure(capsys, "predict", "--model", "saved", "photos", "--top", top)
        assert f"--top must be from 1 to 10, the number of classes, got {top}" in line
    assert "photos/gone.png" in failure(capsys, "predict", "--model", "saved", "photos/gone.png")


@pytest.mark.parametrize("options", [(), ("--multi_label",)])
def test_predict_names_an_image_with_nan_logits(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    model = cnnarch.lenet5()
    model.head.classifier.bias.data[3] = float("nan")
    model.preprocessing = Preprocessing(32, 32, mean=(0.5,), std=(0.25,))
    model.save_pretrained("saved")
    Image.new("L", (20, 30), 90).save("a.png")
    line = failure(capsys, "predict", "--model", "saved", "a.png", *options)
    assert "a.png: the network's logits contain NaN" in line


def test_an_unfinished_run_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    Path("run/recipe.yaml").write_text("model: lenet5")
    for words in (["evaluate", "run"], ["draw", "filters", "--model", "run"]):
        assert "the run in run is not finished; resume it with" in failure(capsys, *words)


@pytest.mark.usefixtures("without_pictures")
def test_train_resumes_overwrites_or_rejects_an_existing_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["train", "lenet5", *QUICK]
    assert main(words) == 0
    folder = Path("runs/lenet5-digits")
    first = (folder / "results.json").stat().st_mtime_ns
    assert main([*words, "--resume"]) == 0
    assert (folder / "results.json").stat().st_mtime_ns == first
    assert main([*words, "--overwrite"]) == 0
    assert (folder / "results.json").stat().st_mtime_ns > first
    capsys.readouterr()
    assert "contains a run" in failure(capsys, *words)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--data", "mnist", "--data_root", "nothing"],
        ["--optimizer", "sgd", "--nesterov", "true", "--momentum", "0"],
        ["--model_options", "{tanh: true}"],
        ["--accelerator", "tpu"],
        ["--then", "[{freeze: conv9}]"],
    ],
)
def test_an_error_neither_creates_nor_overwrites_a_run(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "lenet5", *QUICK, "--output", "run"]
    failure(capsys, *words, *wrong)
    assert not Path("run").exists()
    Path("run").mkdir()
    Path("run/recipe.yaml").write_text("model: lenet5\n")
    Path("run/report.html").write_text("weeks of work")
    failure(capsys, *words, *wrong, "--overwrite")
    assert Path("run/report.html").read_text() == "weeks of work"


def test_other_files_are_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text("model: lenet5\n")
    Path("thesis.tex").write_text("years of work")
    line = failure(capsys, "train", "lenet5", *QUICK, "--output", ".", "--overwrite")
    assert "contains a file that does not belong to the run: thesis.tex" in line
    assert Path("thesis.tex").read_text() == "years of work"


def test_num_epochs_overrides_a_recipes_steps() -> None:
    def steps(*more: str) -> int | None:
        words = ["resnet20_cifar", "--recipe", "resnet-cifar", *more]
        found: int | None = TrainingCommand("train", words).options("resnet20_cifar").num_steps
        return found

    assert steps() == 64_000
    assert steps("--num_epochs", "1") is None
    assert steps("--num_epochs=10") is None
    assert steps("--num_epochs", "1", "--num_steps", "7") == 7


def test_flags_override_a_file_in_any_order() -> None:
    """--num_epochs also overrides num_steps in the file."""
    Path("mine.yaml").write_text("num_steps: 64000\nnum_epochs: 9\nbatch_size: 64\n")
    flags = ["--batch_size", "48", "--num_epochs=1"]
    for file in (["--config", "mine.yaml"], ["--config=mine.yaml"]):
        for words in ([*file, *flags], [*flags, *file], [*flags[:2], *file, *flags[2:]]):
            options = TrainingCommand("train", ["lenet5", *words]).options("lenet5")
            found = (options.batch_size, options.num_epochs, options.num_steps)
            assert found == (48, 1, None)
    assert TrainingCommand("train", ["lenet5", *file]).options("lenet5").num_steps == 64_000
    words = ["lenet5", *flags, "--num_steps", "7", *file]
    assert TrainingCommand("train", words).options("lenet5").num_steps == 7


@pytest.mark.usefixtures("without_pictures")
def test_images_in_a_folder_are_resized_only_once_in_training_and_evaluation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """LeNet-5 uses 32 pixels; resizing to 224 first and then to 32 would change the images."""
    generator = torch.Generator().manual_seed(0)
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        for i in range(20):
            pixels = torch.randint(0, 256, (90, 60), dtype=torch.uint8, generator=generator)
            Image.fromarray(pixels.numpy()).save(f"photos/{name}/{i}.png")
    words = ["train", "lenet5", "--data", "folder:photos", "--num_epochs", "1", "--output", "run"]
    assert main(words) == 0
    found = json.loads(Path("run/results.json").read_text())["test"]["loss"]
    capsys.readouterr()
    assert main(["evaluate", "run"]) == 0
    assert f"{found:.4f}" in capsys.readouterr().out


@pytest.mark.usefixtures("without_pictures")
def test_images_in_a_folder_are_resized_to_the_networks_input_size() -> None:
    """At 224 pixels, a network for CIFAR-10 would take 49 times as long."""
    photographs("photos", 4)
    words = ["train", "resnet20_cifar", "--num_steps", "1", "--data", "folder:photos", "--output"]
    for output, flags, side in (("own", [], 32), ("named", ["--image_resolution", "40"], 40)):
        assert main([*words, output, *flags]) == 0
        preprocessing = cnnarch.from_pretrained(output).preprocessing
        assert preprocessing is not None
        assert preprocessing.crop_size == side


def test_a_class_without_images_has_no_accuracy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = load_data("digits", image_resolution=32)
    ones = data.test.subset((data.test.labels == 1).nonzero().flatten())
    show_evaluation(evaluate(cnnarch.lenet5().eval(), ones).figures())
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[2:] for row in rows if "accuracy, 2" in row] == [[]]
    assert [row.split()[2][-1] for row in rows if "accuracy, 1" in row] == ["%"]


def image_size(picture: str) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


@pytest.mark.usefixtures("without_pictures")
def test_draw_creates_every_plot_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "lenet5", *QUICK, "--output", "run"]) == 0
    for picture in PICTURES:
        assert main(["draw", picture, "--model", "run"]) == 0
        assert min(image_size(f"{picture}.png")) > 100
    words = ["draw", "predictions", "--model", "run", "--split", "train"]
    assert main([*words, "--rows", "2", "--columns", "3", "--output", "few.png"]) == 0
    assert image_size("few.png") < image_size("predictions.png")
    words = ["draw", "feature_maps", "--model", "run", "--output", "maps.png", "--layers"]
    assert main([*words, "C1", "stages.1"]) == 0
    words[-1:] = []
    line = failure(capsys, *words, "--layers", "C1", "stages.7")
    assert "there is no layer 'stages.7'; did you mean 'stages." in line
    line = failure(capsys, "draw", "diagram", "--model", "run", "--rows", "2")
    assert line == "cnnarch: diagram does not accept --rows; it accepts no options"
    line = failure(capsys, "draw", "embeddings", "--model", "run", "--layer", "stem")
    assert line.endswith("embeddings does not accept --layer; it accepts --method, --num_samples")
    line = failure(capsys, "draw", "embeddings", "--model", "run", "--method", "mds")
    assert "method must be one of 'tsne', 'pca', 'umap', got 'mds'" in line
    line = failure(capsys, "draw", "data_grid", "--data", "digits", "--rows", "0")
    assert "must be a positive integer, got '0'" in line


def test_draw_explains_a_photograph(capsys: pytest.CaptureFixture[str]) -> None:
    model = cnnarch.resnet20_cifar(num_classes=2)
    model.preprocessing = Preprocessing(32, 32)
    model.save_pretrained("saved")
    Image.new("RGB", (50, 40), (200, 90, 9)).save("photo.jpg")
    for words in (
        ["draw", "gradcam", "photo.jpg", "--model", "saved"],
        ["draw", "integrated_gradients", "--model", "saved", "photo.jpg"],
        ["draw", "gradcam", "photo.jpg", "--model", "saved", "photo.jpg", "--layer", "16x16"],
        ["draw", "data_grid", "photo.jpg"],
    ):
        assert main([*words, "--output", "out.png"]) == 0
        assert min(image_size("out.png")) > 100
        Path("out.png").unlink()
    capsys.readouterr()
    words = ["--model", "saved", "photo.jpg"]
    assert "filters shows no images, got photo.jpg" in failure(capsys, "draw", "filters", *words)
    line = failure(capsys, "draw", "gradcam", *words, "--data", "digits")
    assert "specify either image files, or a data set" in line
    assert "unrecognized arguments: --top" in failure(capsys, "draw", "gradcam", *words, "--top")
    assert "gone.png" in failure(capsys, "draw", "gradcam", "gone.png", "--model", "saved")


def test_draw_needs_no_run_for_a_diagram_or_a_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draw", "diagram", "--model", "resnet", "--output", "net.png"]) == 0
    assert main(["draw", "data_grid", "--data", "digits", "--output", "digits.png"]) == 0
    assert capsys.readouterr().out.split() == ["net.png", "digits.png"]
    assert "specify a data set with --data" in failure(capsys, "draw", "data_grid")
    assert "specify the network with --model" in failure(capsys, "draw", "filters")


@pytest.mark.parametrize(
    ("data", "folder"),
    [
        ("cifar10", "runs/lenet5-cifar10"),
        ("folder:../../photos", "runs/lenet5-folder-photos"),
        ("folder:/home/me/my photos/", "runs/lenet5-folder-home-me-my-photos"),
    ],
)
def test_the_default_folder_is_inside_runs(data: str, folder: str) -> None:
    assert default_folder("lenet5", data) == Path(folder)


def test_ctrl_c_prints_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("cnnarch.cli.run_train", interrupted)
    assert main(["train", "lenet5"]) == 130
    assert capsys.readouterr().err == "cnnarch: stopped\n"


@pytest.mark.usefixtures("without_pictures")
def test_flags_override_the_file_and_the_file_overrides_the_recipe() -> None:
    Path("mine.yaml").write_text("learning_rate: 1e-3\nnum_epochs: 1\nbatch_size: 64\n")
    words = ["train", "lenet5", "--config", "mine.yaml", "--batch_size", "48", "--output", "run"]
    assert main(words) == 0
    written = yaml.safe_load(Path("run/recipe.yaml").read_text())
    assert (written["learning_rate"], written["num_epochs"]) == (0.001, 1)  # from the file
    assert written["batch_size"] == 48  # from the command line
    assert written["optimizer"] == "adam"  # from the recipe lenet-digits


@pytest.mark.usefixtures("without_pictures")
def test_a_run_can_be_repeated_from_its_recipe_file() -> None:
    assert main(["train", "lenet5", *QUICK, "--seed", "3", "--output", "a"]) == 0
    assert main(["train", "--config", "a/recipe.yaml", "--output", "b"]) == 0
    models = [cnnarch.from_pretrained(name).state_dict() for name in ("a", "b")]
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])


def test_print_config_prints_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "lenet5", "--data", "digits", "--momentum", "0.7", "--print_config"])
    assert stopped.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    from cnnarch.training import Recipe

    assert set(printed) > set(Recipe.__dataclass_fields__)
    assert (printed["momentum"], printed["optimizer"]) == (0.7, "adam")


@pytest.mark.usefixtures("without_pictures")
def test_model_options_reach_the_network() -> None:
    words = ["train", "lenet5", *QUICK, "--model_options", "{activation: relu, pool: max}"]
    assert main([*words, "--output", "run"]) == 0
    assert cnnarch.from_pretrained("run").options["activation"] == "relu"


@pytest.mark.usefixtures("without_pictures")
def test_grayscale_sets_the_number_of_channels() -> None:
    assert main(["train", "lenet5", *QUICK, "--grayscale", "false", "--output", "run"]) == 0
    assert cnnarch.from_pretrained("run").in_channels == 3


@pytest.mark.usefixtures("without_pictures")
def test_init_sets_the_initialization_rule() -> None:
    words = ["train", "lenet5", *QUICK, "--init", "orthogonal", "--learning_rate", "0"]
    assert main([*words, "--output", "run"]) == 0
    weight = cnnarch.from_pretrained("run").get_submodule("head.classifier").weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(10), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("without_pictures")
def test_a_lightning_logger_receives_the_metrics_of_each_epoch() -> None:
    words = ["--logger", "CSVLogger", "--logger.save_dir", "logs", "--num_epochs", "2"]
    assert main(["train", "lenet5", *QUICK, *words, "--output", "run"]) == 0
    (logged,), kept = Path("logs").rglob("metrics.csv"), Path("run/metrics.csv")
    for figure in ("train_loss", "val_acc"):
        columns = []
        for path in (logged, kept):
            with path.open(newline="") as file:
                found = [row[figure] for row in csv.DictReader(file)]
            columns.append([float(value) for value in found if value])
        assert len(columns[0]) == 2
        assert columns[0] == pytest.approx(columns[1])


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize(
    ("more", "last"),
    [
        (["--num_epochs", "2"], "stage-1-last.ckpt"),
        (["--then", "[{num_epochs: 1}]"], "stage-1-result.ckpt"),
    ],
    ids=["previous epoch", "previous stage"],
)
def test_training_can_continue_from_the_last_good_checkpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str], last: str
) -> None:
    from cnnarch.training import step

    steps: list[Tensor] = []

    def diverging(logits: Tensor, *args: Any, **options: Any) -> Tensor:
        loss = cross_entropy(logits, *args, **options)
        if loss.requires_grad:
            steps.append(loss)
        return loss * (math.inf if len(steps) == 15 else 1)  # an epoch has ten

    words = ["train", "lenet5", *QUICK, "--batch_size", "128"]
    with monkeypatch.context() as patch:
        patch.setattr(step, "cross_entropy", diverging)
        assert "the loss became inf" in failure(capsys, *words, *more, "--output", "run")
    (path,) = Path("run/checkpoints").iterdir()
    assert path.name == last
    words += ["--weights", str(path), "--learning_rate", "0"]  # keeps the weights unchanged
    assert main([*words, "--output", "again"]) == 0
    saved = torch.load(path, weights_only=True)["state_dict"]
    good = {name.removeprefix("model."): value for name, value in saved.items()}
    result = cnnarch.from_pretrained("again").state_dict()
    assert result.keys() == good.keys()
    assert all(torch.equal(result[name], value) for name, value in good.items())


@pytest.mark.usefixtures("without_pictures")
def test_freeze_trains_only_the_head_of_loaded_weights() -> None:
    assert main(["train", "lenet5_bn", *QUICK, "--output", "first"]) == 0
    words = ["train", "lenet5_bn", *QUICK, "--weights", "./first", "--freeze", "true"]
    assert main([*words, "--output", "second"]) == 0
    first, second = (cnnarch.from_pretrained(name).state_dict() for name in ("first", "second"))
    differ = {name.split(".")[0] for name in first if not torch.equal(first[name], second[name])}
    assert differ == {"head"}


@pytest.mark.usefixtures("without_pictures")
def test_compare_trains_each_network_and_plots_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "lenet5", "lenet5_bn", *QUICK, "--output", "both"]) == 0
    out = capsys.readouterr().out
    assert {p.name for p in Path("both").iterdir()} == {"lenet5", "lenet5_bn", "comparison.png"}
    for name in ("lenet5", "lenet5_bn"):
        history = Path(f"both/{name}/metrics.csv").read_text()
        assert "test_acc" in history
        assert [line for line in out.splitlines() if line.startswith(f"{name} ") and "%" in line]


# --- errors ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "specify one network, such as lenet5, or a family: alexnet, "),
        (["train", "lenet6"], "no network 'lenet6'; did you mean 'lenet5'"),
        (["train", "lenet5", "--data", "minst"], "no data set 'minst'; available: digits"),
        (["train", "lenet5", "--lerning_rate", "1"], "unknown key 'lerning_rate'; did you mean"),
        (["train", "lenet5", "--num_epoch", "1"], "unknown key 'num_epoch'; did you mean 'num_epo"),
        (["train", "lenet5", "--optimizer", "lion"], "'sgd', 'adam', 'adamw'"),
        (["train", "lenet5", "--num_epochs", "x"], "num_epochs must be an integer, got x"),
        (["train", "lenet5", "--batch_size", "3.5"], "must be an integer or 'auto', got 3.5"),
        (
            ["train", "lenet5", "--class_weights", "true"],
            "class_weights must be 'balanced' or a mapping or null, got true",
        ),
        (["train", "lenet5", "--logger", "CSVLogger"], "CSVLogger requires --logger.save_dir"),
        (["train", "lenet5", "--logger", "Nope"], "must be a Lightning logger, such as CSVLogger,"),
        (["train", "lenet5", "--logger.save_dir", "x"], "--logger.save_dir requires --logger, suc"),
        (
            ["train", "lenet5", "--logger", "CSVLogger", "--logger.root", "x"],
            "CSVLogger has no option 'root'",
        ),
        (
            [
                *("train", "lenet5", "--logger", "CSVLogger", "--logger.save_dir", "x"),
                "--logger.flush_logs_every_n_steps=often",
            ],
            "logger.flush_logs_every_n_steps must be an integer, got often",
        ),
        (["train", "lenet5", "--logger", "MLFlowLogger"], "MLFlowLogger is not available: "),
        (["train", "lenet5", "--num_epochs", "0"], "num_epochs must be at least 1"),
        (["train", "lenet5", "--config", "gone.yaml"], "gone.yaml"),
        (["train", "lenet5", "--recipe", "secret"], "no recipe 'secret'; available:"),
        (["train", "lenet5", "--model_options", "{activaton: relu}"], "no option 'activaton'"),
        (["train", "lenet5", "--freeze", "conv9"], "no stage 'conv9'; the stages are 0 'C1'"),
        (["train", "lenet5", "--init", "magic"], "init must be one of 'xavier'"),
        (["train", "lenet5", "--image_resolution", "8"], "must be at least 32 pixels, got 8"),
        (["train", "lenet5", "--data", "folder:gone"], "folder gone does not exist"),
        (["compare", "lenet5"], "specify at least two networks"),
        (["compare", "lenet5", "lenet"], "specify each network only once, got lenet5, lenet5"),
        (["train", "lenet5", "--devices", "0"], "devices"),
        (["train", "lenet5", "--then", "[{learning_rate: fast}]"], "learning_rate"),
        (["compare", "lenet5", "lenet5_bm"], "did you mean 'lenet5_bn'"),
        (["info", "resnet5O"], "did you mean 'resnet50'"),
        (["info", "resnet20"], "did you mean 'resnet20_cifar'"),
        (["list", "--family", "resnets"], "no family 'resnets'"),
        (["list", "--max_params", "lots"], "must be a number such as 25M or 4.1e9, got 'lots'"),
        (["list", "--max_macs", "-1"], "max_macs must be a positive number, got -1"),
        (["list", "--min_top1", "0.8"], "min_top1 is in percent, got 0.8; did you mean 80?"),
        (["list", "--sort", "flops"], "cannot sort by 'flops'; available: name, year, params"),
        (["verify", "nothing_like_it"], "no network 'nothing_like_it'"),
        (["evaluate", "gone"], "gone"),
        (["predict", "a.png", "--model", "lenet5_bn"], "lenet5_bn"),
        (["predict", "--model", "lenet5"], "specify image files, or a data set with --data"),
        (["predict", "a.png"], "--model"),
        (["dance"], "invalid choice: 'dance'"),
        (["list", "--sideways"], "unrecognized arguments: --sideways"),
    ],
)
def test_errors_are_printed_on_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in failure(capsys, *words)
    assert not any(Path().iterdir())  # found before training


def test_an_unknown_key_in_a_file_suggests_a_similar_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("mine.yaml").write_text("learning_rats: 1\n")
    line = failure(capsys, "train", "lenet5", "--config", "mine.yaml")
    assert "unknown key 'learning_rats'; did you mean 'learning_rate'?" in line
    Path("mine.yaml").write_text("learning-rate: 1\n")
    line = failure(capsys, "train", "lenet5", "--config", "mine.yaml")
    assert "unknown key 'learning-rate'; did you mean 'learning_rate'?" in line


def test_config_without_a_file_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--config: expected one argument" in failure(capsys, "train", "lenet5", "--config")


@pytest.mark.parametrize("text", ["", "- 1", "fast"])
def test_a_file_without_keys_is_rejected(capsys: pytest.CaptureFixture[str], text: str) -> None:
    Path("mine.yaml").write_text(text)
    line = failure(capsys, "train", "lenet5", "--config", "mine.yaml")
    assert "the --config file must contain keys and values, such as num_epochs: 5" in line


def test_errors_can_be_raised_with_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNARCH_TRACEBACK", "1")
    with pytest.raises(ValueError, match="no network"):
        main(["info", "resnet5O"])


def in_new_process(command: list[str]) -> subprocess.CompletedProcess[str]:
    root = Path(cnnarch.__file__).parents[1]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)


def without(*modules: str) -> str:
    """Return Python code that makes importing the given modules fail."""
    return f"import sys\nfor name in {modules}: sys.modules[name] = None\n"


def run_without(forks: Forks, modules: tuple[str, ...], *commands: list[str]) -> ForkResult:
    """Run commands in sequence; the exit status is their maximum."""
    code = (
        f"{without(*modules)}"
        "for name in [n for n in sys.modules if n.startswith('cnnarch')]: del sys.modules[name]\n"
        f"from cnnarch.cli import main\nsys.exit(max(main(words) for words in {list(commands)}))"
    )
    (ended,) = forks.run(code)
    return ended


EXTRA = (
    "lightning",
    "torchmetrics",
    "jsonargparse",
    "rich",
    "matplotlib",
    "sklearn",
    "captum",
    "yaml",
)


def test_cards_do_not_require_an_extra(forks: Forks) -> None:
    done = run_without(forks, (*EXTRA, "torchvision"), ["list", "resnet1*"], ["info", "resnet18"])
    assert done.status == 0, done.err
    assert done.out.splitlines()[0].split() == [
        "network",
        "family",
        "year",
        "parameters",
        "multiply-adds",
        "input",
        *("top-1,", "%", "pixels", "weights", "license", "source"),
    ]
    assert "1,814,073,344" in done.out.partition("Deep Residual Learning")[2]


def test_a_missing_extra_is_named(forks: Forks) -> None:
    done = run_without(forks, EXTRA, ["train", "lenet5"], ["compare", "lenet5", "nin"])
    assert done.status == 2
    assert done.err.splitlines() == 2 * [
        "cnnarch: training needs more packages: pip install 'cnnarch[train]'"
    ]


def test_a_closed_pipe_is_not_an_error() -> None:
    code = "import sys; from cnnarch.cli import main; sys.exit(main(['list']))"
    command = f'{sys.executable} -c "{code}" | head -1; exit ${{PIPESTATUS[0]}}'
    done = in_new_process(["bash", "-c", command])
    assert done.returncode == 0
    assert not re.search("pipe|Error|Traceback", done.stderr)


def test_a_table_may_have_no_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "lenet5"]) == 0  # the paper reports no values for this network
    assert "all correct" in capsys.readouterr().out


# --- weights ---


def test_a_downloaded_folder_can_be_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "efficientnet_lite0", "--to", "ahead"]) == 0
    folder = str(Path("ahead").resolve())
    assert f"cnnarch.efficientnet_lite0(weights={folder!r})" in capsys.readouterr().out
    model = cnnarch.efficientnet_lite0(weights=folder)
    expected = cnnarch.efficientnet_lite0(weights="IMAGENET1K_V1")
    assert torch.equal(model.stem.conv.weight, expected.stem.conv.weight)


def test_download_rejects_unknown_weights(capsys: pytest.CaptureFixture[str]) -> None:
    line = failure(capsys, "download", "lenet5_bn", "--to", "ahead")
    assert "'lenet5_bn' has no weights 'DEFAULT'" in line
    assert "--to" in failure(capsys, "download", "lenet5")


@pytest.mark.usefixtures("without_pictures")
def test_a_checkpoints_recorded_options_override_the_recipes() -> None:
    """The recipe for digits sets small_images, but the checkpoint was trained without it."""
    model = cnnarch.mobilenet_v1(width=0.25, num_classes=10, in_channels=1, padding="same")
    torch.save(model.state_dict(), "net.pth")
    command = ["train", "mobilenet_v1", *QUICK, "--data", "digits", "--learning_rate", "0"]
    assert main([*command, "--weights", "net.pth", "--output", "run"]) == 0
    assert cnnarch.from_pretrained("run").options == model.options
