"""The gallery shows every picture with the line that draws it; searches find the explanations."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cnnarch import viz
from docs.generators import gallery
from docs.generators.pictures import GROUPS, Picture, all_pictures
from tests.site.conftest import DOCS, Site
from tests.test_hooks_and_transforms import NO_RULE

SEARCHES = (
    *("explain", "grad-cam", "gradcam", "why", "heatmap", "saliency", "attribution"),
    "interpretability",
)
RED = """\
__import__("matplotlib.figure").figure.Figure(
    figsize=(1, 1), facecolor="red"
)"""


def test_every_function_of_viz_is_in_the_gallery() -> None:
    codes = [picture.code for group in GROUPS if group != "explain" for picture in GROUPS[group]]
    shown = {name for name in viz.__all__ if any(code.startswith(f"viz.{name}(") for code in codes)}
    assert shown == set(viz.__all__)


def test_the_pages_show_every_group_of_pictures() -> None:
    pages = (DOCS / "gallery.md").read_text() + (DOCS / "explain.md").read_text()
    assert [g for g in GROUPS if f"_generated/gallery/{g}.txt" not in pages] == []


@pytest.mark.parametrize("picture", all_pictures(), ids=lambda p: p.name)
def test_pictures_are_described_for_readers_who_do_not_see_them(picture: Picture) -> None:
    assert len(picture.alt) > 40
    assert picture.alt.endswith(".")
    assert "\n" not in picture.alt + picture.text
    assert picture.title[-1] in ".?"


@pytest.mark.parametrize("picture", all_pictures(), ids=lambda p: p.name)
def test_code_fits_its_column(picture: Picture) -> None:
    """A column of 20rem holds 40 characters; the browser would break longer lines."""
    assert picture.wide or max(map(len, picture.code.splitlines())) <= 40


def test_the_code_on_the_page_is_the_code_that_draws(tmp_path: Path) -> None:
    picture = Picture("red", "Red.", RED, "A red square.", "A square that is red.")
    gallery.draw(picture, {}, tmp_path / "red.webp")
    with Image.open(tmp_path / "red.webp") as image:
        assert image.format == "WEBP"
        red, green, blue = image.convert("RGB").getpixel((9, 9))  # type: ignore[misc]
    assert red > 240
    assert max(green, blue) < 20
    text = gallery.cell(picture)
    assert f"```python\n{RED}\n```" in text
    assert "_generated/gallery/red.webp\n:alt: A square that is red.\n" in text


def test_a_command_on_the_page_is_the_command_that_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "cnnarch draw diagram --model lenet5 \\\n  --output lenet5.png"
    picture = Picture("lenet5", "LeNet-5.", code, "Its stages.", "Boxes.")
    gallery.draw(picture, {}, tmp_path / "found.webp")
    with Image.open("lenet5.png") as drawn, Image.open("found.webp") as found:
        assert drawn.size == found.size
    assert f"```console\n$ {code}\n```" in gallery.cell(picture)
    with pytest.raises(RuntimeError, match="returned status 2"):
        gallery.run("cnnarch draw diagram --model lenet99")


def test_pictures_are_drawn_again_only_if_the_sources_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(gallery, "draw_pictures", lambda *_: drawn.append(1))
    for _ in range(2):
        gallery.write_pages(tmp_path)
    assert len(drawn) == 1
    monkeypatch.setattr(gallery, "SETUP", "")
    monkeypatch.setattr(gallery, "hash_sources", lambda: "changed")
    gallery.write_pages(tmp_path)
    assert len(drawn) == 2


@pytest.mark.slow
def test_all_pictures_are_drawn_and_the_page_stays_small(tmp_path: Path) -> None:
    gallery.draw_pictures(all_pictures(), tmp_path)
    files = {path.stem: path for path in tmp_path.glob("*.webp")}
    assert files.keys() == {picture.name for picture in all_pictures()}
    for path in files.values():
        with Image.open(path) as image:
            assert image.width >= 350  # CSS pixels of a column
    assert sum(path.stat().st_size for path in files.values()) < 1_500_000
    assert "<html" in (tmp_path / "report/lenet5_report.html").read_text()


def test_searches_find_the_page_on_explanations(site: Site, browser: Any) -> None:
    """The other pages contain some of these words too; the first result counts.

    Errors on the page do not count: Sphinx fetches summaries, which a page from disk cannot do.
    """
    pages = ("index", "explain", "gallery", "contract", "changelog")
    search = site(*(f"{name}.md" for name in pages)) / "search.html"
    found = {}
    tab = browser.new_page()
    for word in SEARCHES:
        tab.goto(f"{search.as_uri()}?q={word}")
        link = tab.locator("#search-results ul.search li a").first
        found[word] = link.get_attribute("href").partition("?")[0].partition("#")[0]
    tab.close()
    assert found == dict.fromkeys(SEARCHES, "explain.html")


def test_the_page_names_the_layers_that_deeplift_has_no_rule_for() -> None:
    page = (DOCS / "explain.md").read_text()
    assert [kind.__name__ for kind in NO_RULE if f"`{kind.__name__}`" not in page] == []
