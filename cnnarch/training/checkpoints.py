"""Write and read the checkpoints of a training run."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from cnnarch.weights.files import atomic_write

PREFIX = "model."  # of the network's weights, as in the checkpoints of Lightning


def save_checkpoint(path: Path, values: dict[str, Any]) -> None:
    """Write a checkpoint and flush it to disk before it replaces the old file.

    Raises:
        OSError: the file cannot be written; the message names it. The old file, if any, is kept.
    """
    buffer = io.BytesIO()  # torch.save hides the cause if the disk is full
    torch.save(values, buffer)
    try:
        with atomic_write(path) as part, part.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        kept = "the previous checkpoint is unchanged" if path.exists() else "nothing was saved"
        reason = f"{error.strerror}; {kept}"
        raise OSError(error.errno, reason, str(path)) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint without executing code; its tensors are on the CPU.

    Raises:
        ValueError: the file is corrupted, contains objects that could execute code, or was written
            by an earlier version.
    """
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is corrupted; delete it to continue without it") from error
    if "rows" not in saved:
        raise ValueError(
            f"{path} was written by an earlier version of cnnarch; finish the run with that "
            "version, or overwrite it"
        )
    return saved


def weights_of(model: nn.Module) -> dict[str, Any]:
    """Return a network's weights for a checkpoint."""
    return model.state_dict(prefix=PREFIX)


def load_weights(model: nn.Module, weights: dict[str, Any]) -> None:
    """Load what `weights_of` returned, whose names this changes."""
    consume_prefix_in_state_dict_if_present(weights, PREFIX)
    model.load_state_dict(weights)
