"""Suggest correct names for a misspelled name."""

import difflib
from collections.abc import Iterable, Mapping

OTHER_LIBRARIES = {
    "pretrained": 'pass weights="DEFAULT" or another value of weights=',
    "features_only": "use cnnarch.get_backbone",
    "out_indices": "pass stages= to cnnarch.get_backbone",
    "return_nodes": "pass stages= to cnnarch.get_backbone",
    "create_model": "use cnnarch.get_model",
    "filter": "pass pattern=",
    "exclude_filters": "filter the returned list",
    "output_stride": "pass output_stride= to cnnarch.get_backbone, or use cnnarch.dilation.dilate",
    "replace_stride_with_dilation": "pass output_stride= to cnnarch.get_backbone",
    "in_chans": "pass in_channels=",
    "drop_rate": "pass dropout=",
    "drop_path_rate": "pass drop_path=",
    "zero_init_last": "pass zero_init_residual=",
    "checkpoint_path": "pass the path as weights=",
    "act_layer": "replace the modules after building",
    "global_pool": "replace model.head.pool after building",
    "progress": "downloads always show their progress",
    "transform_input": "checkpoints bring their preprocessing",
    "init_weights": "use cnnarch.init_weights",
}
"""What to use in place of the names in torchvision and timm."""


def suggest(
    name: str, known: Iterable[str] | Mapping[str, str], listed: Iterable[str] | None = None
) -> str:
    """Suggest the names most similar to a wrong name, or list all names if none is similar.

    For names that torchvision or timm use, return what to use in cnnarch.

    Args:
        name: the wrong name.
        known: the correct names, or a mapping from each to its suggestion.
        listed: names to list if none is similar; None lists all suggestions.

    >>> suggest("resnet5O", ["vgg11", "resnet50"])
    "did you mean 'resnet50'?"
    >>> suggest("resnet20", ["resnet200d", "resnet20_cifar"])
    "did you mean 'resnet20_cifar' or 'resnet200d'?"
    >>> suggest("cnns", {"cnn": "convnet"})
    "did you mean 'convnet'?"
    >>> suggest("xyz", ["vgg11", "resnet50"])
    'available: vgg11, resnet50'
    """
    if name in OTHER_LIBRARIES:
        return OTHER_LIBRARIES[name]
    suggestions = known if isinstance(known, Mapping) else {right: right for right in known}
    longer = [right for right in suggestions if name and right.startswith(name)]
    longer.sort(key=lambda right: (not right.startswith(f"{name}_"), len(right)))
    close = difflib.get_close_matches(name, suggestions)
    near = dict.fromkeys(suggestions[n] for n in longer + close)
    if near:
        return f"did you mean {' or '.join(map(repr, list(near)[:3]))}?"
    return f"available: {', '.join(suggestions.values() if listed is None else listed)}"
