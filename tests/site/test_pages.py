"""The fixture that opens pages and the formula for contrast find faults."""

from pathlib import Path

import pytest

from tests.site.conftest import OpenPage
from tests.site.contrast import contrast


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


def test_contrast_is_that_of_the_standard() -> None:
    """https://www.w3.org/TR/WCAG22: black on white is 21:1, and #767676 is 4.54:1."""
    assert contrast([0, 0, 0], [255, 255, 255]) == pytest.approx(21)
    assert contrast([118, 118, 118], [255, 255, 255]) == pytest.approx(4.54, abs=0.01)
