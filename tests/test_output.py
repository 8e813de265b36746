"""The command's output: closed pipes, full disks, streamed rows, CSV and JSON."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sklearn.metrics import f1_score, precision_score

import cnnarch
from cnnarch.cli import main
from cnnarch.facts.output import lasting_output, show_rows, to_json
from cnnarch.facts.text import table_lines
from cnnarch.inference import Predictor
from cnnarch.weights import Preprocessing, get_weights
from tests.forks import Forks
from tests.training.test_killed import without_advice

CLOSED_PIPE = """
import os, sys
read, write = os.pipe()
os.dup2(write, 1)
os.close(write)
os.close(read)
"""
FULL_DISK = "import os, sys\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)\n"
TRAIN = """
import cnnarch.training.run
cnnarch.training.run.draw_pictures = lambda *_: []  # drawing takes longer than training
from cnnarch.cli import main
sys.exit(main({words}))
"""
FIT = """
import cnnarch
from cnnarch.training import Recipe, fit, load_data
data = load_data("digits", image_resolution=32)
recipe = Recipe(num_epochs=1, batch_size=256)
history = fit(cnnarch.lenet5(), data, recipe, progress=True, on_epoch_end=print)
sys.exit(0 if len(history["epoch"]) == 1 else 3)
"""
CONTINUES = "cnnarch: cannot print ({}); training continues"


@pytest.mark.parametrize(
    ("prelude", "reason"),
    [(CLOSED_PIPE, "Broken pipe"), (FULL_DISK, "No space left on device")],
    ids=["closed pipe", "full disk"],
)
def test_training_continues_when_nothing_can_be_printed(
    forks: Forks, tmp_path: Path, prelude: str, reason: str
) -> None:
    folder = tmp_path / "run"
    words = ["train", "lenet5", "--num_epochs", "2", "--batch_size", "256"]
    code = prelude + TRAIN.format(words=[*words, "--output", str(folder)])
    (ended,) = forks.run(code)
    assert without_advice(ended.err).splitlines() == [CONTINUES.format(reason)]
    assert ended.status == 0
    assert (folder / "results.json").exists()


def test_fit_continues_when_a_pipe_is_closed(forks: Forks) -> None:
    (ended,) = forks.run(CLOSED_PIPE + FIT)
    assert without_advice(ended.err).splitlines() == [CONTINUES.format("Broken pipe")]
    assert ended.status == 0


def test_comparing_continues_when_stderr_is_closed_too(forks: Forks, tmp_path: Path) -> None:
    folder = tmp_path / "both"
    words = ["compare", "lenet5", "lenet5_bn", "--num_epochs", "1", "--batch_size", "256"]
    code = CLOSED_PIPE + "os.dup2(1, 2)\n" + TRAIN.format(words=[*words, "--output", str(folder)])
    (ended,) = forks.run(code)
    assert ended.status == 0
    assert (folder / "comparison.png").exists()


def test_output_without_a_stream_is_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python sets sys.stdout to None if it is closed."""
    monkeypatch.setattr("sys.stdout", None)
    with lasting_output("training"):
        print("nothing")


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_commands_succeed_without_streams(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    assert main(["list", "resnet*", "--format", form]) == 0
    assert main(["list", "--gone"]) == 2
    assert sys.stdout is None


def test_other_errors_are_raised() -> None:
    with pytest.raises(ZeroDivisionError), lasting_output("training"):
        print(1 / 0)


# --- formats ---

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in a temporary folder, check its exit status, and return its output."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, status: int = 0) -> str:
        assert main(words) == status
        return capsys.readouterr().out

    return run


def csv_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def saved(tmp_path: Path) -> str:
    """A network for two classes whose names contain a comma."""
    model = cnnarch.lenet5(num_classes=2, in_channels=3)
    model.preprocessing = Preprocessing(32, 32, mean=(0.5,) * 3, std=(0.25,) * 3)
    model.categories = ("cat, gray", "dog, gray")
    model.save_pretrained(tmp_path / "saved")
    return str(tmp_path / "saved")


def photographs(folder: Path, count: int = 3) -> list[Path]:
    """Create images of two classes."""
    paths = []
    for shade, name in enumerate(("cat, gray", "dog, gray")):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            paths.append(folder / name / f"{i}.png")
            Image.new("RGB", (32, 32), (200 * shade, 20 * i, 90)).save(paths[-1])
    return paths


def test_list_prints_numbers_in_csv_and_json(run: Run) -> None:
    (row,) = json.loads(run("list", "resnet50", "--format", "json"))
    assert row == {
        "network": "resnet50",
        "family": "resnet",
        "year": 2015,
        "params": 25_557_032,
        "macs": 4_089_184_256,
        "input_size": [3, 224, 224],
        "top1": 81.146,
        "pixels": 224,
        "weights": "TIMM_FB_SWSL_IG1B_FT_IN1K",
        "license": "cc-by-nc-4.0",
        "source": "timm",
        "weights_macs": 4_089_184_256,
        "dataset": "ImageNet-1K",
        "metrics_source": get_weights("resnet50")["TIMM_A1_IN1K"].metrics_source,
    }
    (line,) = csv_rows(run("list", "resnet50", "--format", "csv"))
    assert (line["network"], line["params"]) == ("resnet50", "25557032")
    assert len(csv_rows(run("list", "--format", "csv"))) == len(cnnarch.list_models())


def test_list_leaves_unknown_values_empty(run: Run) -> None:
    """LeNet-5 has a checkpoint, but its accuracy is on Fashion-MNIST."""
    for name, kept in (("plain18", ()), ("lenet5", ("pixels", "weights", "license", "source"))):
        (row,) = json.loads(run("list", name, "--format", "json"))
        unknown = [key for key, value in row.items() if value is None]
        assert set(row) - set(unknown) >= {"network", "family", "year", "params", "macs", *kept}
        assert {"top1", "dataset", "metrics_source"} <= set(unknown)
        (line,) = csv_rows(run("list", name, "--format", "csv"))
        assert [key for key, value in line.items() if not value] == unknown


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_list_counts_what_has_no_published_accuracy_on_stderr(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "vgg*", "--format", form, "--sort", "top1", "--max_params", "135M"]) == 0
    printed = capsys.readouterr()
    notes = printed.err.splitlines()
    assert notes[0] == "no top-1 on ImageNet-1K is published for 2 of 6 networks"
    assert len(notes) == (5 if form == "table" else 1)
    shown = {
        "table": lambda: [line.split()[0] for line in printed.out.splitlines()[1:]],
        "csv": lambda: [row["network"] for row in csv_rows(printed.out)],
        "json": lambda: [row["network"] for row in json.loads(printed.out)],
    }[form]()
    assert shown == ["vgg13_bn", "vgg11_bn", "vgg13", "vgg11", "vgg11_lrn", "vgg16_c"]
    assert main(["list", "vgg*", "--format", form, "--min_top1", "70", "--max_macs", "8G"]) == 0
    printed = capsys.readouterr()
    note = "left out 1 network: no top-1 on ImageNet-1K is published within the bounds"
    assert printed.err.splitlines()[0] == note
    assert "vgg11_lrn" not in printed.out


