"""Load data sets by name: digits, MNIST, Fashion-MNIST, CIFAR, folders and synthetic images."""

import gzip
import logging
import math
import tempfile
import zlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnnarch.folders import printable
from cnnarch.training.data import ImageData, ImageSet, RawImages, measure_preprocessing
from cnnarch.training.file_pixels import FilePixels
from cnnarch.training.folders import read_folder
from cnnarch.training.machine import is_first_process

DIGITS_HELD_OUT = 360
FOLDER_RESOLUTION = 224
STATISTICS_SAMPLE = 2_000  # number of files used to compute the mean and standard deviation
DEBIAN = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}
IDX_FILES = (
    *("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    *("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)
IDX_ERRORS = (  # raised by gzip and torchvision for corrupted files
    *(AssertionError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    zlib.error,
)
TORCHVISION_NAMES = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}
NUMERALS = tuple("0123456789")

log = logging.getLogger("cnnarch")


def load_data(
    name: str = "digits",
    *,
    root: str | PathLike[str] | None = None,
    image_resolution: int | None = None,
    grayscale: bool | None = None,
    hold_out: bool = True,
    classes: Sequence[str] | None = None,
    skip_unreadable: bool = False,
) -> ImageData:
    """Load a data set.

    The mean and standard deviation for normalization are computed on the training images. What a
    folder contains is logged by the logger "cnnarch", as a warning if files are not used.

    Args:
        name: "digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "synthetic", or
            "folder:PATH" with one subfolder per class, in PATH or in PATH/train, PATH/val and
            PATH/test (or other usual names of these splits).
        root: folder that contains the files or receives downloads; None means
            ~/.cache/cnnarch/data. It cannot be combined with folder:PATH.
        image_resolution: the network's input size in pixels; None keeps the image size (224 for
            folders) until a network that is trained or evaluated on the images requires another.
        grayscale: True for one channel, False for three, None for the data set's own channels
            (three for folders).
        hold_out: whether to hold out a fifth of the images for testing if a folder has no test
            images. False uses all images as both `train` and `test`, for evaluating networks
            trained on other images.
        classes: for folders, the classes of the network to evaluate, in order. The folder may lack
            some of them. None uses the folder's own.
        skip_unreadable: for folders, whether to skip files that cannot be read instead of raising
            an error.

    Raises:
        ValueError: the data set does not exist, its files are missing or corrupted (the message
            names all of them), or the contents of a folder are contradictory.

    >>> data = load_data("digits", image_resolution=32)
    >>> len(data.train), len(data.test), data.preprocessing.crop_size
    (1437, 360, 32)
    """
    place = Path(root) if root is not None else Path.home() / ".cache" / "cnnarch" / "data"
    folder = folder_of(name)
    if folder is not None:
        if root is not None:
            raise ValueError(_root_with_folder(place, folder))
        raw = read_folder(
            folder,
            image_resolution or FOLDER_RESOLUTION,
            1 if grayscale else 3,
            hold_out=hold_out,
            classes=classes,
            skip_unreadable=skip_unreadable,
        )
        if is_first_process():
            log.log(logging.WARNING if raw.is_partial else logging.INFO, raw.found)
    elif name == "digits":
        raw = read_digits()
    elif name == "synthetic":
        raw = make_synthetic()
    elif name in TORCHVISION_NAMES:
        raw = read_torchvision(name, place)
    else:
        hint = f"did you mean folder:{name}? " if Path(name).is_dir() else ""
        available = ", ".join(DATA_SETS)
        raise ValueError(f"there is no data set {name!r}; {hint}available: {available}")
    sample = _sample(raw.train[0])
    channels = sample.shape[1] if grayscale is None else 1 if grayscale else 3
    size = image_resolution or sample.shape[-1]
    preprocessing = measure_preprocessing(sample, size, channels)
    train, test, validation = (
        split
        and ImageSet(
            *split, tuple(raw.classes), preprocessing, default_size=image_resolution is None
        )
        for split in (raw.train, raw.test, raw.validation)
    )
    assert train is not None
    assert test is not None
    return ImageData(name, train, test, validation)


def _root_with_folder(root: Path, folder: Path) -> str:
    return (
        f"folder:PATH is not looked up in {printable(str(root))}; omit the root (--data_root) and "
        f"include it in the path: folder:{printable(str(root / folder))}"
    )


def folder_of(name: str) -> Path | None:
    """Return PATH if the name is folder:PATH, otherwise None."""
    kind, _, path = name.partition(":")
    return Path(path).expanduser() if kind == "folder" and path else None


DATA_SETS = ("digits", *TORCHVISION_NAMES, "synthetic", "folder:PATH")
"""The names that `load_data` accepts."""


def _sample(pixels: Tensor | FilePixels) -> Tensor:
    decoded = pixels.decoded if isinstance(pixels, FilePixels) else pixels
    if decoded is not None:
        return decoded
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    return pixels[order[:STATISTICS_SAMPLE]]


def read_digits() -> RawImages:
    """Read scikit-learn's 1,797 handwritten digits, each 8x8 pixels.

    A stratified sample of 360 images, drawn with a fixed seed, is held out.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    indices = range(len(digits.target))
    train, test = train_test_split(
        indices, test_size=DIGITS_HELD_OUT, stratify=digits.target, random_state=0
    )
    pixels = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(digits.target).long()
    return RawImages((pixels[train], labels[train]), (pixels[test], labels[test]), NUMERALS)


def make_synthetic() -> RawImages:
    """Create 1,000 training and 200 test images, 32x32, with one stripe direction per class."""
    generator = torch.Generator().manual_seed(0)
    count, held_out, classes, size = 1_200, 200, 10, 32
    labels = torch.arange(count) % classes
    angle = (labels * math.pi / classes)[:, None, None]
    phase = torch.rand(count, 1, 1, generator=generator) * 2 * math.pi
    color = torch.rand(count, 3, 1, 1, generator=generator) + 0.3
    noise = torch.randn(count, 3, size, size, generator=generator)
    place = torch.arange(size) - (size - 1) / 2
    stripes = torch.sin((angle.cos() * place + angle.sin() * place[:, None]) * 0.8 + phase)
    pixels = (127 + 70 * color * stripes[:, None] + 25 * noise).clamp(0, 255).to(torch.uint8)
    names = [f"{180 * i // classes} degrees" for i in range(classes)]
    train, test = slice(held_out, None), slice(held_out)
    return RawImages((pixels[train], labels[train]), (pixels[test], labels[test]), names)


def read_torchvision(name: str, root: Path) -> RawImages:
    """Read MNIST, Fashion-MNIST or CIFAR with torchvision, which downloads missing files.

    Within `root`, torchvision searches only its own folders. The four MNIST or Fashion-MNIST files
    may also be in `root` itself or in the Debian package's folder, compressed or not.

    Source: LeCun et al. (1998); Xiao et al. (2017); Krizhevsky (2009).
    """
    from torchvision import datasets

    dataset: Any = getattr(datasets, TORCHVISION_NAMES[name])
    has_idx_files = issubclass(dataset, datasets.MNIST)
    raw = root / dataset.__name__ / "raw"
    places = [root]
    if has_idx_files:
        places += [raw, *filter(None, [DEBIAN.get(name)])]
    try:
        if not (files := next(filter(None, map(_idx_files, places)), [])):
            parts = [dataset(root, train=part, download=True) for part in (True, False)]
    except (OSError, RuntimeError) as error:
        for made in (raw, raw.parent):
            if made.is_dir() and not any(made.iterdir()):
                made.rmdir()
        searched, reason = ", ".join(map(str, places)), " ".join(str(error).split())
        needed = "four .gz files" if has_idx_files else "archive"
        raise ValueError(
            f"{name} is not in {searched} and cannot be downloaded ({reason}); use --data_root "
            f"to specify the folder that contains its {needed}"
        ) from error
    if has_idx_files:
        images, labels, test_images, test_labels = map(read_idx, files or _idx_files(raw))
        classes = NUMERALS if name == "mnist" else dataset.classes
        return RawImages((images[:, None], labels), (test_images[:, None], test_labels), classes)
    train, test = (
        (torch.from_numpy(part.data).permute(0, 3, 1, 2), torch.tensor(part.targets))
        for part in parts
    )
    return RawImages(train, test, parts[0].classes)


def _idx_files(folder: Path) -> list[Path]:
    """Return the four MNIST files, compressed or not, or an empty list if any is missing."""
    found = []
    for name in IDX_FILES:
        files = [folder / f"{name}{suffix}" for suffix in ("", ".gz")]
        found += [file for file in files if file.is_file()][:1]
    return found if len(found) == len(IDX_FILES) else []


def read_idx(path: Path, name: Path | None = None) -> Tensor:
    """Read a file of images or labels in MNIST's format with torchvision, decompressed if needed.

    Args:
        path: the file.
        name: file name to show in error messages; None means `path`.

    Raises:
        ValueError: the file is corrupted.
    """
    from torchvision.datasets import mnist

    read = mnist.read_image_file if "idx3" in path.name else mnist.read_label_file
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(path.read_bytes())
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is corrupted: {error}") from error
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder, path.stem)
            plain.write_bytes(content)
            return read_idx(plain, path)
    try:
        return read(path)
    except IDX_ERRORS as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{name or path} is corrupted: {reason}") from error
