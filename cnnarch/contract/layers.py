"""Layer names: stage names from `feature_info`, and module paths."""

from torch import nn

from cnnarch.contract.trunk import Trunk
from cnnarch.facts.suggestions import suggest


def stage_layers(model: nn.Module) -> dict[str, str]:
    """Return the module paths of the stem and stages, keyed by name in `feature_info`.

    >>> import cnnarch
    >>> stage_layers(cnnarch.resnet18())["conv4_x"]
    'stages.2'
    """
    if not isinstance(model, Trunk):
        return {}
    return dict(zip(model.stage_names, model.stage_paths, strict=True))


def layer_path(model: nn.Module, name: str) -> str:
    """Return the module path of a layer.

    Args:
        model: any network. Only cnnarch networks have stage names.
        name: a stage name such as "conv4_x", or a module path such as "stages.2.0".

    Raises:
        ValueError: the layer does not exist. The message lists similar layers and the stages.
    """
    stages = stage_layers(model)
    paths = [path for path, _ in model.named_modules() if path]
    path = stages.get(name, name)
    if path in paths:
        return path
    children = [child for child, _ in model.named_children()]
    hint = suggest(name, [*stages, *paths], stages or children)
    if stages and "did you mean" in hint:
        hint += f" (stages: {', '.join(stages)})"
    raise ValueError(f"there is no layer {name!r}; {hint}")


def layer_name(model: nn.Module, path: str) -> str:
    """Return the stage name of a module path, or the path itself if it is not a stage."""
    return next((name for name, known in stage_layers(model).items() if known == path), path)
