"""download: save a checkpoint in a folder, for machines without network access."""

import argparse

from cnnarch.facts.sheets import aliases

__all__ = ["run_download"]


def run_download(parsed: argparse.Namespace) -> int:
    """Save a network's checkpoint in a folder that can be passed as `weights=`."""
    from cnnarch.weights import download

    name = aliases().get(parsed.model, parsed.model)
    folder = download(name, parsed.to, weights=parsed.weights)
    print(f"{folder} contains {', '.join(sorted(p.name for p in folder.iterdir()))}")
    print(f"load it with cnnarch.{name}(weights={str(folder.resolve())!r})")
    return 0
