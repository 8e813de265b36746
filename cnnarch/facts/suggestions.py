"""Suggest correct names for a misspelled name."""

import difflib
from collections.abc import Iterable, Mapping


def suggest(
    name: str, known: Iterable[str] | Mapping[str, str], listed: Iterable[str] | None = None
) -> str:
    """Suggest the names most similar to a wrong name, or list all names if none is similar.

    Args:
        name: the wrong name.
        known: the correct names, or a mapping from each to its suggestion.
        listed: names to list if none is similar; None lists all suggestions.

    >>> suggest("resnet5O", ["vgg11", "resnet50"])
    "did you mean 'resnet50'?"
    >>> suggest("cnns", {"cnn": "convnet"})
    "did you mean 'convnet'?"
    >>> suggest("xyz", ["vgg11", "resnet50"])
    'available: vgg11, resnet50'
    """
    suggestions = known if isinstance(known, Mapping) else {right: right for right in known}
    longer = sorted((right for right in suggestions if name and right.startswith(name)), key=len)
    close = difflib.get_close_matches(name, suggestions)
    near = dict.fromkeys(suggestions[n] for n in longer + close)
    if near:
        return f"did you mean {' or '.join(map(repr, list(near)[:3]))}?"
    return f"available: {', '.join(suggestions.values() if listed is None else listed)}"
