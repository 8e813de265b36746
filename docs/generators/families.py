"""Generate one page per family, with its idea and the reported and measured values."""

import importlib
import inspect
import re
from collections.abc import Sequence
from pathlib import Path

import cnnarch
from cnnarch.facts.builders import BUILDERS, families
from cnnarch.facts.cards import ModelCard, Paper
from cnnarch.facts.sheets import read_sheet

from .blocks import card_of
from .family.branches import branches_section
from .family.code import code_section, reference_section
from .family.pictures import block_section, draw_outline, network_section
from .family.results import speed_section, zoo_section
from .family.rows import rows_section
from .family.variants import departures_section, variants_section
from .family.weights import weights_section
from .text import bullets, write

INTRODUCTION = """# Networks

{networks} networks in {families} families, in the order of their papers. A family's page explains \
its idea, draws its block and its network, compares its sizes and costs with the printed ones, and \
lists its checkpoints. In the small drawings, each box stands for the image or for the output of \
the stem or of a stage. Its height shows the size of the map, its width the number of channels."""


def write_pages(folder: Path) -> None:
    """Write the pages of all families and their index to `folder`."""
    folder.mkdir(exist_ok=True)
    write(folder / "families.md", index_page(folder))
    for family in families():
        write(folder / f"{family}.md", family_page(family, folder))


def cards_of(family: str) -> list[ModelCard]:
    return [card for card in map(cnnarch.get_card, BUILDERS) if card.family == family]


def index_page(folder: Path) -> str:
    ordered = sorted(families(), key=lambda family: _order(card_of(family)))
    cards = "\n\n".join(_index_card(family, folder) for family in ordered)
    parts = [
        INTRODUCTION.format(networks=len(BUILDERS), families=len(ordered)),
        f"::::{{container}} families\n\n{cards}\n\n::::",
        "```{toctree}\n:hidden:\n" + "\n".join(ordered) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _order(card: ModelCard) -> tuple[int, str, str]:
    """Return the year, the month in the arXiv identifier, and the name; no paper comes last."""
    return (card.year or 9999, (card.paper and card.paper.arxiv) or "", card.family)


def _index_card(family: str, folder: Path) -> str:
    (title, sentence), shown = title_of(family), card_of(family)
    parts = [
        draw_outline(shown, folder),
        f"**[{title}]({family}.md)**" + (f" {shown.year}" if shown.year else ""),
        f"{sentence[:1].upper()}{sentence[1:]}.",
        f"*{counts_of(cards_of(family))}*",
    ]
    return ":::{container} family\n\n" + "\n\n".join(parts) + "\n\n:::"


def counts_of(cards: Sequence[ModelCard]) -> str:
    """Return a family's numbers of networks, parameters and checkpoints."""
    sizes = [_short(f(card.params for card in cards)) for f in (min, max)]
    size = sizes[0] if sizes[0] == sizes[1] else f"{sizes[0]} to {sizes[1]}"
    checkpoints = sum(len(card.weights) for card in cards)
    texts = [_plural(len(cards), "network"), f"{size} parameters"]
    return ", ".join([*texts, _plural(checkpoints, "checkpoint")] if checkpoints else texts)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("s" if count != 1 else "")


def _short(count: int) -> str:
    return f"{count / 1e6:.3g}M" if count >= 1e6 else f"{count / 1e3:.3g}K"


def title_of(family: str) -> tuple[str, str]:
    """Return the title of a model file's docstring, and the sentence after it."""
    module = importlib.import_module(f"cnnarch.models.{family}")
    line, _, _ = (inspect.getdoc(module) or "").partition("\n")
    title, _, sentence = line.partition(": ")
    return title, sentence.partition(" (")[0].rstrip(".")


def family_page(family: str, folder: Path) -> str:
    cards, shown, sheet = cards_of(family), card_of(family), read_sheet(family)
    papers = list(dict.fromkeys(card.paper for card in [shown, *cards] if card.paper))
    parts = [f"# {title_of(family)[0]}", " · ".join([counts_of(cards), *map(describe, papers[:1])])]
    parts += [f"**The problem.** {_linked(sheet.problem, family)}"]
    parts += [f"**The idea.** {_linked(sheet.idea, family)}"]
    parts += [f"**What followed.** {_linked(sheet.followed, family)}"]
    parts += block_section(shown, folder)
    parts += branches_section(cards, shown)
    parts += network_section(shown, folder)
    parts += rows_section(cards, shown)
    parts += variants_section(cards)
    if papers:
        parts += departures_section(cards)
    parts += weights_section(cards)
    parts += zoo_section(cards)
    parts += speed_section(cards)
    parts += code_section(family)
    parts += reference_section(family, [card.name for card in cards])
    if papers:
        parts += ["## References", bullets(list(map(describe, papers)))]
    return "\n\n".join(parts) + "\n"


def _linked(text: str, family: str) -> str:
    """Return a text in which the titles of other families are links to their pages."""
    pages = {title_of(other)[0]: other for other in families()}
    titles = sorted(pages, key=len, reverse=True)
    pattern = rf"(?<![\w-])({'|'.join(map(re.escape, titles))})(?![\w-])"

    def link(found: re.Match[str]) -> str:
        page = pages[found[1]]
        return found[1] if page == family else f"[{found[1]}]({page}.md)"

    return re.sub(pattern, link, text)


def describe(paper: Paper) -> str:
    """Return authors, title and year of a paper, with a link."""
    title = f"[{paper.title}]({paper.link})" if paper.link else f"“{paper.title}”"
    return f"{paper.authors}, {title}, {paper.year}"
