"""The examples in the README and the docs run and produce the documented output."""

import doctest
import json
import re
import tomllib
import warnings
from pathlib import Path

import pytest
import torch

import cnnarch
from benchmarks import front_page, tables

ROOT = Path(__file__).parent.parent
FOLDERS = (ROOT / "docs", ROOT / "docs/examples", ROOT / "docs/integrations")
PAGES = sorted([ROOT / "README.md", *(page for folder in FOLDERS for page in folder.glob("*.md"))])
NEEDS = {  # third-party packages that may be missing and may warn
    "coming_from_timm.md": "timm",
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
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_the_front_picture_is_small_and_shown() -> None:
    """`python -m docs.generators.front` draws it."""
    assert (ROOT / "docs/_static/front.webp").stat().st_size < 300_000
    assert "](docs/_static/front.webp)" in (ROOT / "README.md").read_text()
    assert "_static/front.webp\n:alt: " in (ROOT / "docs/index.md").read_text()


def test_benchmark_tables_match_the_stored_results() -> None:
    """`python -m benchmarks.tables` generates the tables from the results."""
    for page, text in tables.pages().items():
        assert page.read_text() == text, f"{page.name} is out of date"


def test_claims_round_the_smallest_and_the_largest_measurement() -> None:
    assert front_page.spread([2.04, 1.87, 1.95]) == "1.9 to 2.0"
    assert front_page.spread([3.51, 3.49]) == "3.5"


def test_generated_numbers_of_networks_count_the_builders() -> None:
    """The builders are the functions with a `@builder` decorator in the model files."""
    files = [path.read_text() for path in (ROOT / "cnnarch/models").glob("*.py")]
    counts = [text.count("\n@builder\n") for text in files]
    networks, families = sum(counts), sum(count > 0 for count in counts)
    assert f"{networks} networks in {families} families" in (ROOT / "README.md").read_text()
    results = json.loads((ROOT / "benchmarks/results/every_network.json").read_text())["networks"]
    goals = (ROOT / "docs/speed_goals.md").read_text()
    assert f"{networks - len(results)} of the {networks} under" in goals


def test_the_count_of_networks_is_updated_or_missed() -> None:
    page = tables.count_networks("It has 1 networks in 2 families.")
    assert page.startswith(f"It has {len(cnnarch.list_models())} networks in ")
    with pytest.raises(ValueError, match="0 times, not once"):
        tables.count_networks("It has many networks.")


def test_readme_and_site_agree_on_the_installation() -> None:
    names = ("README.md", "docs/start.md", "docs/index.md")
    pages = [(ROOT / name).read_text() for name in names]
    commands = [re.findall("^pip install.*", page, re.MULTILINE) for page in pages]
    assert commands == [['pip install "cnnarch[train,export,pretrained]"']] * 3
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for page, named in zip(pages[:2], (extras.keys() - {"docs", "test"}, extras), strict=True):
        assert not [extra for extra in named if f"`{extra}`" not in page]


def test_torchscript_is_not_supported() -> None:
    """The contract's page says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.script is deprecated
        with pytest.raises(torch.jit.frontend.UnsupportedNodeError):
            torch.jit.script(cnnarch.lenet5())  # type: ignore[no-untyped-call]


def test_formulas_are_mathml_without_scripts() -> None:
    converter = pytest.importorskip("latex2mathml.converter", reason="requires cnnarch[docs]")
    texts = [path.read_text() for path in (ROOT / "cnnarch").rglob("*.py")]
    formulas = [f for text in texts for f in re.findall(r"\$([^$\n]*\\[^$\n]*)\$", text)]
    assert len(formulas) > 10
    for formula in formulas:
        assert converter.convert(formula).startswith("<math"), formula
    assert "mathjax" not in (ROOT / "docs/conf.py").read_text()


@pytest.mark.parametrize("name", ["architecture", "adding_a_family", "contributing"])
def test_files_named_on_contributor_pages_exist(name: str) -> None:
    text = (ROOT / f"docs/{name}.md").read_text()
    named = set(re.findall(r"`([\w./]+/[\w./]+\.(?:py|toml|json))`", text))
    assert named
    assert not [f for f in named if not ((ROOT / f).exists() or (ROOT / "cnnarch" / f).exists())]
