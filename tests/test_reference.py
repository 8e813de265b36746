"""The reference has every public name exactly once, and describes the fields of named tuples."""

import inspect
import re
from collections import Counter
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import cnnarch
from docs.generators import reference
from docs.generators.keywords import KEYWORDS

MODULES = (
    *("analysis", "backbones", "dilation", "embedding", "finetuning", "inference", "registry"),
    *("testing", "training", "viz", "weights"),
)
"""The modules that users import, except the blocks and the families with pages of their own."""
ELSEWHERE = {*cnnarch.list_models(), "init_weights"}  # on the pages of the families and blocks


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    reference.write_pages(folder)
    return {path.stem: path.read_text() for path in (folder / "reference").glob("*.md")}


def documented(pages: dict[str, str]) -> list[str]:
    pattern = r"^\.\. auto(?:function|class|exception|data):: (\S+)$"
    return [name for text in pages.values() for name in re.findall(pattern, text, re.MULTILINE)]


def value_of(name: str) -> object:
    path, _, last = name.rpartition(".")
    return getattr(import_module(path), last)


def public_names() -> set[str]:
    """Return the names that users can import, once for each object."""
    names = [("cnnarch", name) for name in cnnarch.__all__ if name not in ELSEWHERE]
    for module in MODULES:
        path = f"cnnarch.{module}"
        names += [(path, name) for name in import_module(path).__all__ if name not in ELSEWHERE]
    values = {
        id(value): f"{path}.{name}"
        for path, name in names
        if not isinstance(value := getattr(import_module(path), name), ModuleType)
    }
    return set(values.values())


def test_every_public_name_has_one_entry(pages: dict[str, str]) -> None:
    entries = Counter(id(value_of(name)) for name in documented(pages))
    assert not [name for name in documented(pages) if entries[id(value_of(name))] > 1]
    assert len(public_names()) > 100
    assert not [name for name in public_names() if id(value_of(name)) not in entries]


def test_every_name_has_a_page_that_the_index_and_its_group_link(pages: dict[str, str]) -> None:
    """The checks share one page."""
    for name in documented(pages):
        if value_of(name) not in cnnarch.testing.CHECKS:
            assert f"({name}.md)" in pages["index"], name
            listed = [page for page, text in pages.items() if f"<{name}>" in text]
            assert len(listed) == 1, name


def test_pages_of_removed_names_are_deleted(tmp_path: Path) -> None:
    old = tmp_path / "reference/cnnarch.removed.md"
    old.parent.mkdir()
    old.write_text("# cnnarch.removed")
    reference.write_pages(tmp_path)
    assert not old.exists()


def test_gradcam_has_words_that_its_documentation_lacks(pages: dict[str, str]) -> None:
    text = pages["cnnarch.viz.gradcam"]
    assert "keywords:" in text
    assert "heatmap" in text
    assert "heatmap" not in (inspect.getdoc(cnnarch.viz.gradcam) or "")


def test_keywords_belong_to_documented_names(pages: dict[str, str]) -> None:
    assert not KEYWORDS.keys() - set(documented(pages))


def test_named_tuples_document_their_fields(pages: dict[str, str]) -> None:
    tuples = [value for name in documented(pages) if hasattr(value := value_of(name), "_fields")]
    assert len(tuples) > 5
    for value in tuples:
        for field in value._fields:
            assert re.search(rf"^\s+\*?{field}: ", value.__doc__, re.M), f"{value}: {field}"
