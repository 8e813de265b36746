"""The explorer works in a browser, from files on disk."""

import csv
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cnnarch
from cnnarch.weights import get_weights
from cnnarch.weights.selection import Bounds, select
from docs.generators import explorer, families
from tests.site.conftest import OpenPage, Site
from tests.site.contrast import contrast

CARDS = [cnnarch.get_card(name) for name in cnnarch.list_models()]
PAGES = ("index.md", "explorer.md", "_generated/families.md", "_generated/lenet.md")
ROWS = "els => els.map(row => [...row.cells].map(cell => cell.textContent))"

Explore = Callable[..., Any]


def generate(folder: Path) -> None:
    """Write the explorer's data and one family's page."""
    explorer.write_pages(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "families", lambda: ["lenet"])
        families.write_pages(folder)


@pytest.fixture
def explore(site: Site, open_page: OpenPage) -> Explore:
    """Open the explorer with a fragment and a window: `explore("family=resnet", width=390)`."""
    html = site(*PAGES, generate=generate)
    return lambda fragment="", **window: open_page(
        html / "explorer.html", fragment=fragment, **window
    )


def table(page: Any) -> list[list[str]]:
    return page.locator("#explorer tbody tr").evaluate_all(ROWS)


def names(page: Any) -> list[str]:
    return [row[0] for row in table(page)]


def column(page: Any, title: str) -> list[str]:
    titles = page.locator("#explorer thead button").all_text_contents()
    return [row[titles.index(title)] for row in table(page)]


def field(page: Any, label: str) -> Any:
    return page.locator("#explorer").get_by_label(re.compile(rf"^\s*{label}"))


def status(page: Any) -> str:
    return page.get_by_role("status").inner_text()


def test_the_front_page_leads_to_the_explorer(site: Site, open_page: OpenPage) -> None:
    with open_page(site(*PAGES, generate=generate) / "index.html") as page:
        page.locator(".sidebar-tree a", has_text="Explore all networks").click()
        assert status(page) == f"{len(CARDS)} of {len(CARDS)} networks"


def test_numbers_sort_as_numbers_in_both_directions(explore: Explore) -> None:
    with explore() as page:
        head = page.locator("th", has_text="Parameters")
        assert head.get_attribute("aria-sort") == "none"
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "ascending"
        params = {card.name: card.params for card in CARDS}
        shown = [params[name] for name in names(page)]
        assert shown == sorted(params.values())
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "descending"
        assert names(page)[0] == max(params, key=lambda name: params[name])


def test_missing_values_sort_last_and_names_by_their_numbers(explore: Explore) -> None:
    with explore() as page:
        vggs = [name for name in names(page) if name.startswith("vgg")]
        assert vggs[:4] == ["vgg11", "vgg11_bn", "vgg11_lrn", "vgg13"]
        for _ in range(2):
            page.locator("th", has_text="ImageNet top-1").get_by_role("button").click()
            values = column(page, "ImageNet top-1 (%)")
            known = [float(value) for value in values if value]
            assert 100 < len(known) < len(values)
            assert values[len(known) :] == [""] * (len(values) - len(known))
            assert known in (sorted(known), sorted(known, reverse=True))
        assert known[0] > known[-1]


def test_filters_combine(explore: Explore) -> None:
    with explore() as page:
        page.get_by_label("Year, from").fill("2015")
        page.get_by_label("Year, to").fill("2016")
        page.get_by_label("Parameters, at most").fill("30")
        page.get_by_label("MACs, at most").fill("2.5")
        page.get_by_label("only with weights").check()
        expected = {
            card.name
            for card in CARDS
            if card.year in (2015, 2016)
            and card.params <= 30e6
            and card.macs <= 2.5e9
            and card.weights
        }
        assert {"resnet18", "squeezenet1_0"} <= expected
        assert set(names(page)) == expected
        assert status(page) == f"{len(expected)} of {len(CARDS)} networks"
        page.get_by_role("checkbox", name="squeezenet").check()
        assert names(page) == ["squeezenet1_0", "squeezenet1_1"]
        page.get_by_role("button", name="Reset").click()
        assert len(names(page)) == len(CARDS)


def test_a_license_selects_the_best_checkpoint_that_has_it(explore: Explore) -> None:
    with explore() as page:
        field(page, "Search").fill("regnet_y_16gf")
        assert column(page, "License") == ["cc-by-nc-4.0"]
        page.get_by_label("License of weights").select_option("bsd-3-clause")
        entries = [w for w in get_weights("regnet_y_16gf").values() if w.license == "bsd-3-clause"]
        best = max(entries, key=lambda w: w.metrics["acc@1"])
        assert column(page, "Best checkpoint") == [best.tag]
        assert column(page, "ImageNet top-1 (%)") == [f"{best.metrics['acc@1']:.2f}"]
        page.get_by_label("ImageNet top-1, at least").fill(str(best.metrics["acc@1"] + 0.01))
        assert names(page) == []


