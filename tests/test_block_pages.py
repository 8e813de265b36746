"""The pages of the blocks have every public name of `cnnarch.blocks`, and drawings with texts."""

import importlib
import inspect
import re
from collections import Counter
from pathlib import Path

import pytest
from torch import nn

from cnnarch import blocks
from cnnarch.facts.builders import families
from docs.generators import block_pages
from docs.generators.block_drawings import describe
from docs.generators.blocks import draw_block

MODULES = {
    path.stem: importlib.import_module(f"cnnarch.blocks.{path.stem}")
    for path in Path(blocks.__file__).parent.glob("[a-z]*.py")
}
PUBLIC = {name for module in MODULES.values() for name in getattr(module, "__all__", ())}
SINGLE_LAYERS = {
    *("AdaptiveAvgPool2d", "Affine", "AlignedMaxPool2d", "BatchNorm", "ChannelShuffle", "LRN"),
    *("LayerNorm2d", "LayerScale", "PartialConv", "RBF", "SamePad2d", "ScaledTanh"),
    *("StandardizedConv2d", "StochasticDepth", "Subsampling", "ZeroPaddedMaxPool2d"),
}
"""Modules without layers inside, and layers that an equation describes better than a drawing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    block_pages.write_pages(folder)
    return folder / "blocks"


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[str, str]:
    files = [*folder.glob("*.md"), folder / "overview.txt"]
    return {path.stem: path.read_text() for path in files}


def test_every_module_with_public_names_is_in_one_group() -> None:
    """A new block belongs in a group of `docs/generators/block_pages.py`."""
    groups = Counter(name for group in block_pages.GROUPS for name in group.modules)
    public = {name for name, module in MODULES.items() if hasattr(module, "__all__")}
    assert groups == Counter(public)


def test_every_public_name_is_documented_once(pages: dict[str, str]) -> None:
    text = "\n".join(pages.values())
    documented = re.findall(r"^\.\. auto\w+:: cnnarch\.blocks\.(?:\w+\.)?(\w+)$", text, re.M)
    assert len(PUBLIC) > 60
    assert Counter(documented) == Counter(PUBLIC)


def test_every_public_name_is_in_the_overview(pages: dict[str, str]) -> None:
    linked = re.findall(r"^(?:\*\*|- )\[`?(\w+)`?\]\(", pages["overview"], re.MULTILINE)
    assert Counter(linked) == Counter(PUBLIC)


def test_every_module_of_several_layers_has_a_drawing(folder: Path, pages: dict[str, str]) -> None:
    modules = {n for n in PUBLIC if inspect.isclass(v := getattr(blocks, n)) and is_module(v)}
    assert modules - SINGLE_LAYERS == {path.stem for path in folder.glob("*.svg")}
    text = "\n".join(pages.values())
    for name in modules - SINGLE_LAYERS:
        assert f"](_generated/blocks/{name}.svg)" in text  # in the overview
        assert re.search(rf"{{figure}} {name}\.svg\n:alt: Diagram of {name}, ", text), name


def is_module(value: type) -> bool:
    return issubclass(value, nn.Module)


def test_links_lead_to_sections_and_files(folder: Path, pages: dict[str, str]) -> None:
    targets = re.findall(r"\]\(_generated/blocks/([^)#]+)#?([^)]*)\)", pages["overview"])
    assert len(targets) > 60
    for file, section in targets:
        assert (folder / file).exists(), file
        if section:
            headings = re.findall(r"^## (\w+)$", pages[file.removesuffix(".md")], re.MULTILINE)
            assert section in [heading.lower() for heading in headings]


def test_a_drawing_is_described_in_words() -> None:
    block = blocks.Residual(4, 8, 2)
    times = "\N{MULTIPLICATION SIGN}"
    assert describe("Residual", block, [(4, 8, 8)]).replace(times, "x") == (
        "Diagram of Residual, from top to bottom: input; conv 3x3, 8, /2, BN, ReLU; "
        "conv 3x3, 8, BN; conv 1x1, 8, /2, BN; "
        "sum of (conv 3x3, 8, BN) and (conv 1x1, 8, /2, BN); ReLU; output."
    )


def test_families_are_those_whose_networks_have_the_block() -> None:
    text = block_pages.users_text(blocks.Bottleneck)
    for family in ("resnet", "resnext", "wide_resnet", "se_resnet"):
        assert f"(../{family}.md)" in text
    for family in ("preresnet", "googlenet", "vgg"):
        assert f"(../{family}.md)" not in text
    assert block_pages.users_text(blocks.Stage) == f"Used in all {len(families())} families."


def test_drawings_are_the_same_in_every_build(folder: Path, tmp_path: Path) -> None:
    group = next(group for group in block_pages.GROUPS if group.page == "dense")
    block_pages.entries_of(group, tmp_path)
    for path in tmp_path.glob("*.svg"):
        assert path.read_bytes() == (folder / path.name).read_bytes()


@pytest.mark.parametrize(
    ("family", "title"),
    [
        ("resnet", "the Residual block of resnet18"),
        ("densenet_cifar", "the first 2 layers of the Dense block of densenet_40_12_cifar"),
        ("lenet", "lenet5"),
    ],
)
def test_the_drawing_of_a_family_says_what_it_shows(
    family: str, title: str, tmp_path: Path
) -> None:
    file, alt = draw_block(family, tmp_path)
    assert file == f"blocks/{family}.svg"
    assert (tmp_path / file).read_text().startswith("<?xml")
    assert alt.startswith(f"Diagram of {title}, from top to bottom: input; ")
