"""Draw the typical block of each family."""

import copy
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import matplotlib as mpl
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import ConvNormAct, Stage
from cnnarch.facts.builders import BUILDERS
from cnnarch.facts.cards import ModelCard
from cnnarch.facts.sheets import read_sheet
from cnnarch.viz import block_diagram

LAYERS_SHOWN = 2  # of a block that is a list of layers, such as a dense block

Shape = tuple[int, ...]
T = TypeVar("T")


def draw_block(family: str, folder: Path) -> tuple[str, str]:
    """Draw a family's typical block to `folder`/blocks.

    Returns:
        The name of the file relative to `folder`, and its description for the `alt` attribute.
    """
    card = card_of(family)
    block, size = block_of(card)
    name = f"blocks/{family}.svg"
    save(block, [size], folder / name)
    return name, f"{describe(block)} in {card.name}, drawn from the module."


def card_of(family: str) -> ModelCard:
    """Return the card of a family's usual network, or of its first one."""
    usual = read_sheet(family).usual
    return next(
        card
        for card in map(cnnarch.get_card, [usual] if usual else BUILDERS)
        if card.family == family
    )


def block_of(card: ModelCard) -> tuple[nn.Module, Shape]:
    """Return the typical block of a network and the size of its input.

    It is the first of those that the stages contain most often, with the same layers. Some stages
    are themselves blocks, and a network without blocks is returned as a whole.
    """
    with torch.device("meta"):
        model = card.build().eval()
    sizes = input_sizes(model, card.input_size)
    inside = [block for stage in model.stages for block in stage.children()]
    stages = [stage for stage in model.stages if type(stage) is not Stage]
    blocks = list(filter(is_block, inside)) or list(filter(is_block, stages))
    if not blocks:
        return model, card.input_size
    kind = most_frequent(map(type, blocks))
    blocks = [block for block in blocks if type(block) is kind]
    usual = most_frequent(map(structure, blocks))
    block = next(block for block in blocks if structure(block) == usual)
    return shortened(block), sizes[block]


def most_frequent(values: Iterable[T]) -> T:
    """Return the value that occurs most often, or the first of them."""
    return Counter(values).most_common(1)[0][0]


def is_block(module: nn.Module) -> bool:
    """Return whether a module has several convolutions or linear layers."""
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return len(layers) > 1 and not isinstance(module, ConvNormAct)


def structure(block: nn.Module) -> str:
    """Return the types of a block's layers by path."""
    return str([(path, type(module).__name__) for path, module in block.named_modules()])


def shortened(block: nn.Module) -> nn.Module:
    """Return a copy of a list of similar layers with only the first ones."""
    if isinstance(block, nn.ModuleList):
        block = copy.deepcopy(block)
        del block[LAYERS_SHOWN:]
    return block


def input_sizes(model: nn.Module, size: Shape) -> dict[nn.Module, Shape]:
    """Return the size of each module's first input, without the batch dimension."""
    sizes: dict[nn.Module, Shape] = {}

    def record(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        sizes[module] = tuple(inputs[0].shape[1:])

    hooks = [module.register_forward_pre_hook(record) for module in model.modules()]
    with torch.no_grad():
        model(torch.empty(1, *size, device="meta"))
    for hook in hooks:
        hook.remove()
    return sizes


def save(block: nn.Module, sizes: list[Shape], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "cnnarch"}):  # the same file in every build
        block_diagram(block, *sizes).savefig(path, metadata={"Date": None})


def describe(block: nn.Module) -> str:
    return f"A {type(block).__name__} block"
