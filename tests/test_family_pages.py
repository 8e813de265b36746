"""The pages of the families agree with the sheets, the catalog and the stored results."""

import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cnnarch
from cnnarch.facts.builders import BUILDERS, families
from docs.generators import families as pages
from docs.generators.family.code import reference_section
from docs.generators.family.results import speed_section, zoo_section
from docs.generators.family.rows import measure, measured_rows, rows_section
from docs.generators.family.variants import departures_section, variants_section
from docs.generators.family.weights import weights_section
from docs.generators.text import is_numeric, table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"


def cells_of(parts: list[str]) -> list[list[str]]:
    """Return the rows of all tables in some sections."""
    lines = "\n".join(parts).splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]


@pytest.mark.parametrize("family", families())
def test_every_number_of_the_sheet_is_on_the_page(family: str) -> None:
    sheet = tomllib.loads((ROOT / f"cnnarch/models/{family}.toml").read_text())
    cards = pages.cards_of(family)
    rows = cells_of(variants_section(cards))
    for card in cards:
        facts = sheet[card.name]
        row = " | ".join(next(row for row in rows if row[0] == f"`{card.name}`"))
        assert f"{facts['counts']['params']:,}" in row
        assert f"{facts['counts']['macs']:,}" in row
        for printed in facts.get("printed", ()):
            for figure in {"params", "macs", "top1_err", "top5_err"} & printed.keys():
                assert printed[figure] in row
    forms = sum(1 + len(sheet[card.name].get("forms", ())) for card in cards)
    assert len(rows) == forms
    departures = "\n".join(departures_section(cards))
    assert all(sentence in departures for sentence in sheet.get("departures", {}).values())


def test_every_checkpoint_is_on_the_page_of_its_family() -> None:
    catalog = json.loads((ROOT / "cnnarch/weights/catalog.json").read_text())
    found = {
        (row[0], row[1]): row
        for family in families()
        for row in cells_of(weights_section(pages.cards_of(family)))
    }
    assert len(found) == sum(map(len, catalog.values()))
    for network, entries in catalog.items():
        for tag, entry in entries.items():
            row = found[f"`{network}`", f"`{tag}`"]
            for metric in ("acc@1", "acc@5"):
                if metric in entry.get("metrics", {}):
                    assert f"{entry['metrics'][metric]:.2f}" in row
            license = entry.get("license", "not stated")
            assert any(license in cell for cell in row)
            assert str(entry["preprocessing"]["crop_size"]) in row
            if entry["layout"] != "cnnarch":  # the zoo's page has the accuracies of these
                assert entry.get("metrics_source", "") in row[-1]


def test_every_stored_result_is_on_a_page() -> None:
    sections = [pages.cards_of(family) for family in families()]
    zoo = [row for cards in sections for row in cells_of(zoo_section(cards))]
    for path in RESULTS.glob("zoo/*.json"):
        kept = json.loads(path.read_text())
        row = next(row for row in zoo if row[0] == f"`{kept['network']}`")
        assert f"{100 * kept['accuracy']:.2f}%" in row
    speed = [" ".join(row) for cards in sections for row in cells_of(speed_section(cards))]
    optimized = json.loads((RESULTS / "every_network.json").read_text())["networks"]
    eager = [json.loads(path.read_text())["results"] for path in RESULTS.glob("eager*/*.json")]
    times = [row for kept in eager for row in kept.values() if isinstance(row, dict)]
    assert len(speed) == len(optimized) + len(times)
    for name, kept in optimized.items():
        time = f"{kept['milliseconds']:.1f}" if kept["milliseconds"] else kept["chosen"]
        assert any(f"`{name}`" in row and time in row for row in speed)


@pytest.mark.parametrize("name", ["alexnet", "ghostnet_1_0", "lenet5_1998", "nin_cifar"])
def test_rows_add_up_to_the_whole_network(name: str) -> None:
    card = cnnarch.get_card(name)
    rows = measured_rows(card.form, measure(name))
    assert sum(row.params for row in rows) == card.params
    assert sum(row.macs for row in rows) == card.macs
    assert [row.name for row in rows if row.printed] == list(card.form.stages)


def test_a_row_counts_its_own_layers() -> None:
    card = cnnarch.get_card("googlenet")
    rows = {row.name: row for row in measured_rows(card.form, measure("googlenet"))}
    weights = 192 * (64 + 96 + 16 + 32) + 96 * 128 * 9 + 16 * 32 * 25
    biases = 64 + 96 + 128 + 16 + 32 + 32
    assert rows["inception_3a"].params == weights + biases
    assert rows["inception_3a"].macs == weights * 28 * 28
    assert rows["fc"].params == 1024 * 1000 + 1000


@pytest.mark.parametrize("name", ["googlenet", "lenet5_1998", "squeezenet1_0"])
def test_printed_rows_agree_or_the_sheet_explains_why_not(name: str) -> None:
    form = cnnarch.get_card(name).form
    rows = {row.name: row for row in measured_rows(form, measure(name))}
    assert form.stated_rows.keys() <= rows.keys()
    for name, values in form.stated_rows.items():
        assert rows[name].stated == values
        for stated in values:
            exact = {"params": rows[name].params, "macs": rows[name].macs}[stated.figure]
            assert stated.agrees(exact) == (stated.departs == ""), (name, stated)


