"""Compute the features that a network's classifier receives."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks._wrappers import unwrapped
from cnnarch.contract.modes import evaluating
from cnnarch.devices import Transfer, fastest_batch_size, out_of_memory, overlaps, start_ahead
from cnnarch.embedding.batches import InputBatch, Origin, join
from cnnarch.embedding.files import FeatureFile, check_output, fingerprint
from cnnarch.embedding.sources import open_source
from cnnarch.images import Unreadable, progress_bar
from cnnarch.preprocessing import Preprocessing, preprocessing_of

if TYPE_CHECKING:
    from cnnarch.images import ImageLike

__all__ = ["Embeddings", "embed"]

_BATCH_SIZE = 32


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Features, one row per image. NumPy functions treat the object as the feature array.

    Args:
        features: (N, num_features), float32; memory-mapped if they are in a file.
        names: the name for each row, if the images come from files or a list: the path, or a number
            such as "image 3" for an image without a path.
        labels: the label for each row, if the images come from a loader or a set with labels.
        unreadable: files that could not be read, for which there are no rows.
    """

    features: np.ndarray
    names: tuple[str, ...] | None = field(default=None, repr=False)
    labels: np.ndarray | None = None
    unreadable: tuple[Unreadable, ...] = ()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.features, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.features)


def embed(
    model: nn.Module,
    images: "ImageLike | Iterable[Any]",
    *,
    batch_size: int | None = None,
    output: str | PathLike[str] | None = None,
    overwrite: bool = False,
    preprocessing: Any = None,
    skip_unreadable: bool = False,
    progress: bool | None = None,
) -> Embeddings:
    """Compute the pooled features that the network's classifier receives for each image.

    In networks with hidden layers before the classifier (AlexNet, VGG, LeNet), the features are the
    activations of the last hidden layer. The network runs in eval mode on its current device, and
    its mode is restored afterwards. On a CUDA GPU, the next batch is copied while one is computed.

    With `output`, the features are saved as they are computed. If the call is interrupted, even by
    `kill -9`, repeating it resumes from the saved features. If all features are already saved,
    nothing is computed. If there are new images, only their features are computed: new files may be
    anywhere in a list or folder; new images in an array, set or loader must follow the others.
    Files are identified by their contents, so a folder may be moved. Features of files that have
    changed are computed again, and a warning names one of them.
    NAME.json next to the file contains the names, labels and unreadable files.

    Args:
        model: a network of this package, or any module that defines `forward_features` and
            `forward_head(x, pre_logits=True)`.
        images: one image or an iterable of these: paths to files and folders, file contents as
            bytes, files opened in binary mode, Pillow images, uint8 NumPy arrays (H, W, C) or uint8
            tensors (C, H, W). Alternatively, network inputs as floats (N, C, H, W), uint8 pixels as
            a tensor (N, C, H, W) or NumPy array (N, H, W, C), an image set such as `data.test`, or
            a DataLoader or other iterable of batches: tensors, or tuples of a tensor and labels.
        batch_size: number of images per batch; None uses 32, or on a CUDA GPU the fastest of
            several sizes up to 256. Batches from a loader keep their size.
        output: a .npy file, or a .safetensors file with one tensor, `features`.
        overwrite: replace the file and any features saved by an earlier call.
        preprocessing: converts pixels to network inputs: a `cnnarch.weights.Preprocessing`, or
            a function that takes a uint8 tensor (C, H, W) or (N, C, H, W); None uses the network's.
        skip_unreadable: skip files that cannot be read, and list them in the result.
        progress: whether to show a progress bar; None shows it only in a terminal.

    Raises:
        ValueError: there are no images, a file cannot be read, images differ in size, pixels are
            given without preprocessing, or `output` contains features of other images or of a
            different network.
        TypeError: the input is not an image, or the model lacks `forward_features` or
            `forward_head`.
        FileNotFoundError: a file or folder does not exist.
        torch.OutOfMemoryError: the GPU has too little memory for a batch.

    >>> import cnnarch, torch
    >>> cnnarch.embed(cnnarch.lenet5(), torch.zeros(5, 1, 32, 32)).features.shape
    (5, 84)
    """
    model = unwrapped(model)
    if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
        raise TypeError(
            f"{type(model).__name__} does not define forward_features and forward_head; embed "
            "needs a cnnarch network or another network that defines them"
        )
    preprocessing = preprocessing_of(model, preprocessing)
    with evaluating(model):
        if batch_size is None:
            batch_size = _batch_size(model, images, preprocessing)
        check_integer("batch_size", batch_size, 1)
        source = open_source(model, images, batch_size, preprocessing, skip_unreadable)
        with progress_bar("embedding", source.total, progress) as advance:
            if output is None:
                parts, origins = [], []
                for batch, features in _computed(model, source):
                    parts.append(features)
                    origins.append(batch.origin)
                    advance(batch.origin.size)
                found = [part for part in parts if part is not None]
                _, origin = source.arrange(join(origins))
                return _embeddings(np.concatenate(found) if found else None, origin)
            network = fingerprint(model, preprocessing)
            with FeatureFile(check_output(output), network, overwrite) as file:
                advance(file.resume(source))
                for batch, features in _computed(model, source):
                    file.add(batch, features)
                    advance(batch.origin.size)
                return _embeddings(*file.finish(source))


def _batch_size(model: Any, images: object, preprocessing: Any) -> int:
    """Return the fastest batch size on a GPU if the size of the images is known, otherwise 32."""
    like = next(model.parameters(), None)
    if like is None or not overlaps(like.device):
        return _BATCH_SIZE
    shape: tuple[int, ...]
    if isinstance(images, Tensor | np.ndarray) and images.dtype not in (torch.uint8, np.uint8):
        shape = tuple(images.shape[1:])
    elif isinstance(preprocessing, Preprocessing):
        shape = (len(preprocessing.mean), preprocessing.crop_size, preprocessing.crop_size)
    else:
        return _BATCH_SIZE

    def run(size: int) -> Tensor:
        return _features(model, like.new_zeros(size, *shape))

    return fastest_batch_size(run, like.device)


def _computed(
    model: Any, source: Iterable[InputBatch]
) -> Iterator[tuple[InputBatch, np.ndarray | None]]:
    """Yield each batch with its features; on a GPU, the next batch is started before."""
    like = next(model.parameters(), None)
    transfer = Transfer(torch.device("cpu") if like is None else like.device)

    def start(batch: InputBatch) -> Callable[[], list[Tensor]] | None:
        if batch.images is None:
            return None
        try:
            return transfer.to_host(_features(model, transfer.to_device(batch.images)))
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, batch.images) from error

    for batch, wait in start_ahead(source, start, ahead=int(transfer.overlaps)):
        yield batch, wait()[0].numpy() if wait else None


@torch.inference_mode()
def _features(model: Any, images: Tensor) -> Tensor:
    """Return the features of a batch on the network's device, without waiting for it."""
    maps = model.forward_features(images.to(next(model.parameters(), images).dtype))
    features: Tensor = model.forward_head(maps, pre_logits=True).flatten(1).float()
    return features


def _embeddings(features: np.ndarray | None, origin: Origin) -> Embeddings:
    if features is None:
        if origin.unreadable:
            first = origin.unreadable[0].reason
            raise ValueError(f"none of the files could be read; first error: {first}")
        raise ValueError("there are no images: the loader is empty")
    names, labels = tuple(origin.names), np.array(origin.labels)
    return Embeddings(
        features, names or None, labels if len(labels) else None, tuple(origin.unreadable)
    )
