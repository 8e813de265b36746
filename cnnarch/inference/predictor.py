"""From image files to the names of what they show."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from io import BytesIO
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor, nn

from cnnarch.images import (
    Unreadable,
    decode_image,
    find_images,
    progress_bar,
    read_ahead,
    reading_threads,
)
from cnnarch.inference._copies import inference_copy
from cnnarch.inference.optimized import Optimized
from cnnarch.preprocessing import Preprocessing
from cnnarch.registry import from_pretrained

if TYPE_CHECKING:
    from PIL.Image import Image

    ImageLike: TypeAlias = str | PathLike[str] | bytes | Image | np.ndarray | Tensor

__all__ = ["Prediction", "Predictions", "Predictor"]

Columns: TypeAlias = dict[str, np.ndarray]


class Prediction(NamedTuple):
    """What a network says of an image, the likeliest class first.

    Args:
        name: the image's path, or "image 3" for the fourth of images without a file.
        classes: names of the likeliest classes.
        probabilities: theirs.
        indices: of the classes among the logits; two classes may share a name.
    """

    name: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    indices: tuple[int, ...]


class Predictions(list[Prediction]):
    """Predictions in the order of the images; `unreadable` lists those that have none."""

    unreadable: tuple[Unreadable, ...] = ()


class Predictor:
    """Images to the likeliest classes: threads decode and resize while the network computes.

    What it gives is what `softmax(model(preprocessing.transform()(image)))` gives. Several
    threads may use one predictor. It pickles, and Ray's `map_batches` takes the class as it is.

    Args:
        model: a network; what `cnnarch.inference.optimize` made of one; or where a network was
            saved, as `cnnarch.from_pretrained` takes it. One in training mode is copied.
        preprocessing: from an image to the network's input; None takes the network's own.
        categories: names of the classes in the order of the logits; None takes the network's
            own, or numbers if it has none.
        top: how many classes to give; None gives five, or all if there are fewer.
        batch_size: images to compute at once; None takes 16, or the number of the example that
            the network was optimized for. If that was in uint8, pixels go to it as they are.
        num_threads: that decode; None takes one for each processor.

    Raises:
        ValueError: it is not known how images are prepared, the number of names is not that of
            the classes, or an option is out of range.
        TypeError: `model` cannot be called, or `preprocessing` is not a `Preprocessing`.

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
        batch_size: int | None = None,
        num_threads: int | None = None,
    ) -> None:
        if isinstance(model, str | PathLike):
            model = from_pretrained(model)
        if not callable(model):
            raise TypeError(f"model must be a network or where one was saved, got {model!r}")
        preprocessing = _checked_preprocessing(
            preprocessing or getattr(model, "preprocessing", None)
        )
        names = getattr(model, "categories", None) if categories is None else categories
        self.categories = None if names is None else tuple(map(str, names))
        classes = _number_of_classes(model, self.categories)
        example = model.example if isinstance(model, Optimized) else torch.empty(16)
        self.top = _at_least_one("top", top, min(5, classes or 5))
        self._fewer = top is None  # are given where the network turns out to have fewer classes
        self.batch_size = _at_least_one("batch_size", batch_size, len(example))
        self.num_threads = _at_least_one("num_threads", num_threads, reading_threads())
        if classes is not None and self.top > classes:
            raise ValueError(f"top must be at most {classes}, the number of classes, got {top}")
        if isinstance(model, nn.Module) and any(m.training for m in model.modules()):
            model = inference_copy(model)
        self.model: Callable[[Tensor], Tensor] = model
        self.channels = len(preprocessing.mean)
        self.preprocessing = preprocessing
        self._crop = preprocessing.crop()
        self._example = example.new_empty(0)  # its dtype and device

    @overload  # a dict is an iterable of strings too, and comes first
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
        """The likeliest classes of images.

        Args:
            images: paths of files and folders, the bytes of files, Pillow images, NumPy arrays
                (H, W, C) or tensors (C, H, W) of pixels in uint8; one, or any number of them
                mixed. Or a batch of columns as Ray gives it: the images in "image", the bytes
                of files in "bytes" or paths in "path"; then the columns "classes",
                "probabilities" and "unreadable" (why, or "") come in the place of the pixels.
            progress: show a bar; None shows it in a terminal.

        Raises:
            ValueError: no images, or an array that is not an image for this network.
            TypeError: something that is not an image.
            FileNotFoundError: a path that is given alone is not there.
        """
        if isinstance(images, dict):
            return self._columns(images)
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
        """As calling it, one result after the other: for more images than memory holds.

        Images are taken as they are needed, a few batches ahead.
        """
        return self._stream(_named(images)[0])

    def _stream(
        self, images: "Iterable[tuple[str, ImageLike]]"
    ) -> Iterator[Prediction | Unreadable]:
        read = read_ahead(
            images, self._read, num_threads=self.num_threads, ahead=3 * self.batch_size
        )
        with closing(read):
            waiting: list[_Pixels | Unreadable] = []
            ready = 0
            for each in read:
                waiting.append(each)
                ready += isinstance(each, _Pixels)
                if ready == self.batch_size:
                    yield from self._classify(waiting)
                    waiting, ready = [], 0
            yield from self._classify(waiting)

    def _read(self, named: "tuple[str, ImageLike]") -> "_Pixels | Unreadable":
        """In a thread: the pixels that the network will see."""
        name, image = named
        if isinstance(image, np.ndarray | Tensor):
            found = _checked(name, image)
        elif self.channels not in (1, 3):
            raise ValueError(f"{name}: files have 1 or 3 channels, the network {self.channels}")
        else:
            try:
                source = BytesIO(image) if isinstance(image, bytes) else image
                found = decode_image(source, self.channels, name)
            except (OSError, ValueError) as error:
                return Unreadable(name, str(error))
        try:
            return _Pixels(name, np.ascontiguousarray(self._crop(found).numpy()))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def _classify(
        self, images: "Sequence[_Pixels | Unreadable]"
    ) -> Iterator[Prediction | Unreadable]:
        readable = [image.pixels for image in images if isinstance(image, _Pixels)]
        best = iter(self._best(readable) if readable else ())
        for image in images:
            if isinstance(image, Unreadable):
                yield image
            else:
                shares, indices = next(best)
                classes = tuple(
                    str(i) if not self.categories else self.categories[i] for i in indices
                )
                yield Prediction(image.name, classes, tuple(shares), tuple(indices))

    def _best(self, images: list[np.ndarray]) -> Iterator[tuple[list[float], list[int]]]:
        if not isinstance(self.model, nn.Module):  # engines compile for each number of images
            images = [*images, *images[-1:] * (self.batch_size - len(images))]
        inputs = torch.from_numpy(np.stack(images))
        if self._example.dtype != torch.uint8:
            inputs = self.preprocessing.scale(inputs)
        like = self._example
        if isinstance(self.model, nn.Module):
            like = next(self.model.parameters(), inputs)
        with torch.inference_mode():
            logits = self.model(inputs.to(like.device, like.dtype))
        if not isinstance(logits, Tensor) or logits.shape[:-1] != inputs.shape[:1]:
            raise TypeError(f"the network must give logits (N, classes), gave {logits!r:.200}")
        self._check_classes(logits.shape[1])
        shares, indices = logits.float().softmax(1).topk(self.top)
        return zip(shares.tolist(), indices.tolist(), strict=False)

    def _check_classes(self, found: int) -> None:
        if self.categories is not None and len(self.categories) != found:
            raise ValueError(f"{len(self.categories)} categories for {found} classes")
        if self._fewer:
            self.top = min(self.top, found)
        if self.top > found:
            raise ValueError(f"top must be at most {found}, the number of classes, got {self.top}")

    def _columns(self, batch: Columns) -> Columns:
        """A batch of Ray's: pixels, bytes or paths out, answers in."""
        column = next((key for key in ("image", "bytes", "path") if key in batch), None)
        if column is None:
            raise ValueError(f"a column 'image', 'bytes' or 'path' is needed, got {list(batch)}")
        names = batch.get("path", [f"image {i}" for i in range(len(batch[column]))])
        named = zip(map(str, names), batch[column], strict=True)
        results = list(self._stream(named))
        count = len(results)
        classes = np.full((count, self.top), "", dtype=object)
        probabilities = np.full((count, self.top), np.nan, dtype=np.float32)
        unreadable = np.full(count, "", dtype=object)
        for i, result in enumerate(results):
            if isinstance(result, Unreadable):
                unreadable[i] = result.reason
            else:
                classes[i], probabilities[i] = result.classes, result.probabilities
        kept = {key: values for key, values in batch.items() if key not in ("image", "bytes")}
        answers = {"classes": classes.astype(str), "probabilities": probabilities}
        return kept | answers | {"unreadable": unreadable.astype(str)}