def test_printed_rows_are_checked_in_all_networks_that_have_them() -> None:
    found = {name for name in BUILDERS if cnnarch.get_card(name).form.stated_rows}
    assert found == {"googlenet", "lenet5_1998", "squeezenet1_0"}


def test_layers_between_the_rows_of_the_sheet_are_named() -> None:
    card = cnnarch.get_card("ghostnet_1_0")
    names = [row.name for row in measured_rows(card.form, measure(card.name))]
    assert names[names.index("bneck6") + 1] == "`stages.3.1` to `stages.3.4`"


def test_a_changed_number_is_marked() -> None:
    card = cnnarch.get_card("resnet18")
    assert "≠ |" not in "\n".join(rows_section([card], card) + variants_section([card]))
    shapes = {**card.form.stages, "conv3_x": (128, 28, 27)}
    wrong = replace(card, form=card.form._replace(stages=shapes, macs=1_999_999_999))
    (line,) = re.findall("^.*conv3.*$", "\n".join(rows_section([wrong], wrong)), re.MULTILINE)
    assert "| 128x28x27 | 128x28x28 | ≠ |" in line
    assert "1.8B\N{NO-BREAK SPACE}≠" in "\n".join(variants_section([wrong]))


def test_all_images_of_a_page_exist_and_have_alt_text(tmp_path: Path) -> None:
    page = pages.family_page("lenet", tmp_path)
    page += pages._index_card("lenet", tmp_path)
    images = re.findall(r"```\{image\} (\S+)\n:alt: (.{20,})\n", page)
    assert len(images) == page.count("{image}") == 3
    assert all((tmp_path / name).stat().st_size > 500 for name, _ in images)


def test_every_builder_is_in_the_reference_of_its_page() -> None:
    for family in families():
        names = [card.name for card in pages.cards_of(family)]
        text = "\n".join(reference_section(family, names))
        assert names == re.findall(rf"autofunction:: cnnarch\.models\.{family}\.(\w+)", text)


def test_families_are_in_the_order_of_their_papers() -> None:
    cards = sorted(map(cnnarch.get_card, BUILDERS), key=pages._order)
    order = list(dict.fromkeys(card.family for card in cards))
    assert order[:4] == ["lenet", "alexnet", "nin", "vgg"]
    assert order.index("inception_v3") < order.index("resnet") < order.index("preresnet")
    assert order[-1] == "convnet"  # it has no paper


def test_titles_of_other_families_are_links() -> None:
    text = pages._linked("Unlike ResNet, ResNeXt-50 and Pre-activation ResNet widen.", "resnet")
    link = "[Pre-activation ResNet](preresnet.md)"
    assert text == f"Unlike ResNet, ResNeXt-50 and {link} widen."


@pytest.mark.parametrize(
    ("cells", "numeric"),
    [
        (["1,234", "", "3.8B\N{NO-BREAK SPACE}✓"], True),
        (["3x224x224", "22.85"], True),
        (["10.07", "VGG16"], False),
        (["", ""], False),
    ],
)
def test_columns_of_numbers_are_right_aligned(cells: list[str], numeric: bool) -> None:
    assert is_numeric(cells) == numeric
    rule = table(("name", "value"), [("a", cell) for cell in cells]).splitlines()[1]
    assert rule.endswith("--: |" if numeric else "--- |")


TABLE = """<!doctype html><html lang="en"><title>t</title>
<script>{script}</script>
<table class="sortable"><thead><tr><th>network</th><th>top-1</th></tr></thead>
<tbody>
<tr><td>resnet9</td><td>9.5</td></tr>
<tr><td>alexnet</td><td>1,200</td></tr>
<tr><td>resnet10</td><td></td></tr>
<tr><td>vgg</td><td>80.25</td></tr>
</tbody></table></html>"""


@pytest.fixture
def browser_page(tmp_path: Path) -> Iterator[Any]:
    """Yield a page in chromium that shows a sortable table, opened from disk."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    script = (ROOT / "docs/_static/sortable.js").read_text()
    path = tmp_path / "table.html"
    path.write_text(TABLE.replace("{script}", script))
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(path.as_uri())
        yield page
        browser.close()


def first_column(page: Any) -> list[str]:
    return page.locator("tbody td:first-child").all_inner_texts()


def test_a_click_sorts_numbers_as_numbers_and_empty_cells_last(browser_page: Any) -> None:
    head = browser_page.locator("th").nth(1)
    head.locator("button").click()
    assert first_column(browser_page) == ["alexnet", "vgg", "resnet9", "resnet10"]
    assert head.get_attribute("aria-sort") == "descending"
    head.locator("button").click()
    assert first_column(browser_page) == ["resnet9", "vgg", "alexnet", "resnet10"]
    assert head.get_attribute("aria-sort") == "ascending"


def test_a_key_sorts_names_with_their_numbers(browser_page: Any) -> None:
    browser_page.keyboard.press("Tab")
    browser_page.keyboard.press("Enter")
    assert first_column(browser_page) == ["alexnet", "resnet9", "resnet10", "vgg"]
    browser_page.locator("th").nth(1).locator("button").click()
    heads = browser_page.locator("th")
    assert [heads.nth(i).get_attribute("aria-sort") for i in range(2)] == [None, "descending"]
