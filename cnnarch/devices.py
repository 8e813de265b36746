"""Run networks on GPUs: explain a lack of memory."""

import torch
from torch import Tensor


def out_of_memory(error: torch.OutOfMemoryError, images: Tensor) -> torch.OutOfMemoryError:
    """Return an error that states the batch, the memory that was needed, and what to try."""
    count, shape = len(images), tuple(images.shape[1:])
    reason, _, _ = str(error).partition("Including non-PyTorch memory")
    advice = "a smaller batch" if count > 1 else "smaller images"
    return torch.OutOfMemoryError(
        f"the GPU has too little free memory for a batch of {count} images of shape {shape}: use "
        f"{advice}, bfloat16, or a GPU that other programs do not use ({reason.strip()})"
    )
