"""The command's output: closed pipes, full disks, streamed rows, CSV and JSON."""

from pathlib import Path

import pytest

from cnnarch.facts.output import lasting_output
from tests.forks import Forks

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
    assert ended.err.splitlines() == [CONTINUES.format(reason)]
    assert ended.status == 0
    assert (folder / "results.json").exists()


def test_fit_continues_when_a_pipe_is_closed(forks: Forks) -> None:
    (ended,) = forks.run(CLOSED_PIPE + FIT)
    assert ended.err.splitlines() == [CONTINUES.format("Broken pipe")]
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


def test_other_errors_are_raised() -> None:
    with pytest.raises(ZeroDivisionError), lasting_output("training"):
        print(1 / 0)
