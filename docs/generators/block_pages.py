"""Generate the pages of the blocks: an overview, and a page for each group with drawings."""

import ast
import inspect
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from torch import nn

from cnnarch.facts.builders import families

from .block_drawings import Drawing, draw_example
from .blocks import card_of, network
from .imports import ROOT
from .text import write

FOLDER = "blocks"
MAX_LINKS = 12


class BlockGroup(NamedTuple):
    """A group of blocks, with a page of its own.

    Args:
        page: file name of the page.
        title: heading of the page.
        text: what the blocks have in common.
        modules: the modules in `cnnarch.blocks` whose public names are in the group.
        keywords: words that readers search for.
    """

    page: str
    title: str
    text: str
    modules: tuple[str, ...]
    keywords: str


GROUPS = (
    BlockGroup(
        "convolution",
        "Convolution and normalization",
        "A convolution with its norm and activation, which most other blocks are made of, and "
        "the norms and paddings of older networks.",
        ("conv", "same_padding", "normalization", "weight_standardization"),
        "conv bn relu cbr batchnorm layer local response std weight ws",
    ),
    BlockGroup(
        "plain",
        "Plain networks",
        "Blocks without branches: the layers of LeNet-5, a VGG stage, and the 1x1 convolutions of "
        "Network in Network.",
        ("lenet", "vgg", "nin"),
        "sequential feedforward mlpconv",
    ),
    BlockGroup(
        "residual",
        "Residual blocks",
        "Blocks that add their input to the output of their layers. The layers learn only the "
        "difference, and gradients reach early layers through the shortcut.",
        ("residual", "preactivation", "regnet", "res2net", "pyramid", "darknet", "shortcut"),
        "skip connection identity shortcut basicblock resnext multi-scale pyramidal",
    ),
    BlockGroup(
        "inception",
        "Inception modules",
        "Blocks that apply several kernel sizes to the same input and concatenate the results.",
        ("inception", "factorized", "residual_inception", "xception"),
        "parallel branches googlenet reduction",
    ),
    BlockGroup(
        "mobile",
        "Mobile blocks",
        "Blocks with few multiply-adds: depthwise, grouped and 1x1 convolutions instead of full "
        "ones.",
        (
            "separable",
            "inverted_residual",
            "fire",
            "shuffle",
            "shuffle_v2",
            "ghost",
            "fasternet",
            "universal_bottleneck",
            "star",
        ),
        "mbconv depthwise separable efficient mobilenet squeezenet lightweight",
    ),
    BlockGroup(
        "reparameterization",
        "Re-parameterized convolutions",
        "Convolutions that are trained in several branches and become one convolution for "
        "inference.",
        ("reparameterization",),
        "structural reparameterization repvgg mobileone multi-branch deploy merge fuse",
    ),
    BlockGroup(
        "dense",
        "Dense blocks and aggregation",
        "Blocks that concatenate the outputs of several layers: all preceding ones, those of a "
        "dense path beside a residual one, those of a tree, or those of half of the channels.",
        ("dense", "dual_path", "aggregation", "cross_stage"),
        "densenet concatenation feature reuse csp partial",
    ),
    BlockGroup(
        "attention",
        "Attention and gating",
        "Blocks that multiply a map by gates computed from it.",
        (
            "squeeze_excite",
            "cbam",
            "efficient_channel_attention",
            "selective_kernel",
            "split_attention",
        ),
        "squeeze excitation channel spatial se eca sk receptive field resnest splat",
    ),
    BlockGroup(
        "mlp",
        "MLPs and ConvNeXt",
        "Blocks in the form of a transformer layer, with an MLP or a depthwise convolution in "
        "place of attention.",
        (
            "mixer",
            "resmlp",
            "gmlp",
            "convnext",
            "convnext_v2",
            "layer_scale",
            "convmixer",
            "inception_next",
        ),
        "transformer token mixing patches gelu layernorm",
    ),
    BlockGroup(
        "heads",
        "Pooling and heads",
        "From the last map to the logits.",
        ("pooling", "head"),
        "classifier global average pooling fully connected",
    ),
    BlockGroup(
        "training",
        "Stages, regularization and initialization",
        "Layers and functions that matter during training.",
        ("checkpointing", "stochastic_depth", "initialization"),
        "drop path droppath kaiming he xavier glorot gradient checkpointing memory",
    ),
)


class Entry(NamedTuple):
    """A public name of `cnnarch.blocks`, with the drawing of its example if it has branches."""

    name: str
    value: object
    module: str
    drawing: Drawing | None


def write_pages(folder: Path) -> None:
    """Write the overview and the pages of all groups, with their drawings, to `folder`/blocks."""
    target = folder / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    parts = []
    for group in GROUPS:
        entries = entries_of(group, target)
        write(target / f"{group.page}.md", group_page(group, entries))
        parts.append(overview(group, entries))
    pages = "\n".join(f"_generated/{FOLDER}/{group.page}" for group in GROUPS)
    parts.append(f"```{{toctree}}\n:hidden:\n{pages}\n```")
    write(target / "overview.txt", "\n\n".join(parts) + "\n")


