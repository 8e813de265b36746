"""What to say of a wrong name: the right ones that are near it."""

import difflib
from collections.abc import Iterable, Mapping

__all__ = ["suggest"]


def suggest(
    name: str, known: Iterable[str] | Mapping[str, str], listed: Iterable[str] | None = None
) -> str:
    """The names nearest to a wrong one, or a list if none is near.

    Args:
        name: the wrong one.
        known: the right ones, or what to offer for each.
        listed: what to list; None lists what is offered.

    >>> suggest("resnet5O", ["vgg11", "resnet50"])
    "did you mean 'resnet50'?"
    >>> suggest("cnns", {"cnn": "convnet"})
    "did you mean 'convnet'?"
    >>> suggest("xyz", ["vgg11", "resnet50"])
    'there are vgg11, resnet50'
    """
    offered = known if isinstance(known, Mapping) else {right: right for right in known}
    longer = sorted((right for right in offered if name and right.startswith(name)), key=len)
    near = dict.fromkeys(offered[n] for n in longer + difflib.get_close_matches(name, offered))
    if near:
        return f"did you mean {' or '.join(map(repr, list(near)[:3]))}?"
    return f"there are {', '.join(offered.values() if listed is None else listed)}"