def test_list_prints_the_source_and_the_license(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "regnet_y_128gf"]) == 0
    printed = capsys.readouterr()
    row = "88.23 384 IMAGENET1K_SWAG_E2E_V1 its own torchvision"
    assert printed.out.splitlines()[1].split()[-6:] == row.split()
    page = "https://docs.pytorch.org/vision/stable/models.html"
    assert f"source torchvision: {page}" in printed.err.splitlines()
    (row,) = json.loads(run("list", "regnet_y_128gf", "--format", "json"))
    assert row["license"].startswith("https://github.com/facebookresearch/SWAG/")


def test_the_table_in_the_docs_is_the_output_of_its_command(run: Run) -> None:
    page = (Path(cnnarch.__file__).parents[1] / "docs/start.md").read_text()
    (command, shown), *_ = re.findall(r"\$ cnnarch (list .*)\n((?s:.*?))```", page)
    assert run(*command.split()) == shown


def test_info_prints_the_card_as_json_and_its_values_as_csv(run: Run) -> None:
    card = json.loads(run("info", "resnet50", "--format", "json"))
    assert card["paper"]["title"] == "Deep Residual Learning for Image Recognition"
    assert card["departures"]
    assert {"quantity": "macs", "paper": "3.8B (Table 1)", "measured": 3_857_973_248} in [
        {key: row[key] for key in ("quantity", "paper", "measured")} for row in card["values"]
    ]
    rows = csv_rows(run("info", "resnet50", "--format", "csv"))
    assert [row["quantity"] for row in rows] == [row["quantity"] for row in card["values"]]
    assert json.loads(run("info", "lenet5_bn", "--format", "json"))["network"] == "lenet5_bn"