class _Pixels(NamedTuple):
    name: str
    pixels: np.ndarray


def _named(images: Any) -> "tuple[Iterable[tuple[str, ImageLike]], int | None]":
    """Each image with its name, and how many there are if that is known."""
    from PIL.Image import Image

    if isinstance(images, str | PathLike):
        images = find_images([images])
    elif isinstance(images, np.ndarray | Tensor):
        images = [images] if images.ndim < 4 else images
    elif isinstance(images, bytes | Image):
        images = [images]
    if not isinstance(images, Iterable):
        raise TypeError(f"expected images or paths, got {type(images).__name__}")
    if isinstance(images, Sequence):
        listed = list(_each_named(images))
        return listed, len(listed)
    return _each_named(images), len(images) if isinstance(images, np.ndarray | Tensor) else None


def _each_named(images: Iterable[Any]) -> "Iterator[tuple[str, ImageLike]]":
    from PIL.Image import Image

    for i, image in enumerate(images):
        if isinstance(image, str | PathLike):
            if Path(image).is_dir():
                yield from ((fspath(path), path) for path in find_images([image]))
            else:
                yield fspath(image), image
        elif isinstance(image, bytes | Image | np.ndarray | Tensor):
            yield getattr(image, "filename", "") or f"image {i}", image
        else:
            raise TypeError(f"image {i} is a {type(image).__name__}, expected an image or a path")


