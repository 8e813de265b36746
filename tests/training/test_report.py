"""The HTML report of a run, in a real browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import cnnarch
from cnnarch.training import ImageData, Recipe, train
from cnnarch.training.report import write_report
from cnnarch.weights.runs import PICTURES

CHROMIUM = shutil.which("chromium")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--allow-file-access-from-files", "--virtual-time-budget=10000", "--dump-dom"),
]
MEASURE = """<!doctype html><iframe id="page" src="{page}" width="{width}" height="900"></iframe>
<pre id="found"></pre><script>
const frame = document.getElementById("page");
frame.onload = () => {{
  const page = frame.contentDocument, images = [...page.images];
  document.getElementById("found").textContent = JSON.stringify({{
    title: page.title,
    inside: page.documentElement.clientWidth,
    needed: page.documentElement.scrollWidth,
    loaded: images.filter(i => i.complete && i.naturalWidth > 0).length,
    images: images.length,
    headings: [...page.querySelectorAll("h2")].map(h => h.textContent),
    scales: images.map(i => i.width / i.naturalWidth),
  }});
}};
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cnnarch.training import ImageSet
    from cnnarch.weights import Preprocessing
    from tests.training.conftest import CLASSES, bright_sides

    preprocessing = Preprocessing(32, 32, mean=(0.4,), std=(0.3,))
    sets = [ImageSet(*bright_sides(n, s), CLASSES, preprocessing) for n, s in ((96, 0), (40, 1))]
    folder = tmp_path_factory.mktemp("report") / "run"
    torch.manual_seed(0)
    recipe = Recipe(num_epochs=2, batch_size=16, optimizer="adam", learning_rate=3e-3)
    train(cnnarch.lenet5(num_classes=4), ImageData("sides", *sets), recipe, folder)
    return folder / "report.html"


def rendered(page: Path, folder: Path, width: int) -> dict[str, Any]:
    """Return measurements of the page in a browser window of the given width in pixels."""
    assert CHROMIUM is not None
    wrapper = folder / "wrapper.html"
    wrapper.write_text(MEASURE.format(page=page.as_uri(), width=width))
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [CHROMIUM, *FLAGS, profile, f"--window-size={width + 100},1000", wrapper.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[:2000]
    return dict(json.loads(found[1]))


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_a_browser_shows_all_images_within_its_width(
    page: Path, tmp_path: Path, width: int
) -> None:
    found = rendered(page, tmp_path, width)
    assert found["title"] == "lenet5 on sides"
    assert found["images"] == found["loaded"] == len(PICTURES)
    assert found["headings"][: len(PICTURES)] == [picture.title for picture in PICTURES.values()]
    assert found["needed"] <= found["inside"]  # no horizontal scrolling
    # At 96 pixels per inch, 7-point letters are 9 pixels high; below 6 pixels, they are unreadable.
    assert min(found["scales"]) > 96 / 150 * 6 / 9
    if width < 600:  # a phone scrolls
        assert found["scales"] == pytest.approx([96 / 150] * len(PICTURES), abs=0.01)


def test_the_page_is_self_contained(page: Path) -> None:
    text = page.read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert len(sources) == len(PICTURES)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "@import" not in text
    assert "<script" not in text


def test_the_page_contains_the_result_and_the_recipe(page: Path) -> None:
    text = page.read_text()
    results = json.loads((page.parent / "results.json").read_text())
    assert f"Accuracy {results['test']['top1']:.2%} on 40 test images" in text
    assert "learning_rate: 0.003" in text
    for name in ("left", "right", "top", "bottom"):
        assert f"<th>{name}</th>" in text


@pytest.mark.parametrize(
    ("epochs", "images", "words"),
    [
        (1, 1, "on 1 test image, with 61,196 parameters, after 1 epoch ("),
        (20, 1200, "on 1,200 test images, with 61,196 parameters, after 20 epochs ("),
    ],
)
def test_counts_use_the_singular_or_the_plural(
    page: Path, tmp_path: Path, epochs: int, images: int, words: str
) -> None:
    results = json.loads((page.parent / "results.json").read_text())
    results |= {"epochs": epochs, "test_images": images}
    write_report(tmp_path / "page.html", results, "", {})
    assert words in (tmp_path / "page.html").read_text()


def test_names_are_escaped(page: Path, tmp_path: Path) -> None:
    results = json.loads((page.parent / "results.json").read_text())
    results["data"] = "folder:<script>alert(1)</script>"
    results["test"]["per_class"] = {"<b>cats & dogs</b>": None}
    write_report(tmp_path / "page.html", results, "source: </pre><script>", {})
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text
    assert "&lt;b&gt;cats &amp; dogs&lt;/b&gt;" in text