def test_info_prints_the_accuracies_of_checkpoints_with_their_sources(run: Run) -> None:
    """The values are in torchvision's documentation and in timm's results-imagenet.csv."""
    weights = json.loads(run("info", "resnet50", "--format", "json"))["weights"]
    rows = {row["tag"]: row for row in weights}
    assert [*rows] == list(cnnarch.get_card("resnet50").weights)
    assert (rows["IMAGENET1K_V2"]["acc@1"], rows["TIMM_A1_IN1K"]["acc@1"]) == (80.858, 80.382)
    assert rows["TIMM_BAMBOO"]["acc@1"] is None
    assert rows["TIMM_A1_IN1K"]["metrics_source"].endswith("results-imagenet.csv")
    table = run("info", "resnet50")
    (line,) = [x for x in table.splitlines() if x.startswith("TIMM_A1_IN1K")]
    assert line.split() == ["TIMM_A1_IN1K", "timm", "1000", "224", "80.38", "94.60", "apache-2.0"]
    sources = [x for x in table.splitlines() if x.startswith("accuracies on ImageNet-1K: https://")]
    assert len(sources) == 2
    assert "accuracies" not in run("info", "plain18")


def test_evaluate_prints_all_metrics_as_json_and_each_prediction_as_csv(
    run: Run, saved: str, tmp_path: Path
) -> None:
    paths = photographs(tmp_path / "photos")
    words = ["evaluate", saved, "--data", "folder:photos", "--format"]
    metrics = json.loads(run(*words, "json", "--predictions", "each.csv"))
    rows = csv_rows(run(*words, "csv"))
    assert rows == csv_rows(Path("each.csv").read_text())
    assert {row["image"] for row in rows} == {os.path.relpath(path) for path in paths}
    labels = [row["label"] for row in rows]
    assert labels == [Path(row["image"]).parent.name for row in rows]
    found = [row["prediction"] for row in rows]
    assert [row["correct"] for row in rows] == [str(r["label"] == r["prediction"]) for r in rows]
    for prediction in Predictor(saved, top=1)(paths):
        (row,) = [row for row in rows if row["image"] == os.path.relpath(prediction.name)]
        assert row["prediction"] == prediction.classes[0]
        assert float(row["probability"]) == pytest.approx(prediction.probabilities[0], abs=1e-5)
    names = sorted(set(labels))
    expected = f1_score(labels, found, average=None, labels=names)
    assert list(metrics["f1"].values()) == pytest.approx(list(expected))
    assert metrics["macro_f1"] == pytest.approx(f1_score(labels, found, average="macro"))
    precision = precision_score(
        labels, found, average=None, labels=names, zero_division=float("nan")
    )
    for name, value in zip(names, precision, strict=True):
        assert metrics["precision"][name] == (None if value != value else pytest.approx(value))
    assert metrics["images"] == 6
    assert "top5" not in metrics  # there are only two classes
    assert "top-5" not in run(*words, "table")


