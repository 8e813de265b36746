"""The fixtures of this folder: pages are built and opened, and faults of a page are found."""

from pathlib import Path

import pytest

from tests.site.conftest import OpenPage, Site


def test_the_front_page_opens_without_errors(site: Site, open_page: OpenPage) -> None:
    html = site("index.md")
    with open_page(html / "index.html") as page:
        assert page.locator("h1").count() == 1


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<script>missing()</script>", "missing is not defined"),
        ("<img src='missing.png'>", "failed: file:.*missing.png"),
        ("<img src='http://127.0.0.1:9/a.png'>", "requested: http://127.0.0.1:9/a.png"),
    ],
)
def test_faults_of_a_page_are_found(
    open_page: OpenPage, tmp_path: Path, body: str, fault: str
) -> None:
    path = tmp_path / "page.html"
    path.write_text(body)
    with pytest.raises(AssertionError, match=fault), open_page(path):
        pass
