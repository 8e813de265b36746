"""Draw the typical block of each family."""

import copy
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

import cnnarch
from cnnarch.blocks import ConvNormAct, Stage
from cnnarch.facts.builders import BUILDERS
from cnnarch.facts.cards import ModelCard
from cnnarch.facts.sheets import read_sheet

from .block_drawings import describe, save

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
    title = f"the {type(block).__name__} block of {card.name}"
    if block is network(card.name):
        title = card.name
    elif isinstance(block, nn.ModuleList):
        title = f"the first {len(block)} layers of {title}"
    return name, describe(title, block, [size])


@cache
def network(builder: str) -> cnnarch.ImageClassifier:
    """Return a network without weights, which is built only once."""
    with torch.device("meta"):
        return cnnarch.get_model(builder).eval()


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

    It is the one that the sheet names, or else the first of those that the stages contain most
    often, with the same layers. Some stages are themselves blocks, and a network without blocks is
    returned as a whole.
    """
    model = network(card.name)
    sizes = input_sizes(model, card.input_size)
    if path := read_sheet(card.family).block:
        block = model.get_submodule(path)
        return block, sizes[block]
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
    """Return the names and types of a block's layers, but not the kinds of the activations."""
    types = [(path, type(module)) for path, module in block.named_modules()]
    activations = "torch.nn.modules.activation"
    return str([(path, t.__name__ if t.__module__ != activations else "") for path, t in types])


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
