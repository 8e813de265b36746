"""The overview of the blocks opens in a browser: cards with drawings that lead to the details."""

from tests.site.conftest import OpenPage, Site

PAGES = ("blocks.md", "_generated/blocks/*.md", "index.md")
LOADED = "images => images.filter(i => i.complete && i.naturalWidth > 0).length"
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"


def test_a_card_leads_to_the_drawing_and_the_documentation(site: Site, open_page: OpenPage) -> None:
    html = site(*PAGES, generators=("block_pages",))
    with open_page(html / "blocks.html", dark=True) as page:
        images = page.locator(".block-card img")
        assert images.count() > 30
        assert images.evaluate_all(LOADED) == images.count()
        page.locator(".block-card", has_text="ShuffleUnitV2").get_by_role("img").click()
        page.wait_for_url("**/_generated/blocks/mobile.html#shuffleunitv2")
        section = page.locator("section#shuffleunitv2")
        assert section.locator("img.block-drawing").count() == 1
        assert "cnnarch.blocks.ShuffleUnitV2(" in section.locator("dt.sig").first.inner_text()


def test_wide_drawings_scroll_inside_their_figure_on_a_phone(
    site: Site, open_page: OpenPage
) -> None:
    html = site(*PAGES, generators=("block_pages",))
    for name in ("blocks.html", "_generated/blocks/inception.html"):
        with open_page(html / name, width=390) as page:
            assert page.evaluate(OVERFLOW) <= 0
    with open_page(html / "_generated/blocks/inception.html", width=390) as page:
        drawing = page.locator("section#inception img.block-drawing")
        assert drawing.bounding_box()["width"] > 390  # not shrunk
