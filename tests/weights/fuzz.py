"""Load randomly mutated weights files: `python -m tests.weights.fuzz FOLDER COUNT SEED`.

The script runs in a process with limited memory so that the test can detect crashes. It fails if
an exception other than WeightsError is raised, if the network changes despite an error, or if
memory keeps growing.
"""

import json
import random
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from cnnarch.weights import WeightsError, load
from cnnarch.weights.checkpoint import find_pretrained

EXTRA_ADDRESS_SPACE = 2**30  # memory limit in bytes beyond the usage after imports
GROWTH = 200 * 2**20  # maximum increase in peak memory, in bytes; the files are 3 KiB each


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def samples(folder: Path) -> dict[str, bytes]:
    """Write valid files and return their contents by file name."""
    state = network().state_dict()
    config = json.dumps({"builder": "resnet18", "options": {"num_classes": 3}})
    save_file(state, folder / "a.safetensors", {"format": "pt", "cnnarch": config})
    torch.save(state, folder / "b.pth")
    torch.save({"state_dict": state, "epoch": 1}, folder / "c.pth")
    torch.save(state, folder / "d.pth", _use_new_zipfile_serialization=False)
    index = {"weight_map": dict.fromkeys(state, "shard.safetensors")}
    save_file(state, folder / "shard.safetensors")
    (folder / "e.safetensors.index.json").write_text(json.dumps(index))
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name[1] in "."}


def mutated(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        at = rng.randrange(len(data) + 1) if rng.random() < 0.5 else rng.randrange(400)
        at = min(at, len(data))
        rng.choice(MUTATIONS)(data, at, rng)
    return bytes(data)


def flip(data: bytearray, at: int, rng: random.Random) -> None:
    if at < len(data):
        data[at] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, at: int, rng: random.Random) -> None:
    large = b"\x7f" + b"\xff" * 3
    new = rng.choice([rng.randbytes(rng.randint(1, 8)), b"\xff" * 8, b"\0" * 8, large])
    data[at : at + len(new)] = new


def digits(data: bytearray, at: int, rng: random.Random) -> None:
    """Replace the next digit, which may be part of a size, offset or shape."""
    for index in range(at, min(at + 200, len(data))):
        if data[index : index + 1].isdigit():
            new = rng.choice([b"0", b"-1", b"9" * 20, b"1e9", b"NaN", b"4294967296", b"true"])
            data[index : index + 1] = new
            return


def insert(data: bytearray, at: int, rng: random.Random) -> None:
    data[at:at] = rng.randbytes(rng.randint(1, 64))


def delete(data: bytearray, at: int, rng: random.Random) -> None:
    del data[at : at + rng.randint(1, 64)]


def truncate(data: bytearray, at: int, _rng: random.Random) -> None:
    del data[at:]


def duplicate(data: bytearray, at: int, rng: random.Random) -> None:
    piece = data[at : at + rng.randint(1, 200)]
    data[at:at] = piece


MUTATIONS: list[Callable[[bytearray, int, random.Random], None]] = [
    flip,
    overwrite,
    digits,
    insert,
    delete,
    truncate,
    duplicate,
]


def attempt(path: Path, model: nn.Module) -> bool:
    """Load a file and return whether it was rejected; check that rejection changes nothing."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        load(model, path)
    except WeightsError:
        for name, tensor in model.state_dict().items():
            same = torch.equal(tensor, before[name]) or tensor.isnan().any()
            assert same, f"{name} changed although {path.name} was rejected"
        return True
    return False


def main(folder: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    originals, model = samples(folder), network()
    for name in originals:
        assert not attempt(folder / name, model), f"{name} was rejected without mutation"
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_ADDRESS_SPACE, used + EXTRA_ADDRESS_SPACE))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for number in range(count):
        name = rng.choice(list(originals))
        path = folder / f"fuzzed{name[1:]}"
        path.unlink(missing_ok=True)  # the network still maps the previous file
        path.write_bytes(mutated(originals[name], rng))
        refused += attempt(path, model)
        if name.startswith("a"):
            with suppress(WeightsError):
                find_pretrained(path)
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
        assert grown < GROWTH, f"mutation {number} of seed {seed} used {grown:,} bytes"
    print(json.dumps({"count": count, "refused": refused, "grown": grown}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
