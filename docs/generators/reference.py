"""Generate the reference: an index, a page per group and a page per public name."""

import inspect
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import cnnarch
from cnnarch.testing import CHECKS

from .keywords import KEYWORDS
from .text import table, write

FOLDER = "reference"


class Group(NamedTuple):
    """A group of public names.

    Args:
        page: file name of the group's page.
        title: heading of the page.
        text: what the names are for, and where the guides are.
        modules: modules whose public names are listed, in this order.
        names: further public names.
        leaves_out: names of the modules that are documented elsewhere.
        more: further pages.
    """

    page: str
    title: str
    text: str
    modules: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    leaves_out: frozenset[str] = frozenset()
    more: tuple[str, ...] = ()


CHECK_NAMES = frozenset(f"cnnarch.testing.{check.__name__}" for check in CHECKS)
GROUPS = (
    Group(
        "networks",
        "Networks",
        "Find and build networks by name. The builders, such as `cnnarch.resnet50`, are on the "
        "[pages of their families](../families.md), and the blocks on [their own page]"
        "(../../blocks.md). The methods of all networks are explained in "
        "[the contract](../../contract.md).",
        modules=("cnnarch.registry",),
        names=(
            "cnnarch.ImageClassifier",
            "cnnarch.AuxLogits",
            "cnnarch.contract.trunk.FeatureInfo",
        ),
    ),
    Group(
        "cards",
        "Model cards",
        "What `cnnarch.get_card` returns: a network's paper, exact counts, the values printed in "
        "the paper, and the same networks in other libraries.",
        names=tuple(
            f"cnnarch.facts.cards.{name}"
            for name in ("ModelCard", "Form", "Stated", "Paper", "Twin", "NearTwin")
        ),
    ),
    Group(
        "analysis",
        "Analysis",
        "Count parameters and multiply-adds, and list the layers of any network.",
        modules=("cnnarch.analysis",),
    ),
    Group(
        "weights",
        "Weights",
        "Load, convert, save and share weights. The guide is "
        "[Pretrained weights](../../weights.md).",
        modules=("cnnarch.weights",),
    ),
    Group(
        "features",
        "Backbones and features",
        "Feature maps for [detection and segmentation](../../backbones.md), and "
        "[embeddings of images](../../embedding.md).",
        modules=("cnnarch.backbones", "cnnarch.dilation", "cnnarch.embedding"),
    ),
    Group(
        "finetuning",
        "Fine-tuning",
        "Freeze layers, group parameters and replace normalization layers. The guide is "
        "[Fine-tune](../../finetuning.md). "
        "[`init_weights`](../blocks/training.md#init_weights) is documented with the blocks.",
        modules=("cnnarch.finetuning",),
        leaves_out=frozenset({"cnnarch.init_weights"}),
    ),
    Group(
        "training",
        "Training",
        "Load data, train and evaluate. The guide is [Training](../../training.md).",
        modules=("cnnarch.training",),
    ),
    Group(
        "viz",
        "Figures",
        "Each function returns a Matplotlib figure. [The gallery](../../gallery.md) shows all of "
        "them.",
        modules=("cnnarch.viz",),
    ),
    Group(
        "inference",
        "Inference and export",
        "Run a network [fast](../../inference.md), [classify images](../../predictor.md), and "
        "[export, fold and quantize](../../export.md).",
        modules=("cnnarch.inference", "cnnarch.inference.fuse", "cnnarch.inference.export"),
        names=("cnnarch.images.Unreadable",),
    ),
    Group(
        "testing",
        "Testing",
        "Checks for your own networks. The guide is [Test your own network](../../testing.md), "
        "and [Checks](checks.md) lists the functions in `cnnarch.testing.CHECKS`.",
        modules=("cnnarch.testing",),
        leaves_out=CHECK_NAMES,
        more=("checks",),
    ),
)


def write_pages(folder: Path) -> None:
    """Write the index, and the pages of all groups and names, to `folder`/reference."""
    target = folder / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    pages = {"index": index_page(), "checks": checks_page()}
    pages |= {group.page: group_page(group) for group in GROUPS}
    pages |= {name: name_page(name) for group in GROUPS for name in names_of(group)}
    for old in target.glob("*.md"):
        if old.stem not in pages:
            old.unlink()
    for page, text in pages.items():
        write(target / f"{page}.md", text)


