"""Every page of the site that `make docs` has built, in chromium."""

import re
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest

from tests.site.conftest import OpenPage
from tests.site.contrast import contrast
from tests.site.test_whole_site import HTML

TEXTS = """() => {
  const channels = (color) => {
    const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const over = (top, low) => low.map((c, i) => top[3] * top[i] + (1 - top[3]) * c);
  const behind = (e) => {
    const layers = [];
    for (; e; e = e.parentElement) {
      const color = channels(getComputedStyle(e).backgroundColor);
      layers.push(color);
      if (color[3] === 1) break;
    }
    return layers.reverse().reduce((low, top) => over(top, low), [255, 255, 255]);
  };
  const found = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const e = node.parentElement;
    if (!node.data.trim() || e.closest("svg, script, style, noscript, [hidden], [aria-hidden]")) {
      continue;
    }
    if (!e.checkVisibility({visibilityProperty: true, opacityProperty: true})) continue;
    const style = getComputedStyle(e);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700);
    const low = behind(e);
    const color = over(channels(style.color), low);
    found.set(`${color}|${low}|${isLarge}`, [isLarge ? 3 : 4.5, color, low, node.data.trim()]);
  }
  return [...found.values()];
}"""


@pytest.fixture(scope="module")
def paths() -> list[Path]:
    """Return all pages except the listings of source files, which share one template."""
    if not (HTML / "index.html").exists():
        pytest.skip("needs the built site: make docs")
    modules = sorted(HTML.glob("_modules/**/*.html"))
    return [p for p in sorted(HTML.rglob("*.html")) if p not in modules[1:]]


@pytest.fixture(scope="module")
def server(paths: list[Path]) -> Iterator[str]:  # noqa: ARG001 - the site has been built
    """Serve the site: to show excerpts, the search fetches pages, which fails for files."""
    handler = partial(QuietHandler, directory=HTML)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as started:
        Thread(target=started.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{started.server_port}"
        started.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def visit(
    open_page: OpenPage, paths: list[Path], width: int, dark: bool, script: str
) -> Iterator[tuple[str, Any]]:
    """Yield the name of each page and the value of a script on it."""
    with open_page(paths[0], width=width, dark=dark) as page:
        for path in paths:
            page.goto(path.as_uri())
            yield path.relative_to(HTML).as_posix(), page.evaluate(script)


def test_dim_text_is_found(open_page: OpenPage, tmp_path: Path) -> None:
    """The backgrounds of parents and transparent colors are taken into account."""
    path = tmp_path / "page.html"
    path.write_text(
        "<body style='background: black'><p style='color: #777'>on black</p>"
        "<div style='background: white'><p style='color: rgba(0, 0, 0, 0.5)'>half</p>"
        "<h1 style='color: #888'>large</h1><p hidden style='color: white'>hidden</p></div>"
    )
    with open_page(path) as page:
        found = {text: (needed, color, low) for needed, color, low, text in page.evaluate(TEXTS)}
    assert found == {
        "on black": (4.5, [119, 119, 119], [0, 0, 0]),
        "half": (4.5, [127.5, 127.5, 127.5], [255, 255, 255]),
        "large": (3, [136, 136, 136], [255, 255, 255]),
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_contrast_passes_wcag_aa(open_page: OpenPage, paths: list[Path], dark: bool) -> None:
    dim = {}
    for name, texts in visit(open_page, paths, 1280, dark, TEXTS):
        assert texts, name
        for needed, color, background, text in texts:
            ratio = contrast(color, background)
            if ratio < needed:
                dim[tuple(color), tuple(background)] = (name, text[:40], round(ratio, 2))
    assert not dim


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_page_scrolls_sideways_on_a_phone(open_page: OpenPage, paths: list[Path]) -> None:
    script = "document.documentElement.scrollWidth"
    wide = {n: width for n, width in visit(open_page, paths, 390, False, script) if width > 390}
    assert not wide


@pytest.mark.slow
def test_the_front_page_is_light(open_page: OpenPage, paths: list[Path]) -> None:
    """Its files, without images, have less than 300 kB."""
    addresses: list[str] = []
    with open_page(paths[0]) as page:
        page.on("request", lambda request: addresses.append(request.url))
        page.goto((HTML / "index.html").as_uri())
        page.wait_for_load_state("networkidle")
    files = [Path(unquote(urlsplit(a).path)) for a in addresses if a.startswith("file:")]
    sizes = {f.name: f.stat().st_size for f in files if f.suffix not in (".webp", ".png", ".svg")}
    assert {"index.html", "furo.css", "furo.js", "shell.css"} <= sizes.keys()
    assert sum(sizes.values()) < 300_000, sizes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("heatmap", "cnnarch.viz.gradcam"),
        ("saliency", "cnnarch.viz.gradcam"),
        ("quantize", "cnnarch.inference.quantize"),
        ("quantization", "cnnarch.inference.quantize"),
        ("freeze layers", "cnnarch.freeze"),
        ("flops", "cnnarch.analysis.count_macs"),
        ("onnx", "cnnarch.inference.export"),
        ("feature extraction", "cnnarch.embed"),
        ("tsne", "cnnarch.viz.embeddings"),
        ("learning curve", "cnnarch.viz.curves"),
        ("discriminative learning rates", "cnnarch.param_groups"),
        ("upload", "cnnarch.weights.push_to_hub"),
    ],
)
def test_search_finds_functions_by_what_they_do(
    browser: Any, server: str, words: str, name: str
) -> None:
    page = browser.new_page()
    page.goto(f"{server}/search.html?q={quote(words)}")
    page.locator("p.search-summary").filter(has_text=re.compile("found|did not")).wait_for()
    links = page.locator("ul.search li > a").evaluate_all("a => a.map((e) => e.href)")
    page.close()
    assert name in [Path(urlsplit(link).path).stem for link in links][:5]
