"""Read files written by torch.save without executing pickles.

Zip archives are checked before they are passed to torch.load, which does not limit its memory use.
"""

import argparse
import mmap
import re
import threading
import zipfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from cnnarch.weights.errors import WeightsError
from cnnarch.weights.files import open_regular

_SAFE_SINCE = (2, 10)  # in earlier versions, weights_only=True can be bypassed
_ZIP = b"PK\x03\x04"
_LOCK = threading.Lock()  # safe_globals modifies global state in torch


def read_torch(path: Path, mapped: bool = False) -> Any:
    """Return the contents of a .pth, .pt or .bin file: tensors and plain containers only.

    Args:
        path: the file.
        mapped: whether to map a file in the zip format, the default since PyTorch 1.6.

    Raises:
        WeightsError: the file is corrupted, compressed, or contains objects other than tensors.
    """
    if tuple(map(int, torch.__version__.split(".")[:2])) < _SAFE_SINCE:
        raise WeightsError(
            f"{path} is a pickle, which torch {torch.__version__} cannot read safely: use "
            "torch >= 2.10 or a .safetensors file"
        )
    with open_regular(path) as file:
        zipped = file.read(len(_ZIP)) == _ZIP
    if zipped:
        _check_zip(path)
    try:
        with (
            _LOCK,
            torch.serialization.safe_globals([argparse.Namespace]),  # found in training checkpoints
            _private_mapping(),
        ):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped and mapped)
    except Exception as error:  # torch may raise any exception type
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]:.300}"
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            reason = f"it contains a {found[1]}"  # such as NumPy's scalar for an accuracy
        raise WeightsError(
            f"{path} cannot be read as plain tensors: {reason}. Nothing in it was executed. If you "
            "trust the file, load it with torch.load(path, weights_only=False) and save only its "
            "state dict"
        ) from error


def _private_mapping() -> AbstractContextManager[Any]:
    """Prevent training from writing to the file, regardless of the user's mmap options."""
    if not hasattr(mmap, "MAP_PRIVATE"):  # on Windows, torch always uses private mappings
        return nullcontext()
    return torch.serialization.set_default_mmap_options(mmap.MAP_PRIVATE)


def _check_zip(path: Path) -> None:
    """Reject archives that are compressed, contain code, or would grow when unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise WeightsError(f"{path} is a corrupted zip archive: {error}") from error
    if any(m.filename.endswith("/constants.pkl") for m in members):
        raise WeightsError(f"{path} is a TorchScript archive, which contains executable code")
    if any(m.compress_type != zipfile.ZIP_STORED for m in members):
        raise WeightsError(f"{path} is compressed, but torch.save never compresses")
    if sum(m.file_size for m in members) > path.stat().st_size:
        raise WeightsError(f"{path} would unpack to more bytes than it contains")
