"""The fixture that opens pages finds their faults."""

from pathlib import Path

import pytest

from tests.site.conftest import OpenPage


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
