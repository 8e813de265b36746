"""The code of docs/sharing.md runs, in order, with a local server as the Hub."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

import cnnarch
from cnnarch.cli import main
from cnnarch.weights.runs import PICTURES
from tests.weights.runs import network, photograph, write_run
from tests.weights.server import Server

PAGE = Path(__file__).parents[2] / "docs" / "sharing.md"
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NEEDS = ("timm", "transformers")


def test_the_page_runs(
    hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.delitem(sys.modules, "hubconf", raising=False)
    saved = write_run(tmp_path / "runs" / "flowers", network())
    photograph().save("photo.jpg")
    names: dict[str, object] = {}
    for kind, text in BLOCK.findall(PAGE.read_text("utf-8")):
        if kind == "console":
            command = shlex.split(text)
            if command[0] == "cnnarch":
                main(command[1:])
                assert "daisy" in capsys.readouterr().out
            else:
                assert command[:2] == ["pip", "install"]
        elif not any(f"import {name}" in text or f"from {name}" in text for name in missing()):
            exec(compile(text, str(PAGE), "exec"), names)
    expected = cnnarch.from_pretrained(saved).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for name in ("model", "again", *(["theirs"] if "theirs" in names else [])):
            logits = names[name].eval()(x)  # type: ignore[attr-defined]
            assert torch.allclose(logits, expected(x), atol=1e-5), name
    assert names["finetuned"].num_classes == 5  # type: ignore[attr-defined]
    assert "curves.png" in hub.repositories["owner/flowers"]


def missing() -> list[str]:
    return [name for name in NEEDS if importlib.util.find_spec(name) is None]


def test_plots_with_images_are_named_on_the_page() -> None:
    named = set(re.findall(r"`(\w+)\.png`", PAGE.read_text("utf-8")))
    shows_images = {name for name, picture in PICTURES.items() if "image" in picture.alt}
    assert named == shows_images - {"confusion", "embeddings"}  # these count and plot features