def entries_of(group: BlockGroup, folder: Path) -> list[Entry]:
    """Return the group's public names, and write the drawings to `folder`."""
    entries = []
    for name in group.modules:
        module = import_module(f"cnnarch.blocks.{name}")
        for public in module.__all__:
            value = getattr(module, public)
            is_block = inspect.isclass(value) and issubclass(value, nn.Module)
            drawing = draw_example(value, folder) if is_block else None
            entries.append(Entry(public, value, name, drawing))
    return sorted(entries, key=lambda entry: entry.drawing is None)  # those with drawings first


def overview(group: BlockGroup, entries: list[Entry]) -> str:
    """Return a section of the overview: a card for each drawing, and a list of the other names.

    The paths are relative to the page that includes the overview.
    """
    page = f"_generated/{FOLDER}/{group.page}.md"
    cards, others = [], []
    for entry in entries:
        link, sentence = f"{page}#{entry.name.lower()}", first_sentence(entry)
        if entry.drawing:
            picture = f"![{entry.drawing.alt}](_generated/{FOLDER}/{entry.drawing.file})"
            text = f"[{picture}]({link})\n\n**[{entry.name}]({link})**\n\n{sentence}"
            cards.append(f"::::{{container}} block-card\n{text}\n::::")
        else:
            others.append(f"- [`{entry.name}`]({link}): {sentence}")
    parts = [f"## {group.title}", f"{group.text} [All details]({page})"]
    if cards:
        parts.append("\n".join([":::::{container} block-cards", *cards, ":::::"]))
    return "\n\n".join([*parts, *(["\n".join(others)] if others else [])])


def group_page(group: BlockGroup, entries: list[Entry]) -> str:
    keywords = ", ".join(group.keywords.split())  # Sphinx splits them at commas
    head = f"---\nmyst:\n  html_meta:\n    keywords: {keywords}\n---"
    return "\n\n".join([head, f"# {group.title}", group.text, *map(section, entries)]) + "\n"


def section(entry: Entry) -> str:
    """Return a block's heading, drawing, the families that use it, and its documentation."""
    parts = [f"## {entry.name}"]
    if entry.drawing:
        lines = [f"```{{figure}} {entry.drawing.file}", f":alt: {entry.drawing.alt}"]
        caption = f"`{entry.drawing.example}`"
        parts.append("\n".join([*lines, ":class: block-drawing", "", caption, "```"]))
    if inspect.isclass(entry.value) and issubclass(entry.value, nn.Module):
        parts.append(users_text(entry.value))
    return "\n\n".join([*filter(None, parts), f"```{{eval-rst}}\n{directive(entry)}\n```"])


def directive(entry: Entry) -> str:
    if inspect.isclass(entry.value):
        return f".. autoclass:: cnnarch.blocks.{entry.name}"
    if inspect.isfunction(entry.value):
        return f".. autofunction:: cnnarch.blocks.{entry.name}"
    return f".. autodata:: cnnarch.blocks.{entry.module}.{entry.name}"  # documented only there


def first_sentence(entry: Entry) -> str:
    """Return the first line of an entry's documentation."""
    if inspect.isclass(entry.value) or inspect.isfunction(entry.value):
        return (inspect.getdoc(entry.value) or "").partition("\n")[0]
    return documentation_of_values(entry.module)[entry.name]


def documentation_of_values(module: str) -> dict[str, str]:
    """Return the strings that follow assignments in a module, by the names assigned."""
    body = ast.parse((ROOT / "blocks" / f"{module}.py").read_text()).body
    found = {}
    for statement, following in pairwise(body):
        if isinstance(statement, ast.Assign) and isinstance(following, ast.Expr):
            found[ast.unparse(statement.targets[0])] = ast.literal_eval(following.value)
    return found


def users_text(value: type[nn.Module]) -> str:
    """Return a sentence that links to the families with a block, or counts them if many have it."""
    users = [family for family in families() if value in block_types(family)]
    if len(users) == len(families()):
        return f"Used in all {len(users)} families."
    if len(users) > MAX_LINKS:
        return f"Used in {len(users)} of {len(families())} families."
    links = ", ".join(f"[{family_title(family)}](../{family}.md)" for family in users)
    return f"Used in {links}." if links else ""


@cache
def block_types(family: str) -> set[object]:
    """Return the classes, with their base classes, in a family's usual network and model file."""
    types = {type(module) for module in network(card_of(family).name).modules()}
    inside = vars(import_module(f"cnnarch.models.{family}")).values()
    types |= {value for value in inside if inspect.isclass(value)}
    return {base for each in types for base in each.__mro__}


def family_title(family: str) -> str:
    module = import_module(f"cnnarch.models.{family}")
    return (inspect.getdoc(module) or "").partition(":")[0]
