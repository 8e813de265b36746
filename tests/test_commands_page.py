"""The page about the commands agrees with what the commands print."""

import re

import pytest

from cnnarch.cli import main
from docs.generators.commands import commands_page


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    """Return the text about each command."""
    parts = re.split(r"^## `cnnarch (\w+)`$", commands_page(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_every_command_has_a_section(
    capsys: pytest.CaptureFixture[str], sections: dict[str, str]
) -> None:
    listed = re.findall(r"^    (\w+) ", printed(capsys), re.MULTILINE)
    assert len(listed) == 11
    assert [*sections] == listed


def test_every_flag_is_on_the_page(
    capsys: pytest.CaptureFixture[str], sections: dict[str, str]
) -> None:
    for name, section in sections.items():
        flags = set(re.findall(r"(?<![\w.])--[\w.]+", printed(capsys, name))) - {"--help"}
        text = section + (sections["train"] if name == "compare" else "")
        assert not [flag for flag in flags if f"`{flag}`" not in text], name


def test_values_and_defaults_are_in_words(sections: dict[str, str]) -> None:
    """The defaults are those of the class `Recipe`."""
    rows = {row.split(" | ")[0]: row for row in sections["train"].splitlines()}
    assert rows["| `--learning_rate`"].startswith("| `--learning_rate` | number | `0.05` | ")
    assert rows["| `--step_epochs`"].startswith("| `--step_epochs` | number or list | `7` | ")
    assert "| integer or `auto` or `null` | `null` |" in rows["| `--num_steps`"]
    assert "| `--max_macs` | number, such as `25M` |" in sections["list"]
    assert "| `--rows` | positive integer |" in sections["draw"]
    assert "| `--half` |  | " in sections["export"]


def test_usage_shows_what_is_required(sections: dict[str, str]) -> None:
    assert "cnnarch export MODEL --output OUTPUT [FLAGS]\n" in sections["export"]
    assert "cnnarch list [PATTERN] [FLAGS]\n" in sections["list"]
    assert "cnnarch verify [MODELS ...]\n" in sections["verify"]
    assert "cnnarch check FOLDER\n" in sections["check"]
