"""The stored outputs of the tutorials belong to their text. `make tutorials` updates them."""

import copy
import json
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from docs import notebooks

NAMES = sorted(path.stem for path in notebooks.FOLDER.glob("*.md"))
SECONDS = 300  # of CPU time
BYTES = 500_000

pytestmark = pytest.mark.parametrize("name", NAMES)


def assert_cells_agree(text: NotebookNode, stored: NotebookNode) -> None:
    """Compare everything except outputs. The stored notebook ends with the stamp."""
    for cell, old in zip(text.cells, stored.cells[:-1], strict=True):
        assert (cell.cell_type, cell.source) == (old.cell_type, old.source)
        assert cell.metadata == old.metadata


def test_the_stored_notebook_has_the_cells_of_the_text(name: str) -> None:
    stored = notebooks.read_stored(name)
    assert_cells_agree(notebooks.read_text(name), stored)
    assert stored.cells[-1].source == notebooks.stamp(name, stored.metadata["run"])


@pytest.mark.parametrize("kind", ["code", "markdown"])
def test_an_edited_cell_is_noticed(name: str, kind: str) -> None:
    stored = notebooks.read_stored(name)
    text = notebooks.read_text(name)
    cell = next(cell for cell in text.cells if cell.cell_type == kind)
    cell.source += " "
    with pytest.raises(AssertionError):
        assert_cells_agree(text, stored)


def test_all_cells_have_run_in_order_without_errors(name: str) -> None:
    cells = [cell for cell in notebooks.read_stored(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]


def test_every_picture_has_alt_text(name: str) -> None:
    for cell in notebooks.read_stored(name).cells:
        pictures = [
            key for o in cell.get("outputs", ()) for key in o.get("data", ()) if "image" in key
        ]
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        assert bool(pictures) == bool(alt), cell.source


def test_outputs_are_small_and_name_no_local_paths(name: str) -> None:
    cells = notebooks.read_stored(name).cells
    outputs = json.dumps([cell.outputs for cell in cells if cell.cell_type == "code"])
    assert len(outputs) < BYTES
    for local in ("/tmp/", "/root/", "/home/", "site-packages"):
        assert local not in outputs


def test_the_run_was_short_and_its_versions_are_known(name: str) -> None:
    record = notebooks.read_stored(name).metadata["run"]
    assert 0 < record["cpu_seconds"] < SECONDS
    assert {"cnnarch", "torch"} <= record["versions"].keys()


def test_a_change_of_the_text_alone_keeps_the_outputs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = notebooks.read_stored(name)
    text = (notebooks.FOLDER / f"{name}.md").read_text()
    (tmp_path / f"{name}.md").write_text(text + "\nOne more sentence.\n")
    nbformat.write(copy.deepcopy(before), tmp_path / f"{name}.ipynb")
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    monkeypatch.setattr(notebooks, "run", lambda notebook: pytest.fail("ran"))  # noqa: ARG005
    notebooks.main([])
    after = notebooks.read_stored(name)
    assert "One more sentence." in after.cells[-2].source
    assert after.metadata == before.metadata
    outputs = [[c.outputs for c in n.cells if c.cell_type == "code"] for n in (before, after)]
    assert outputs[0] == outputs[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial_runs(name: str) -> None:
    notebook = notebooks.read_text(name)
    notebooks.run(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
