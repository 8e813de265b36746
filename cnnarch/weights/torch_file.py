"""Read what torch.save wrote, without executing a pickle."""

import argparse
import mmap
import threading
import zipfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from cnnarch.weights.errors import WeightsError
from cnnarch.weights.files import open_regular

__all__ = ["read_torch"]

_SAFE_SINCE = (2, 10)  # before it, weights_only=True could be made to run code
_ZIP = b"PK\x03\x04"
_ONE_AT_A_TIME = threading.Lock()  # torch keeps what is allowed in a global


def read_torch(path: Path) -> Any:
    """What a .pth, .pt or .bin file holds: tensors and plain containers, nothing else.

    Files in the zip format, torch.save's since PyTorch 1.6, are mapped; older ones are read.

    Raises:
        WeightsError: the file is damaged, compressed, or holds objects other than tensors.
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
            _ONE_AT_A_TIME,
            torch.serialization.safe_globals([argparse.Namespace]),  # training scripts keep theirs
            _private_mapping(),
        ):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # what torch raises on damaged files is anything
        reason = str(error).strip().partition("\n")[0]
        raise WeightsError(
            f"{path} cannot be read as tensors alone ({type(error).__name__}: {reason:.300}). "
            "Nothing in it was executed. If you trust it, save the state dict of the network in "
            "it with safetensors and load that file"
        ) from error


def _private_mapping() -> AbstractContextManager[Any]:
    """So that training does not write to the file, whatever the user has set."""
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows, where torch maps privately always
        return nullcontext()
    return torch.serialization.set_default_mmap_options(mmap.MAP_PRIVATE)


def _check_zip(path: Path) -> None:
    """Refuse archives that would unpack to more than they are."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise WeightsError(f"{path} is a damaged zip archive: {error}") from error
    if any(m.filename.endswith("/constants.pkl") for m in members):
        raise WeightsError(f"{path} is a TorchScript archive, which is a program")
    if any(m.compress_type != zipfile.ZIP_STORED for m in members):
        raise WeightsError(f"{path} is compressed, which torch.save never does")
    if sum(m.file_size for m in members) > path.stat().st_size:
        raise WeightsError(f"{path} would unpack to more bytes than it has")
