"""What a network makes of images just before it classifies them."""

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.contract.modes import evaluating
from cnnarch.embedding.files import FileRows, check_output, fingerprint
from cnnarch.embedding.rows import Embeddings, Rows
from cnnarch.embedding.sources import open_source
from cnnarch.images import progress_bar

__all__ = ["Embeddings", "embed"]

Paths = Sequence[str | PathLike[str]]


def embed(
    model: nn.Module,
    images: "Tensor | np.ndarray | str | PathLike[str] | Paths | Iterable[Any]",
    *,
    batch_size: int = 32,
    output: str | PathLike[str] | None = None,
    overwrite: bool = False,
    preprocessing: Any = None,
    skip_unreadable: bool = False,
    progress: bool | None = None,
) -> Embeddings:
    """The pooled features of images: what the network's classifier reads, `num_features` wide.

    In networks with hidden layers before the classifier (AlexNet, VGG, LeNet) that is the last
    of them. The network runs in eval mode, on the device it is on, and has its mode back after.

    With `output` the rows are written as they come. When the same call is made again after
    any end, a `kill -9` too, it goes on where the file ends, and when all is there it computes
    nothing. NAME.json beside the file has the names, labels and unreadable files.

    Args:
        model: one of this package's networks, or any that has `forward_features` and
            `forward_head(x, pre_logits=True)`.
        images: floats as the network reads them, (N, C, H, W), or pixels in uint8: tensors
            (N, C, H, W), NumPy arrays (N, H, W, C). Or a folder, a file or a list of them. Or a
            DataLoader, or anything that gives batches: of tensors, or of tuples of a tensor
            and labels.
        batch_size: images to compute at once; a loader's own batches stay as they are.
        output: a .npy file, or a .safetensors file with one tensor, `features`.
        overwrite: replace the file and any rest of an earlier call, whatever they hold.
        preprocessing: from pixels to the network's input: a `cnnarch.weights.Preprocessing`, or
            a function of a uint8 tensor (C, H, W) or (N, C, H, W); None takes the network's.
        skip_unreadable: leave files out that cannot be read, and list them.
        progress: show a bar; None shows it in a terminal.

    Raises:
        ValueError: no images, a file that cannot be read, images of several sizes, a network
            that does not say how images are prepared, or an `output` that holds the features
            of other images or of another network.
        TypeError: something that is not an image, or a network that cannot be cut before its
            classifier.
        FileNotFoundError: there is no such file or folder.

    >>> import cnnarch, torch
    >>> cnnarch.embed(cnnarch.lenet5(), torch.zeros(5, 1, 32, 32)).features.shape
    (5, 84)
    """
    if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
        raise TypeError(
            f"{type(model).__name__} has no forward_features and forward_head; embed takes the "
            "networks of this package and those that are cut in the same way"
        )
    check_integer("batch_size", batch_size, 1)
    preprocessing = preprocessing or getattr(model, "preprocessing", None)
    source = open_source(model, images, batch_size, preprocessing, skip_unreadable)
    rows = Rows()
    if output is not None:
        rows = FileRows(check_output(output), fingerprint(model, preprocessing), overwrite)
    with rows, evaluating(model), progress_bar("embedding", source.total, progress) as advance:
        advance(rows.resume(source))
        if rows.unreadable and not skip_unreadable:  # an earlier call left them out
            raise ValueError(rows.unreadable[0].reason)
        for batch in source:
            rows.add(batch, _features(model, batch.images))
            advance(batch.size)
        return rows.finish()


@torch.inference_mode()
def _features(model: Any, images: Tensor | None) -> np.ndarray | None:
    if images is None:
        return None
    like = next(model.parameters(), torch.empty(0))
    images = images.to(like.device, like.dtype)
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    return features.flatten(1).float().cpu().numpy()