def names_of(group: Group) -> list[str]:
    """Return the full names that are documented in a group, each as users import it."""
    found: dict[str, None] = dict.fromkeys(group.names)
    known = set()
    for path in group.modules:
        for name in import_module(path).__all__:
            if name not in known:
                known.add(name)
                found[f"cnnarch.{name}" if name in cnnarch.__all__ else f"{path}.{name}"] = None
    return [name for name in found if name not in group.leaves_out]


def resolve(name: str) -> object:
    """Return the object with a full name; modules shadowed by functions are found, too."""
    path, _, last = name.rpartition(".")
    return getattr(import_module(path), last)


def index_page() -> str:
    parts = [
        "# Reference",
        "Every public name, by purpose. The builders of networks are on the "
        "[pages of their families](../families.md), and the blocks on "
        "[their own page](../../blocks.md). The command line is on the page "
        "[Commands](../commands.md).",
    ]
    for group in GROUPS:
        parts += [f"## [{group.title}]({group.page}.md)", summary_table(names_of(group))]
    pages = "\n".join(group.page for group in GROUPS)
    parts += [f"```{{toctree}}\n:hidden:\n{pages}\n```"]
    return "\n\n".join(parts) + "\n"


def group_page(group: Group) -> str:
    names = names_of(group)
    entries = [f"{last_part(name)} <{name}>" for name in names]
    toctree = "\n".join(["```{toctree}", ":hidden:", *entries, *group.more, "```"])
    packages = [path for path in group.modules if path.count(".") == 1]
    targets = [f"```{{eval-rst}}\n.. py:module:: {path}\n```" for path in packages]
    parts = [f"# {group.title}", *targets, group.text, summary_table(names), toctree]
    return "\n\n".join(parts) + "\n"


def summary_table(names: list[str]) -> str:
    rows = [(f"[`{last_part(name)}`]({name}.md)", first_sentence(name)) for name in names]
    return table(("name", "purpose"), rows)


def last_part(name: str) -> str:
    return name.rpartition(".")[2]


def first_sentence(name: str) -> str:
    value = resolve(name)
    if not callable(value):
        return f"A tuple of {len(value)} values."  # type: ignore[arg-type]
    return (inspect.getdoc(value) or "").partition("\n")[0].replace("|", r"\|")


def name_page(name: str) -> str:
    """Return the page of a name.

    The search finds its keywords word by word, and as phrases of the index, which come first.
    """
    if name not in KEYWORDS:
        return f"# {name}\n\n{directive(name)}\n"
    phrases = KEYWORDS[name].split(", ")
    words = ", ".join(dict.fromkeys(" ".join(phrases).split()))
    head = f"---\nmyst:\n  html_meta:\n    keywords: {words}\n---"
    entries = ", ".join(f"! {phrase}" for phrase in phrases)
    index = f"```{{index}} {entries}\n```"
    return f"{head}\n\n{index}\n\n# {name}\n\n{directive(name)}\n"


def directive(name: str) -> str:
    """Return the autodoc directive for a name."""
    value = resolve(name)
    option = ""
    if inspect.isclass(value):
        kind = "exception" if issubclass(value, BaseException) else "class"
        if value is cnnarch.ImageClassifier:
            option = "\n   :inherited-members: Module"
    else:
        kind = "function" if inspect.isfunction(value) else "data"
    return f"```{{eval-rst}}\n.. auto{kind}:: {name}{option}\n```"


def checks_page() -> str:
    """Return the page of all checks, which are too short for pages of their own."""
    names = [f"cnnarch.testing.{check.__name__}" for check in CHECKS]
    text = (
        "Each function raises an `AssertionError` if a network breaks a rule of "
        "[the contract](../../contract.md). [`check_classifier`]"
        "(cnnarch.testing.check_classifier.md) runs them all."
    )
    return "\n\n".join(["# Checks", text, *map(directive, names)]) + "\n"
