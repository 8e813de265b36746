"""Group a network's parameters by stage, with a learning rate for each group."""

import math
from typing import Any

from cnnarch.blocks._checks import check_number, check_positive
from cnnarch.contract.trunk import Trunk, as_trunk


def param_groups(
    model: Trunk, lr: float, weight_decay: float = 0.0, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Return optimizer parameter groups with lower learning rates in earlier stages.

    The head uses `lr`, the last stage `layer_decay * lr`, the stage before it
    `layer_decay**2 * lr`, and so on down to the stem. Biases, norms and layer
    scales have no weight decay.

    Args:
        model: a network or a backbone.
        lr: learning rate of the head, above 0.
        weight_decay: weight decay for all other parameters, at least 0.
        layer_decay: ratio of each stage's learning rate to the next stage's, in (0, 1].

    Returns:
        Groups with "params", "lr", "weight_decay" and "name", for example "conv2_x" for the
        weights of a stage and "conv2_x, no decay" for its biases and norms. Each parameter is in
        one group.

    Raises:
        TypeError: `model` is neither a network nor a backbone.
        ValueError: a number is out of range.

    >>> import cnnarch
    >>> groups = param_groups(cnnarch.resnet18(), lr=0.1, layer_decay=0.5)
    >>> {group["name"]: group["lr"] for group in groups[:3]}
    {'conv1': 0.003125, 'conv1, no decay': 0.003125, 'conv2_x': 0.00625}
    """
    check_positive("lr", lr)
    check_number("layer_decay", layer_decay, "in (0, 1]", lambda value: 0 < value <= 1)
    check_number("weight_decay", weight_decay, "at least 0", lambda value: 0 <= value < math.inf)
    model = as_trunk(model)
    count = len(model.stage_paths)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        inside = (i for i, path in enumerate(model.stage_paths) if name.startswith(f"{path}."))
        index = next(inside, count)
        decays = parameter.dim() > 1 and not name.endswith(".bias")
        title = (*model.stage_names, "head")[index] + ("" if decays else ", no decay")
        group = {
            "params": [],
            "lr": lr * layer_decay ** (count - index),
            "weight_decay": weight_decay if decays else 0.0,
            "name": title,
        }
        groups.setdefault(title, group)["params"].append(parameter)
    return list(groups.values())
