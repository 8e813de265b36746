"""download: fetch a checkpoint ahead, for machines without a network."""

import argparse

from cnnarch.facts.sheets import aliases

__all__ = ["run_download"]


def run_download(parsed: argparse.Namespace) -> int:
    """Put a network's checkpoint into a folder that `weights=` takes."""
    from cnnarch.weights import download

    name = aliases().get(parsed.model, parsed.model)
    folder = download(name, parsed.to, weights=parsed.weights)
    print(f"{folder} holds {', '.join(sorted(p.name for p in folder.iterdir()))}")
    print(f"load it with cnnarch.{name}(weights={str(folder.resolve())!r})")
    return 0
