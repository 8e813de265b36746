"""Classify image files."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer, check_number
from cnnarch.blocks._wrappers import unwrapped
from cnnarch.devices import Transfer, fastest_batch_size, out_of_memory, overlaps, start_ahead
from cnnarch.images import (
    Unreadable,
    progress_bar,
    read_ahead,
    reading_threads,
    try_decode,
)
from cnnarch.inference._copies import inference_copy
from cnnarch.inference.optimized import Optimized
from cnnarch.inputs import NamedImage, is_image_set, name_images
from cnnarch.preprocessing import Preprocessing, preprocessing_of
from cnnarch.registry import from_pretrained

if TYPE_CHECKING:
    from cnnarch.images import ImageLike

__all__ = ["Prediction", "Predictions", "Predictor"]

Columns: TypeAlias = dict[str, np.ndarray]
NamedPixels: TypeAlias = tuple[str, np.ndarray]
Batch: TypeAlias = Sequence[NamedPixels | Unreadable]


class Prediction(NamedTuple):
    """The most likely classes of an image, in descending order of probability.

    For independent labels (`multi_label=True`) these are the classes whose probability reaches the
    threshold, of which there may be none. A network with a single logit has one class.

    Args:
        name: the image's path, or if it has none, a number such as "image 3" for the fourth image.
        classes: the class names.
        probabilities: the class probabilities, in [0, 1].
        indices: the positions of the classes in the logits; several classes may share a name.
    """

    name: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    indices: tuple[int, ...]


class Predictions(list[Prediction]):
    """Predictions in the order of the images; `unreadable` lists images without a prediction."""

    unreadable: tuple[Unreadable, ...] = ()


class Predictor:
    """Classify images: threads decode and resize images while the network computes.

    The network runs on its device. On a CUDA GPU, the next batch is copied while one is computed.

    The results equal those of `softmax(model(preprocessing.transform()(image)))`, or of `sigmoid`
    for a network with one logit and for independent labels. A predictor can be pickled and shared
    between threads. Ray's `map_batches` accepts the class.

    Args:
        model: a network, the result of `cnnarch.inference.optimize`, or any source that
            `cnnarch.from_pretrained` accepts. A network in training mode is copied.
        preprocessing: converts an image to the network's input; None uses the network's own.
        categories: the class names in the order of the logits; None uses the network's own, or
            numbers if it has none.
        top: number of classes to return; None returns five, or all if there are fewer. For
            independent labels, the maximum number; None means all.
        multi_label: whether the classes are independent labels, as after training with
            `nn.BCEWithLogitsLoss`. All classes with a probability of at least `threshold` are
            returned.
        threshold: minimum probability for independent labels, in [0, 1]; None means 0.5.
        batch_size: number of images per batch; None uses 16, on a CUDA GPU the fastest of several
            sizes up to 256, or the batch size of the example for which the network was optimized.
            If that example was uint8, the network receives uint8 pixels.
        num_threads: number of decoding threads; None uses one per processor, at most 8.

    Raises:
        ValueError: preprocessing is missing or has a different number of channels, the number of
            categories does not match the number of classes, or an option is out of range.
        TypeError: `model` is not callable, or `preprocessing` is not a `Preprocessing`.

    >>> import cnnarch, torch
    >>> preprocessing = cnnarch.weights.Preprocessing(32, 32, mean=(0.5,), std=(0.25,))
    >>> predictor = Predictor(cnnarch.lenet5(), preprocessing)
    >>> (prediction,) = predictor(torch.zeros(1, 28, 28, dtype=torch.uint8))
    >>> len(prediction.classes)
    5
    """

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Tensor] | str | PathLike[str],
        preprocessing: Preprocessing | None = None,
        categories: Sequence[str] | None = None,
        *,
        top: int | None = None,
        multi_label: bool = False,
        threshold: float | None = None,
        batch_size: int | None = None,
        num_threads: int | None = None,
    ) -> None:
        if isinstance(model, str | PathLike):
            model = from_pretrained(model)
        if not callable(model):
            raise TypeError(f"model must be a network or a source to load one from, got {model!r}")
        network = unwrapped(model.model if isinstance(model, Optimized) else model)
        names = getattr(network, "categories", None) if categories is None else categories
        self.categories = None if names is None else tuple(map(str, names))
        classes = getattr(network, "num_classes", len(self.categories or ()) or None)
        if classes == 0:
            raise ValueError("the network has no classifier: its num_classes is 0")
        preprocessing = _check_preprocessing(preprocessing_of(network, preprocessing))
        example = model.example if isinstance(model, Optimized) else torch.empty(16, device="cpu")
        self.multi_label, self.threshold = multi_label, 0.5 if threshold is None else threshold
        check_number("threshold", self.threshold, "in [0, 1]", lambda value: 0 <= value <= 1)
        if threshold is not None and not multi_label:
            raise ValueError("threshold requires multi_label=True")
        self.top = (sys.maxsize if multi_label else 5) if top is None else top
        self._top_may_shrink = top is None
        self.batch_size = len(example) if batch_size is None else batch_size
        self.num_threads = reading_threads() if num_threads is None else num_threads
        for name in ("top", "batch_size", "num_threads"):
            check_integer(name, getattr(self, name), 1)
        if classes is not None:
            self._check_classes(classes)
        if isinstance(model, nn.Module) and any(m.training for m in model.modules()):
            model = inference_copy(model)
        self.model: Callable[[Tensor], Tensor] = model
        self.channels = len(preprocessing.mean)
        self.preprocessing = preprocessing
        self._crop = preprocessing.crop()
        self._example = example.new_empty(0)  # for its dtype and device
        device = self._like().device
        if batch_size is None and isinstance(model, nn.Module) and overlaps(device):
            self.batch_size = fastest_batch_size(self._run_empty, device)

    @overload  # a dict is also an iterable of strings, so it must come first
    def __call__(self, images: Columns) -> Columns: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(
        self, images: "ImageLike | Iterable[ImageLike]", *, progress: bool | None = None
    ) -> Predictions: ...
    def __call__(
        self,
        images: "ImageLike | Iterable[ImageLike] | Columns",
        *,
        progress: bool | None = None,
    ) -> Predictions | Columns:
        """Return the most likely classes of images.

        Args:
            images: one image or an iterable of any mix of these: paths to files and folders, file
                contents as bytes, files opened in binary mode, Pillow images, uint8 NumPy arrays
                (H, W, C) or uint8 tensors (C, H, W). Also a uint8 batch of arrays or tensors, or an
                image set such as `data.test`, whose squares of `resize_size` pixels are classified.
                Alternatively, a batch of columns from Ray with images in "image", file
                contents in "bytes" or paths in "path"; the result contains "classes",
                "probabilities" and "unreadable" (the reason, or "") instead of images and bytes.
            progress: whether to show a progress bar; None shows it in a terminal.

        Raises:
            ValueError: there are no images, an array does not fit the network, or the logits of an
                image contain NaN.
            TypeError: an input is not an image.
            FileNotFoundError: a path passed as the only image does not exist.
        """
        if isinstance(images, dict):
            return self._classify_columns(images)
        found, total = _named(images)
        predictions, unreadable = Predictions(), []
        with progress_bar("classifying", total, progress) as advance:
            for result in self._stream(found):
                advance(1)
                if isinstance(result, Prediction):
                    predictions.append(result)
                else:
                    unreadable.append(result)
        if not (predictions or unreadable):
            raise ValueError("there are no images to classify")
        predictions.unreadable = tuple(unreadable)
        return predictions

    def stream(
        self, images: "ImageLike | Iterable[ImageLike]"
    ) -> Iterator[Prediction | Unreadable]:
        """Yield results one at a time, for more images than fit in memory.

        At most three batches of images are consumed in advance.
        """
        return self._stream(_named(images)[0])

    def _stream(self, images: Iterable[tuple[str, Any]]) -> Iterator[Prediction | Unreadable]:
        ahead = 3 * self.batch_size
        read = read_ahead(images, self._read, ahead=ahead, num_threads=self.num_threads)
        transfer = Transfer(self._like().device)
        with closing(read):
            started = start_ahead(
                self._batches(read), partial(self._start, transfer), ahead=int(transfer.overlaps)
            )
            for batch, wait in started:
                yield from self._classify(batch, wait)

    def _run_empty(self, size: int) -> None:
        """Classify a batch of black images."""
        side = self.preprocessing.crop_size
        shape = (size, self.channels, side, side)
        with torch.inference_mode():
            self._compute(torch.zeros(shape, dtype=torch.uint8, device=self._like().device))

    def _batches(self, read: Iterable[NamedPixels | Unreadable]) -> Iterator[Batch]:
        """Yield batches that contain `batch_size` readable images."""
        batch: list[NamedPixels | Unreadable] = []
        readable = 0
        for image in read:
            batch.append(image)
            readable += not isinstance(image, Unreadable)
            if readable == self.batch_size:
                yield batch
                batch, readable = [], 0
        if batch:
            yield batch

    def _read(self, named: tuple[str, Any]) -> NamedPixels | Unreadable:
        """Return an image's cropped pixels; called in a worker thread."""
        name, image = named
        pixels = try_decode(image, self.channels, name)
        if isinstance(pixels, Unreadable):
            return pixels
        try:
            return name, np.ascontiguousarray(self._crop(pixels).numpy())
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def _classify(
        self, images: Batch, wait: Callable[[], list[Tensor]] | None
    ) -> Iterator[Prediction | Unreadable]:
        best = iter(self._best(_readable(images), wait()) if wait else ())
        for image in images:
            if isinstance(image, Unreadable):
                yield image
                continue
            probabilities, indices = next(best)
            names = self.categories
            classes = tuple(names[i] if names else str(i) for i in indices)
            yield Prediction(image[0], classes, tuple(probabilities), tuple(indices))

    def _like(self) -> Tensor:
        """Return a tensor with the device and dtype of the network's input."""
        model = self.model
        parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
        return next(parameters, self._example)

    def _start(self, transfer: Transfer, batch: Batch) -> Callable[[], list[Tensor]] | None:
        """Start to classify a batch; return a function that waits for the results of `_best`."""
        images = [pixels for _, pixels in _readable(batch)]
        if not images:
            return None
        if not isinstance(self.model, nn.Module):  # engines are compiled for one batch size
            images = [*images, *images[-1:] * (self.batch_size - len(images))]
        pixels = transfer.to_device(torch.from_numpy(np.stack(images)))
        try:
            with torch.inference_mode():
                return transfer.to_host(*self._compute(pixels))
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, pixels) from error

    def _compute(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return whether each image's logits are undefined, and its top probabilities and classes.

        Nothing here waits for the device.
        """
        is_uint8 = self._example.dtype == torch.uint8
        inputs = pixels if is_uint8 else self.preprocessing.scale(pixels)
        logits = self.model(inputs.to(self._like().dtype))
        if not isinstance(logits, Tensor) or logits.shape[:-1] != inputs.shape[:1]:
            raise TypeError(f"the network must return logits (N, classes), got {logits!r:.200}")
        self._check_classes(logits.shape[1])
        independent = self.multi_label or logits.shape[1] == 1
        activated = logits.float().sigmoid() if independent else logits.float().softmax(1)
        return activated.isnan().any(1), *activated.topk(self.top)

    def _best(
        self, named: Sequence[NamedPixels], results: Sequence[Tensor]
    ) -> Iterator[tuple[list[float], list[int]]]:
        """Return an iterator over the top classes' probabilities and indices for each image."""
        undefined, probabilities, indices = (values[: len(named)].tolist() for values in results)
        if any(undefined):
            name = named[undefined.index(True)][0]
            raise ValueError(f"{name}: the network's logits contain NaN or infinity")
        if self.multi_label:  # the probabilities are in descending order
            counts = [sum(p >= self.threshold for p in row) for row in probabilities]
            probabilities = [row[:n] for row, n in zip(probabilities, counts, strict=True)]
            indices = [row[:n] for row, n in zip(indices, counts, strict=True)]
        return zip(probabilities, indices, strict=False)

    def _check_classes(self, count: int) -> None:
        if self.categories is not None and len(self.categories) != count:
            raise ValueError(f"got {len(self.categories)} categories for {count} classes")
        if self._top_may_shrink:
            self.top = min(self.top, count)
        if self.top > count:
            raise ValueError(f"top must be at most {count}, the number of classes, got {self.top}")

    def _classify_columns(self, batch: Columns) -> Columns:
        column = next((key for key in ("image", "bytes", "path") if key in batch), None)
        if column is None:
            raise ValueError(f"the batch needs an image, bytes or path column, got {list(batch)}")
        names = batch.get("path", [f"image {i}" for i in range(len(batch[column]))])
        results = list(self._stream(zip(map(str, names), batch[column], strict=True)))
        width = 0 if self.top == sys.maxsize else self.top  # no image was classified yet
        classes: list[tuple[str, ...]] = [("",) * width] * len(results)
        probabilities: list[tuple[float, ...]] = [(np.nan,) * width] * len(results)
        reasons = [""] * len(results)
        for i, result in enumerate(results):
            if isinstance(result, Unreadable):
                reasons[i] = result.reason
            else:
                absent = width - len(result.classes)  # labels below the threshold
                classes[i] = (*result.classes, *("",) * absent)
                probabilities[i] = (*result.probabilities, *(np.nan,) * absent)
        kept = {key: values for key, values in batch.items() if key not in ("image", "bytes")}
        return kept | {
            "classes": np.array(classes, dtype=str).reshape(len(results), width),
            "probabilities": np.array(probabilities, dtype=np.float32).reshape(len(results), width),
            "unreadable": np.array(reasons, dtype=str),
        }


def _named(images: Any) -> tuple[Iterable[NamedImage], int | None]:
    """Return each image with its name, and the number of images if known."""
    named = name_images(images)
    if isinstance(images, np.ndarray | Tensor) or is_image_set(images):
        return named, len(images) if is_image_set(images) or images.ndim == 4 else 1
    if isinstance(images, Sequence) or not isinstance(images, Iterable):
        found = list(named)  # may contain folders, each with several images
        return found, len(found)
    return named, None


def _readable(images: Batch) -> list[NamedPixels]:
    return [image for image in images if not isinstance(image, Unreadable)]


def _check_preprocessing(preprocessing: Any) -> Preprocessing:
    if preprocessing is None:
        raise ValueError(
            "the network has no preprocessing; pass it as the second argument, for example "
            "cnnarch.weights.Preprocessing(crop_size=224, resize_size=256)"
        )
    if not isinstance(preprocessing, Preprocessing):
        raise TypeError(f"preprocessing must be a Preprocessing, got {preprocessing!r}")
    return preprocessing