def test_evaluate_rejects_a_single_class(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = cnnarch.lenet5(num_classes=1, in_channels=3)
    model.preprocessing, model.categories = Preprocessing(32, 32), ("cat, gray",)
    model.save_pretrained("one")
    shutil.rmtree(photographs(tmp_path / "photos")[-1].parent)
    assert main(["evaluate", "one", "--data", "folder:photos"]) == 2
    assert "require at least two classes, got ['cat, gray']" in capsys.readouterr().err
    assert "cat, gray" in run("predict", "--model", "one", "photos")


def test_predictions_cannot_be_written_to_a_folder(run: Run, saved: str) -> None:
    run("evaluate", saved, "--data", "digits", "--predictions", ".", status=2)
    run("evaluate", saved, "--data", "digits", "--predictions", "no/each.csv", status=2)


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_predict_prints_rows_before_it_is_interrupted(
    form: str,
    saved: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = photographs(tmp_path / "photos", 10)
    expected = Predictor(saved, top=2)(paths)
    best, calls = Predictor._best, []

    def interrupted(self: Predictor, *found: Any) -> Any:
        calls.append(found)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return best(self, *found)

    monkeypatch.setattr(Predictor, "_best", interrupted)
    words = ["predict", "--model", saved, str(tmp_path / "photos"), "--format", form]
    assert main(words) == 130
    out = capsys.readouterr().out
    if form == "json":
        rows = json.loads(out)
        assert rows[0]["classes"] == list(expected[0].classes)
        assert rows[0]["probabilities"] == pytest.approx(expected[0].probabilities, abs=1e-6)
        names = [row["image"] for row in rows]
    elif form == "csv":
        rows = csv_rows(out)
        assert rows[0]["class_1"] == expected[0].classes[0]
        assert float(rows[0]["probability_2"]) == pytest.approx(expected[0].probabilities[1])
        names = [row["image"] for row in rows]
    else:
        names = [line[: len(str(paths[0]))] for line in out.splitlines()[1:]]
    assert names == [str(path) for path in paths[:16]]  # the first of two batches


@pytest.mark.parametrize("count", range(1, 8))
def test_an_array_is_valid_wherever_a_signal_interrupts_it(
    count: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, written = sys.stdout.write, []

    def interrupted(text: str) -> int:
        written.append(text)
        write(text)
        if len(written) == count:
            raise KeyboardInterrupt
        return len(text)

    monkeypatch.setattr(sys.stdout, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        show_rows((), ({"row": i} for i in range(9)), "json")
    rows = json.loads(capsys.readouterr().out)
    assert rows == [{"row": i} for i in range(len(rows))]
    assert len(rows) == sum("row" in text for text in written)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_ends_a_json_array(
    saved: str,
    number: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = photographs(tmp_path / "photos", 10)
    best, calls = Predictor._best, []

    def terminated(self: Predictor, *found: Any) -> Any:
        calls.append(found)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return best(self, *found)

    monkeypatch.setattr(Predictor, "_best", terminated)
    before = signal.signal(number, signal.SIG_DFL)  # the tests may run under nohup
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--model", saved, str(tmp_path / "photos"), "--format", "json"])
    assert ended.value.code == 128 + number
    printed = capsys.readouterr()
    assert printed.err == f"cnnarch: stopped by {number.name}\n"
    rows = json.loads(printed.out)
    assert [row["image"] for row in rows] == [str(path) for path in paths[:16]]
    assert signal.signal(number, before) is signal.SIG_DFL


def test_predict_reports_unreadable_files_in_csv_and_json(run: Run, saved: str) -> None:
    Path("photos").mkdir()
    Image.new("RGB", (32, 32)).save("photos/a.png")
    Path("photos/b.png").write_bytes(b"no image")
    words = ["predict", "--model", saved, "photos", "--format"]
    rows = json.loads(run(*words, "json", status=1))
    assert [row["image"] for row in rows] == ["photos/a.png", "photos/b.png"]
    assert rows[0]["unreadable"] is None
    assert "photos/b.png is not a readable image" in rows[1]["unreadable"]
    lines = csv_rows(run(*words, "csv", status=1))
    assert [bool(line["unreadable"]) for line in lines] == [False, True]


def test_predict_prints_the_labels_of_a_data_set(run: Run) -> None:
    run("train", "lenet5", "--num_epochs", "1", "--batch_size", "256", "--output", "run")
    words = ["predict", "--model", "run", "--data", "digits", "--format"]
    rows = json.loads(run(*words, "json"))
    labels = cnnarch.training.load_data("digits").test.labels[:10].tolist()
    assert [row["label"] for row in rows] == list(map(str, labels))
    assert [row["label"] for row in csv_rows(run(*words, "csv"))] == list(map(str, labels))


def test_a_name_stays_on_one_line(run: Run, saved: str) -> None:
    folder = Path(" ".join("a" * 60))
    folder.mkdir()
    names = ["b c.png", "two\nlines.png", "K\udce4tzchen.png"]
    for name in names:
        Image.new("RGB", (32, 32)).save(folder / name, "PNG")
    lines = run("predict", "--model", saved, str(folder)).splitlines()[1:]
    shown = sorted(["b c.png", "two\\nlines.png", "K\\udce4tzchen.png"])
    assert sorted(line[: line.index(".png") + 4] for line in lines) == [
        str(folder / name) for name in shown
    ]
    rows = json.loads(run("predict", "--model", saved, str(folder), "--format", "json"))
    assert {row["image"] for row in rows} == {str(folder / name) for name in names}


@pytest.mark.usefixtures("without_pictures")
def test_compare_prints_only_json_on_stdout(run: Run) -> None:
    words = ["compare", "lenet5", "lenet5_bn", "--num_epochs", "1", "--batch_size", "256"]
    rows = json.loads(run(*words, "--output", "both", "--format", "json"))
    assert [row["network"] for row in rows] == ["lenet5", "lenet5_bn"]
    assert rows[0]["params"] == 61_706
    results = json.loads(Path("both/lenet5/results.json").read_text())
    assert rows[0]["test_acc"] == results["test"]["top1"]


def test_json_contains_null_instead_of_nan() -> None:
    assert json.loads(to_json({"a": [float("nan"), 1.5, float("inf")]})) == {"a": [None, 1.5, None]}


def test_flags_with_hyphens_are_rejected_with_the_correct_form(
    run: Run, capsys: pytest.CaptureFixture[str], saved: str
) -> None:
    Image.new("RGB", (32, 32)).save("--a-b.png")
    words = ["predict", "--model", saved, "--multi_label", "--threshold=0"]
    (row,) = csv_rows(run(*words, "--format=csv", "--", "--a-b.png"))
    assert row["image"] == "--a-b.png"
    commands = {
        "--num-epochs": ["train", "lenet5"],
        "--batch-size": ["compare", "lenet5", "lenet5_bn"],
        "--data-root": ["evaluate", saved],
        "--multi-label": ["predict", "--model", saved],
        "--skip-unreadable": ["check", "photos"],
        "--num-samples": ["draw", "embeddings"],
        "--a-b": ["list"],
    }
    for flag, command in commands.items():
        for form in ([flag, "3"], [f"{flag}=a-b"]):
            assert main([*command, *form]) == 2
            message = "flags contain underscores instead of hyphens: {}, not {}"
            expected = message.format("--" + flag[2:].replace("-", "_"), flag)
            assert capsys.readouterr().err == f"cnnarch: {expected}\n"


def test_rows_and_messages_do_not_share_a_line_in_a_terminal(saved: str, tmp_path: Path) -> None:
    """In a terminal, stdout and stderr are written to the same screen."""
    paths = photographs(tmp_path / "photos", 10)
    for path in paths[::7]:
        path.write_bytes(b"no image")
    words = [sys.executable, "-m", "cnnarch", "predict", "--model", saved, str(tmp_path / "photos")]
    terminal, child = os.openpty()
    process = subprocess.Popen([*words, "--format", "json"], stdout=child, stderr=child)
    os.close(child)
    screen = b""
    with suppress(OSError):  # raised at the end of the output
        while block := os.read(terminal, 65_536):
            screen += block
    os.close(terminal)
    assert process.wait() == 1
    lines = screen.decode().splitlines()
    messages = [line for line in lines if line.startswith("cnnarch: ")]
    rows = [json.loads(line.removeprefix(",")) for line in lines[1:-1] if line not in messages]
    assert (lines[0], lines[-1]) == ("[", "]")
    assert [row["image"] for row in rows] == [str(path) for path in paths]
    assert len(messages) == sum(row["unreadable"] is not None for row in rows) == len(paths[::7])


def test_columns_are_aligned_for_wide_names(run: Run, saved: str) -> None:
    cat = "\N{CJK UNIFIED IDEOGRAPH-732B}"  # takes two columns in a terminal
    for name in (f"{cat}{cat}.png", "four.png"):
        Image.new("RGB", (32, 32)).save(name)
    wide, four = run("predict", "--model", saved, f"{cat}{cat}.png", "four.png").splitlines()[1:]
    assert wide.index("cat") == four.index("cat") - 2
    assert table_lines([("a", "b"), (cat, "1"), ("e\N{COMBINING ACUTE ACCENT}", "2")]) == [
        "a   b",
        f"{cat}  1",
        "e\N{COMBINING ACUTE ACCENT}   2",
    ]


def test_flags_in_help_texts_contain_no_hyphens(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("evaluate", "predict", "export", "draw", "list", "download", "info", "verify"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        flags = [w for w in capsys.readouterr().out.split() if w.lstrip("[(").startswith("--")]
        assert flags
        assert not [flag for flag in flags if "-" in flag.lstrip("[(-")]
