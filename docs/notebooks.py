"""Run the tutorials and store them with their outputs: `python -m docs.notebooks [NAME ...]`.

The text and code of a tutorial are in `docs/tutorials/NAME.md`. This module writes
`docs/tutorials/NAME.ipynb`, which the site shows without running it. A tutorial runs if its code
has changed since the stored run, or if it is named. Otherwise, only its text is updated.
"""

import base64
import datetime
import io
import os
import platform
import resource
import sys
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).parent / "tutorials"
VERSIONS = (
    *("cnnarch", "captum", "lightning", "matplotlib", "nncf", "numpy", "onnxruntime", "openvino"),
    *("ray", "scikit-image", "scikit-learn", "torch", "torchvision"),
)
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # threads that wait for each other on a busy machine cost minutes
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm asks for ipywidgets
    "TTY_COMPATIBLE": "0",  # no progress bars: IPython gives commands a terminal
    "TQDM_DISABLE": "1",
}


def read_text(name: str) -> NotebookNode:
    """Read a tutorial's text and code. Cells are numbered, so that a run changes few lines."""
    notebook = jupytext.read(FOLDER / f"{name}.md")
    notebook.metadata.pop("jupytext", None)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    return notebook


def read_stored(name: str) -> NotebookNode:
    """Read a tutorial with its outputs, as stored by its last run."""
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def codes(notebook: NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def run(notebook: NotebookNode) -> None:
    """Run all cells in an empty folder. Record the date, the duration and the versions."""
    installed = {d.metadata["Name"]: d.version for d in distributions()}
    start = cpu_seconds()
    with TemporaryDirectory() as folder:
        environment = {**os.environ, **ENVIRONMENT, "IPYTHONDIR": f"{folder}/.ipython"}
        (work := Path(folder) / "tutorial").mkdir()
        client = NotebookClient(
            notebook,
            timeout=3600,
            coalesce_streams=True,
            resources={"metadata": {"path": work}},
            extra_arguments=["--InteractiveShell.system_raise_on_error=True"],  # for !commands
        )
        client.execute(env=environment)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of the kernel's messages
        if cell.cell_type == "code":
            cell.outputs = [tidy(o) for o in cell.outputs if is_wanted(o, cell.metadata)]
    notebook.metadata["run"] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu_seconds": round(cpu_seconds() - start),
        "python": platform.python_version(),
        "versions": {name: installed[name] for name in VERSIONS if name in installed},
    }


def is_wanted(output: NotebookNode, metadata: NotebookNode) -> bool:
    """Drop the empty displays of finished progress bars, and log messages if the cell says so."""
    if output.output_type == "stream":
        return output.name != "stderr" or "remove-stderr" not in metadata.get("tags", ())
    return output.get("data", {}).get("text/plain") != ""


def tidy(output: NotebookNode) -> NotebookNode:
    """Make pictures small and remove a terminal's line ends."""
    if output.output_type == "stream":
        output.text = output.text.replace("\r\n", "\n")
    if "image/png" in output.get("data", {}):
        output.data["image/png"] = compress(output.data["image/png"])
        output.data.pop("image/jpeg", None)
    return output


def cpu_seconds() -> float:
    """Return the CPU time of all kernels and commands that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def compress(png: str) -> str:
    """Reduce a picture to 256 colors if that makes its file smaller. Both are base64 text."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    buffer = io.BytesIO()
    picture.quantize(256).save(buffer, "png", optimize=True)
    return min(base64.b64encode(buffer.getvalue()).decode(), png.replace("\n", ""), key=len)


def keep_outputs(notebook: NotebookNode, stored: NotebookNode) -> None:
    """Copy the outputs and the record of the stored run, whose code is the same."""
    outputs = [cell for cell in stored.cells if cell.cell_type == "code"]
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell, old in zip(cells, outputs, strict=True):
        cell.outputs, cell.execution_count = old.outputs, old.execution_count
    notebook.metadata = stored.metadata


def stamp(name: str, record: NotebookNode) -> str:
    """Describe the stored run in Markdown, for the end of the page."""
    versions = ", ".join(f"{key} {record['versions'][key]}" for key in ("cnnarch", "torch"))
    return (
        "---\n\n"
        f"The outputs on this page were stored on {record['date']} by a run that took "
        f"{record['cpu_seconds']} seconds of CPU time, with Python {record['python']}, {versions}. "
        f"{{download}}`Download this tutorial as a notebook <{name}.ipynb>`."
    )


def store(name: str, *, again: bool) -> None:
    """Write the tutorial with its outputs. Run it if its code has changed, or `again`."""
    notebook = read_text(name)
    stored = read_stored(name) if (FOLDER / f"{name}.ipynb").exists() else None
    if again or stored is None or codes(stored) != codes(notebook):
        print(f"running {name}", flush=True)
        run(notebook)
    else:
        keep_outputs(notebook, stored)
    text = stamp(name, notebook.metadata["run"])
    notebook.cells.append(nbformat.v4.new_markdown_cell(text, id="stamp"))
    nbformat.write(notebook, FOLDER / f"{name}.ipynb")


def main(names: list[str]) -> None:
    known = sorted(path.stem for path in FOLDER.glob("*.md"))
    if unknown := set(names) - set(known):
        sys.exit(f"no tutorial {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for name in names or known:
        store(name, again=bool(names))


if __name__ == "__main__":
    main(sys.argv[1:])
