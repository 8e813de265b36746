"""Every page of the site that `make docs` has built, as files."""

import inspect
import re
import zlib
from collections import Counter
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

import cnnarch
from tests.site.conftest import DOCS

HTML = DOCS / "_build/html"
LOADED = {"img": "src", "script": "src", "source": "src", "iframe": "src", "link": "href"}
"""The attributes whose addresses a browser loads with the page."""
UNREAD = {"code", "pre", "script", "style", "annotation", "title"}


class Page(HTMLParser):
    """The addresses, anchors, pictures and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.unnamed_images: list[str] = []
        self.texts: list[str] = []
        self.unread = 0
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := values.get(key))}
        self.unread += tag in UNREAD
        if tag == "a" and values.get("href"):
            self.links.append(values["href"] or "")
        if tag == "img" and not (values.get("alt") or "").strip():
            self.unnamed_images.append(values.get("src") or "")
        if address := values.get(LOADED.get(tag, "")):
            self.loaded.append(address)

    def handle_endtag(self, tag: str) -> None:
        self.unread -= tag in UNREAD

    def handle_data(self, data: str) -> None:
        if not self.unread:
            self.texts.append(data)


class Entry(NamedTuple):
    """A name in the inventory, and the address of its entry."""

    name: str
    address: str


@pytest.fixture(scope="module")
def pages() -> dict[Path, Page]:
    if not (HTML / "index.html").exists():
        pytest.skip("needs the built site: make docs")
    return {path.resolve(): Page(path) for path in sorted(HTML.rglob("*.html"))}


def test_a_page_is_read(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(
        '<h1 id="top">$x^2$</h1><code>$y_1$</code><a href="#top">up</a>'
        '<img src="a.png"><img src="b.png" alt="A cat."><script src="//host/c.js"></script>'
    )
    page = Page(path)
    assert (page.anchors, page.links, page.unnamed_images) == ({"top"}, ["#top"], ["a.png"])
    assert page.loaded == ["a.png", "b.png", "//host/c.js"]
    assert page.texts == ["$x^2$", "up"]


@pytest.mark.slow
def test_every_image_has_alt_text(pages: dict[Path, Page]) -> None:
    assert not [(p.path.name, image) for p in pages.values() for image in p.unnamed_images]


@pytest.mark.slow
def test_nothing_is_loaded_from_another_host(pages: dict[Path, Page]) -> None:
    found = {a for page in pages.values() for a in page.loaded if urlsplit(a).netloc}
    for style in HTML.rglob("*.css"):
        found |= {a for a in re.findall(r"url\(['\"]?([^)'\"]+)", style.read_text()) if "//" in a}
        found |= set(re.findall(r"@import[^;]+//[^;]+", style.read_text()))
    assert not {address for address in found if not address.startswith("data:")}


@pytest.mark.slow
def test_links_and_anchors_exist(pages: dict[Path, Page]) -> None:
    broken = []
    for page in pages.values():
        for link in {*page.links, *page.loaded}:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
            target = target.resolve()
            known = pages.get(target)
            anchor = unquote(parts.fragment)
            if not target.exists() or (known and anchor and anchor not in known.anchors):
                broken.append((page.path.relative_to(HTML).as_posix(), link))
    assert not broken


@pytest.mark.slow
def test_equations_are_typeset(pages: dict[Path, Page]) -> None:
    """Backslash commands and paired dollar signs appear only in code."""
    raw = [
        (page.path.name, text.strip()[:80])
        for page in pages.values()
        for text in page.texts
        if re.search(r"\\[a-zA-Z]{2,}|\$\$|\$[^$ ][^$]*[\\_^][^$]*\$", text)
    ]
    assert not raw


@pytest.mark.slow
def test_named_tuples_have_no_generated_descriptions(pages: dict[Path, Page]) -> None:
    assert not [p.path for p in pages.values() if any("Alias for field" in t for t in p.texts)]


def inventory() -> list[Entry]:
    """Return the Python names in the inventory, which is compressed after four lines."""
    content = (HTML / "objects.inv").read_bytes().split(b"\n", 4)[4]
    found = []
    for line in zlib.decompress(content).decode().splitlines():
        name, kind, priority, address, _ = line.split(" ", 4)
        if re.fullmatch(r"py:(function|class|exception|data)", kind) and priority != "-1":
            found.append(Entry(name, address.replace("$", name)))
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("pages")
def test_every_public_name_is_documented_once() -> None:
    entries = Counter(id(value_of(entry.name)) for entry in inventory())
    repeated = [e for e in inventory() if entries[id(value_of(e.name))] > 1]
    assert not repeated
    missing = [
        f"{module.__name__}.{name}"
        for module in public_modules()
        for name in public_names(module)
        if not isinstance(value := getattr(module, name), ModuleType) and id(value) not in entries
    ]
    assert not missing


def public_modules() -> list[ModuleType]:
    names = {*cnnarch._SUBMODULES, *cnnarch._EXTRA_SUBMODULES}
    return [cnnarch, *(import_module(f"cnnarch.{name}") for name in sorted(names))]


def public_names(module: ModuleType) -> list[str]:
    """Return the names in `__all__` or, in `cnnarch.blocks`, the names that it imports with *."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and (inspect.isfunction(value) or inspect.isclass(value))
    ]


def value_of(name: str) -> object:
    path, _, last = name.rpartition(".")
    return getattr(import_module(path), last)