def _checked(name: str, image: np.ndarray | Tensor) -> Tensor:
    if image.dtype != (np.uint8 if isinstance(image, np.ndarray) else torch.uint8):
        raise TypeError(f"{name} must have pixels in uint8, got {image.dtype}")
    if isinstance(image, Tensor):
        pixels, order = image.cpu(), "(C, H, W)"
    else:  # gray images may have no third dimension
        rows = image[..., None] if image.ndim == 2 else image
        pixels, order = torch.from_numpy(np.array(rows)), "(H, W, C)"
        pixels = pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels
    if pixels.ndim != 3 or not pixels.numel():
        raise ValueError(f"{name} must be {order}, got shape {tuple(image.shape)}")
    return pixels


def _checked_preprocessing(preprocessing: Any) -> Preprocessing:
    if preprocessing is None:
        raise ValueError(
            "the network does not say how images are prepared for it; pass it as the second "
            "argument, such as cnnarch.weights.Preprocessing(crop_size=224, resize_size=256)"
        )
    if not isinstance(preprocessing, Preprocessing):
        raise TypeError(f"preprocessing must be a Preprocessing, got {preprocessing!r}")
    return preprocessing


def _number_of_classes(model: Any, categories: tuple[str, ...] | None) -> int | None:
    """As the network says or the names do; None if neither is known."""
    said = getattr(model.model if isinstance(model, Optimized) else model, "num_classes", None)
    if said == 0:
        raise ValueError("the network has no classifier: its num_classes is 0")
    if isinstance(said, int) and categories is not None and len(categories) != said:
        raise ValueError(f"{len(categories)} categories for {said} classes")
    return said if isinstance(said, int) else len(categories) if categories is not None else None


def _at_least_one(name: str, given: Any, default: int) -> int:
    value = default if given is None else given
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return value