def test_the_limits_select_the_networks_of_list_models(explore: Explore) -> None:
    """Their accuracies are those of checkpoints that meet the limits, too."""
    with explore() as page:
        page.get_by_label("Parameters, at most").fill("30")
        page.get_by_label("MACs, at most").fill("5")
        page.get_by_label("ImageNet top-1, at least").fill("80")
        limits = {"max_params": 30e6, "max_macs": 5e9, "min_top1": 80}
        rated = {each.card.name: each for each in select(cnnarch.list_models(), Bounds(**limits))}
        assert set(names(page)) == set(cnnarch.list_models(**limits)) == set(rated)
        shown = zip(names(page), column(page, "Best checkpoint"), strict=True)
        assert dict(shown) == {
            name: each.weights and each.weights.tag for name, each in rated.items()
        }
        assert "convnext_tiny" in rated


def test_search_finds_words_in_any_order_and_ignores_case(explore: Explore) -> None:
    with explore() as page:
        field(page, "checkpoints").check()
        field(page, "Search").fill("in1k RESNET50 a1_")
        assert "TIMM_A1_IN1K" in column(page, "Checkpoint")
        assert all("resnet50" in row[0] and "A1_" in row[1] for row in table(page))
        field(page, "Search").fill("no such network")
        assert names(page) == []
        assert status(page).startswith("0 of ")


def test_the_address_keeps_the_view(explore: Explore) -> None:
    with explore("view=checkpoints&family=lenet&family=vgg&sort=-imagenet&x=macs&q=vgg") as page:
        assert field(page, "checkpoints").is_checked()
        accuracies = [float(text) for text in column(page, "ImageNet top-1 (%)") if text]
        assert len(accuracies) > 5
        assert accuracies == sorted(accuracies, reverse=True)
        assert (
            page.locator(".plot svg").get_attribute("aria-label")
            == "ImageNet top-1 (%) against MACs"
        )
        field(page, "Search").fill("vgg16")
        before, rows = page.evaluate("location.href"), names(page)
        assert "q=vgg16" in before
        page.reload()
        assert (page.evaluate("location.href"), names(page)) == (before, rows)
        page.get_by_role("button", name="Reset").click()
        assert "#" not in page.evaluate("location.href")


def test_unknown_values_in_the_address_are_ignored(explore: Explore) -> None:
    with explore("view=all&sort=age&x=time&y=<b>&from=new&family=none&other=1") as page:
        assert status(page) == f"{len(CARDS)} of {len(CARDS)} networks"


@pytest.mark.parametrize("selector", ["tbody a >> text=/^lenet5$/", ".point[data-name=lenet5]"])
def test_names_and_points_open_the_page_of_the_family(explore: Explore, selector: str) -> None:
    with explore("q=lenet5&y=year") as page:
        page.locator(f"#explorer {selector}").first.click()
        page.wait_for_url("**/_generated/lenet.html")
        assert "LeNet" in page.locator("h1").inner_text()


def position(page: Any, name: str) -> tuple[float, float]:
    """Return the position of a point in the plot's coordinates."""
    point = page.locator(f".point[data-name='{name}']").get_attribute("transform")
    x, y = point.removeprefix("translate(").removesuffix(")").split()
    return float(x), float(y)


def ticks(page: Any, attribute: str, anchor: str) -> dict[float, float]:
    """Return the positions of an axis' labels by value."""
    labels = page.locator(f".plot text[text-anchor={anchor}][data-value]")
    read = f"els => els.map(e => [e.dataset.value, e.getAttribute('{attribute}')])"
    return {float(value): float(at) for value, at in labels.evaluate_all(read)}


def test_points_lie_where_the_axes_say(explore: Explore) -> None:
    """ResNet-50 has 25,557,032 parameters, and log10(2.5557032) = 0.40751."""
    with explore("y=year") as page:
        x, y = position(page, "resnet50")
        across, up = ticks(page, "x", "middle"), ticks(page, "y", "end")
        low, high = across[1e7], across[1e8]
        assert x == pytest.approx(low + 0.40751 * (high - low), abs=0.1)
        low, high = up[2000] - 4, up[2010] - 4  # baselines lie 4 below the middle of labels
        assert y == pytest.approx(low + 1.5 * (high - low), abs=0.1)
        assert page.locator(".point").count() == sum(card.year is not None for card in CARDS)
        assert "2 without a value" in page.locator(".plotted").inner_text()
        page.get_by_label("Horizontal axis").select_option("macs")  # 4.089e9; log10: 0.61164
        x, _ = position(page, "resnet50")
        across = ticks(page, "x", "middle")
        low, high = across[1e9], across[1e10]
        assert x == pytest.approx(low + 0.61164 * (high - low), abs=0.1)


