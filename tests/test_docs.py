"""The examples in the README and the docs run and produce the documented output."""

import doctest
import re
import warnings
from pathlib import Path

import pytest

from benchmarks import tables

ROOT = Path(__file__).parent.parent
FOLDERS = (ROOT / "docs", ROOT / "docs/examples", ROOT / "docs/integrations")
PAGES = sorted([ROOT / "README.md", *(page for folder in FOLDERS for page in folder.glob("*.md"))])
NEEDS = {  # third-party packages that may be missing and may warn
    "deeplabv3plus.md": "segmentation_models_pytorch",
    "lightning.md": "lightning",
    "ray_data.md": "ray",
    "unet.md": "segmentation_models_pytorch",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_examples_run(page: Path) -> None:
    if page.name in NEEDS:
        package = NEEDS[page.name]
        pytest.importorskip(
            package, reason=f"{page.name} requires a package: pip install {package}"
        )
        warnings.simplefilter("ignore")  # pytest restores the filters
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, _ = doctest.testfile(str(page), module_relative=False, optionflags=flags)
    assert failed == 0


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 100


def test_benchmark_tables_match_the_stored_results() -> None:
    """`python -m benchmarks.tables` generates the tables from the results."""
    for page, text in tables.pages().items():
        assert page.read_text() == text, f"{page.name} is out of date"


@pytest.mark.parametrize("name", ["architecture", "adding_a_family", "contributing"])
def test_files_named_on_contributor_pages_exist(name: str) -> None:
    text = (ROOT / f"docs/{name}.md").read_text()
    named = set(re.findall(r"`([\w./]+/[\w./]+\.(?:py|toml|json))`", text))
    assert named
    assert not [f for f in named if not ((ROOT / f).exists() or (ROOT / "cnnarch" / f).exists())]
