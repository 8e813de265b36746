"""Fixtures that build pages of the site and open them in Debian's chromium."""

import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CHROMIUM = shutil.which("chromium")

Site = Callable[..., Path]
"""Builds pages: `site("index.md", "explorer.md")` returns the folder with their HTML files."""

OpenPage = Callable[..., AbstractContextManager[Any]]
"""Opens an HTML file: `with open_page(path, width=390, dark=True) as page`."""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Return a function that builds pages with the site's conf.py, once per session.

    It takes names of pages in docs ("index.md", "_generated/lenet.md"), the names of the
    `generators` to run (none by default), and in `written` the texts of pages and files that are
    neither in docs nor generated, by name. The test workers of a session share the results.
    """
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if shared.name.startswith("popen-") else shared

    def build(
        *pages: str, generators: tuple[str, ...] = ("none",), written: Mapping[str, str] = {}
    ) -> Path:
        key = zlib.crc32(json.dumps([pages, generators, sorted(written)]).encode())
        folder = shared / f"site-{key:08x}"
        html = folder / "html"
        with FileLock(f"{folder}.lock"):
            if not (html / "searchindex.js").exists():
                make_source(folder / "source", written)
                run_sphinx(folder / "source", html, pages, generators)
        return html

    return build


def make_source(source: Path, written: Mapping[str, str]) -> None:
    """Link the files of docs into a folder that can have generated pages of its own."""
    shutil.rmtree(source, ignore_errors=True)
    (source / "_generated").mkdir(parents=True)
    for path in DOCS.iterdir():
        if path.name not in ("_build", "_generated", "__pycache__"):
            (source / path.name).symlink_to(path)
    for name, text in written.items():
        (source / name).write_text(text)


def run_sphinx(
    source: Path, html: Path, pages: tuple[str, ...], generators: tuple[str, ...]
) -> None:
    """Build some pages. Links to the others are missing, so warnings are not errors."""
    settings = {"include_patterns": ",".join(pages), "only_generators": ",".join(generators)}
    options = [f"--define={name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-c", str(DOCS), *options]
    done = subprocess.run(
        [*command, str(source), str(html)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """Start chromium; skip the test where it or playwright is not installed.

    It ends with this package's tests, because other tests cannot use asyncio while it runs.
    """
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> OpenPage:
    """Return a context manager that opens an HTML file in a new context of the browser.

    The manager takes the file's path, the `width` of the window in pixels, whether the system
    prefers `dark` colors, and the `fragment` of the address after "#". At its end, it fails if the
    page reported an error or requested anything but local files.
    """

    @contextmanager
    def opened(
        path: Path, width: int = 1280, dark: bool = False, fragment: str = ""
    ) -> Iterator[Any]:
        scheme = "dark" if dark else "light"
        size = {"width": width, "height": 900}
        context = browser.new_context(viewport=size, color_scheme=scheme)
        context.set_default_timeout(5000)
        page, faults = context.new_page(), []
        page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
        page.on("request", lambda request: faults.extend(other_host(request.url)))
        page.goto(path.as_uri() + (f"#{fragment}" if fragment else ""))
        yield page
        context.close()
        assert not faults

    return opened


def other_host(url: str) -> list[str]:
    """Return a fault if an address is neither a local file nor data in the page."""
    return [] if urlsplit(url).scheme in ("file", "data", "blob") else [f"requested: {url}"]