def test_measured_times_have_a_logarithmic_axis(explore: Explore) -> None:
    with explore("x=macs") as page:
        page.get_by_label("Vertical axis").select_option(label="Time (ms), plain, AMD EPYC, AVX2")
        data = json.loads((explorer.RESULTS / "every_network.json").read_text())["networks"]
        times = {name: row["plain_ms"] for name, row in data.items() if row["plain_ms"]}
        assert page.locator(".point").count() == len(times)
        up = ticks(page, "y", "end")
        low, high = up[10] - 4, up[100] - 4
        _, y = position(page, "resnet18")
        part = math.log10(times["resnet18"] / 10)
        assert y == pytest.approx(low + part * (high - low), abs=0.2)


def test_an_accuracy_is_plotted_with_the_costs_of_its_checkpoint(explore: Explore) -> None:
    """The best checkpoint of ConvNeXt-T reads 384 pixels; its card says 224."""
    with explore("x=macs&q=convnext_tiny") as page:
        label = page.locator(".point").get_attribute("aria-label")
        assert label.startswith("convnext_tiny TIMM_IN12K_FT_IN1K_384, 384 pixels. MACs: 13.1B.")
        assert column(page, "MACs") == ["4.46B"]
    with explore("view=checkpoints&q=fashion_mnist") as page:  # another data set is not plotted
        assert page.locator(".point").count() == 0
        assert "5 without a value" in page.locator(".plotted").inner_text()


def test_a_point_shows_its_name_when_the_pointer_is_over_it(explore: Explore) -> None:
    with explore("family=alexnet") as page:
        assert not page.locator(".tip").is_visible()
        page.locator(".point").first.hover()
        assert page.locator(".tip").inner_text().startswith("alexnet_owt IMAGENET1K_V1")


def test_it_works_with_the_keyboard_alone(explore: Explore) -> None:
    with explore("family=lenet&y=year") as page:
        page.get_by_label("Horizontal axis").focus()
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowRight")
        second = page.evaluate("document.activeElement.dataset.name")
        assert second == "lenet5"  # has more parameters than lenet5_1998
        assert page.locator(".tip").inner_text().startswith(second)
        page.keyboard.press("Tab")  # one stop for all points
        assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
        page.get_by_role("button", name="Skip to the table").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        head = page.locator("thead th").first
        assert head.get_attribute("aria-sort") == "descending"
        assert page.evaluate("document.activeElement.textContent") == "Network"
        page.locator(".point").first.focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/_generated/lenet.html")


def test_the_shown_rows_are_downloaded(explore: Explore) -> None:
    with explore("family=lenet&sort=-params") as page:
        with page.expect_download() as download:
            page.get_by_role("button", name="Download as CSV").click()
        assert download.value.suggested_filename == "cnnarch-networks.csv"
        rows = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
        assert [row["Network"] for row in rows] == names(page)
        (lenet5,) = [card for card in CARDS if card.name == "lenet5"]
        row = next(row for row in rows if row["Network"] == "lenet5")
        assert (int(row["Parameters"]), int(row["MACs"])) == (lenet5.params, lenet5.macs)
        assert row["Input"] == "x".join(map(str, lenet5.input_size))


def test_the_page_does_not_scroll_sideways(explore: Explore) -> None:
    with explore() as page:
        for view in ("networks", "checkpoints"):
            field(page, view).check()
            for width in (390, 1280):
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate("document.documentElement.scrollWidth") == width
                assert page.locator(".rows").evaluate("e => e.scrollWidth > e.clientWidth")


def test_a_phone_shows_the_plot_before_the_filters(explore: Explore) -> None:
    with explore(width=390) as page:
        assert not page.get_by_label("Year, from").is_visible()
        assert page.locator(".plot svg").bounding_box()["y"] < 1000


COLORS = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const color = channels(getComputedStyle(e).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll("#explorer *")) {
    const style = getComputedStyle(e);
    const hasText = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    const isMarker = e.classList.contains("marker");
    if (!(hasText || isMarker) || !e.getClientRects().length) continue;
    const color = e instanceof SVGElement ? style.fill : style.color;
    found.push([e.textContent || "marker", isMarker ? 3 : 4.5, channels(color), behind(e)]);
  }
  return found;
}"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_and_markers_have_enough_contrast(explore: Explore, dark: bool) -> None:
    with explore("q=resnet5", dark=dark) as page:
        page.locator(".point").first.focus()  # shows the tip
        found = page.evaluate(COLORS)
    assert len(found) > 150
    assert any(text == "marker" for text, *_ in found)
    dim = {
        (text[:30], *map(tuple, pair)) for text, needed, *pair in found if contrast(*pair) < needed
    }
    assert not dim
