"""Load data sets by name: digits, MNIST, Fashion-MNIST, CIFAR, folders and synthetic images."""

import gzip
import hashlib
import math
import tempfile
import zlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnnarch.images import find_images
from cnnarch.preprocessing import Preprocessing
from cnnarch.training.data import FilePixels, ImageData, ImageSet, measure_preprocessing

DIGITS_HELD_OUT = 360
FOLDER_HELD_OUT = 0.2
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

FilesByClass = dict[str, list[Path]]


class RawImages(NamedTuple):
    """The pixels and labels of both splits before preprocessing, and the class names."""

    train: tuple[Tensor | FilePixels, Tensor]
    test: tuple[Tensor | FilePixels, Tensor]
    classes: Sequence[str]


def load_data(
    name: str = "digits",
    *,
    root: str | PathLike[str] | None = None,
    image_resolution: int | None = None,
    grayscale: bool | None = None,
    hold_out: bool = True,
) -> ImageData:
    """Load a data set.

    The mean and standard deviation for normalization are computed on the training images.

    Args:
        name: "digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "synthetic", or
            "folder:PATH" with one subfolder per class, in PATH or in PATH/train and PATH/test.
        root: folder that contains the files or receives downloads; None means
            ~/.cache/cnnarch/data.
        image_resolution: the network's input size in pixels; None keeps the image size (224 for
            folders).
        grayscale: True for one channel, False for three, None for the data set's own channels
            (three for folders).
        hold_out: whether to hold out a fifth of the images for testing if a folder has no test
            images. False uses all images as both `train` and `test`, for evaluating networks
            trained on other images.

    Raises:
        ValueError: the data set does not exist, or its files are missing or corrupted.

    >>> data = load_data("digits", image_resolution=32)
    >>> len(data.train), len(data.test), data.preprocessing.crop_size
    (1437, 360, 32)
    """
    place = Path(root) if root is not None else Path.home() / ".cache" / "cnnarch" / "data"
    folder = folder_of(name)
    if folder is not None:
        channels = 1 if grayscale else 3
        raw = read_folder(folder, image_resolution or FOLDER_RESOLUTION, channels, hold_out)
    elif name == "digits":
        raw = read_digits()
    elif name == "synthetic":
        raw = make_synthetic()
    elif name in TORCHVISION_NAMES:
        raw = read_torchvision(name, place)
    else:
        raise ValueError(f"there is no data set {name!r}; available: {', '.join(DATA_SETS)}")
    sample = _sample(raw.train[0])
    channels = sample.shape[1] if grayscale is None else 1 if grayscale else 3
    size = image_resolution or sample.shape[-1]
    preprocessing = measure_preprocessing(sample, size, channels)
    train, test = (
        ImageSet(*split, tuple(raw.classes), preprocessing) for split in (raw.train, raw.test)
    )
    return ImageData(name, train, test)


def folder_of(name: str) -> Path | None:
    """Return PATH if the name is folder:PATH, otherwise None."""
    kind, _, path = name.partition(":")
    return Path(path) if kind == "folder" and path else None


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


def read_folder(folder: Path, size: int, channels: int, hold_out: bool = True) -> RawImages:
    """Read a folder of images with one subfolder per class, or with `train` and `test` folders.

    `train` and `test` each contain one subfolder per class. `test` may also be named val, valid or
    validation. Without a test folder, a fifth of each class is held out, selected by a hash of the
    file names. If `hold_out` is False, all images are in both splits instead.

    Raises:
        ValueError: the folder is missing or has fewer than two classes, a class has too few images,
            a file cannot be read, or a test class is missing from the training folder.
    """
    if not folder.is_dir():
        raise ValueError(f"folder {folder} does not exist")
    names = ("test", "val", "valid", "validation")
    test_folder = next((folder / name for name in names if (folder / name).is_dir()), None)
    if (folder / "train").is_dir() and test_folder:
        train = _files_by_class(folder / "train")
        test = _files_by_class(test_folder)
        if extra := sorted(test.keys() - train.keys()):
            raise ValueError(
                f"{test_folder} contains classes that are not in {folder / 'train'}: {extra}"
            )
    elif hold_out:
        train, test = _split(folder)
    else:
        train = test = _files_by_class(folder)
    classes = list(train)
    first = _labeled_files(train, classes, size, channels)
    second = first if test is train else _labeled_files(test, classes, size, channels)
    return RawImages(first, second, classes)


def _split(folder: Path) -> tuple[FilesByClass, FilesByClass]:
    """Hold out a fraction of each class for testing."""
    train: FilesByClass = {}
    test: FilesByClass = {}
    for name, files in _files_by_class(folder).items():
        if len(files) < 2:
            raise ValueError(
                f"{folder / name} must contain at least two images, because one is held out"
            )
        count = max(1, round(len(files) * FOLDER_HELD_OUT))
        keys = {file: _hash(file.relative_to(folder / name).as_posix()) for file in files}
        shuffled = sorted(files, key=keys.__getitem__)
        test[name], train[name] = sorted(shuffled[:count]), sorted(shuffled[count:])
    return train, test


def _hash(name: str) -> bytes:
    """Return a pseudorandom sort key that does not depend on other files."""
    return hashlib.sha256(name.encode()).digest()


def _files_by_class(folder: Path) -> FilesByClass:
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        raise ValueError(f"{folder} must contain one subfolder per class, found {names}")
    return {name: find_images([folder / name]) for name in names}


def _labeled_files(
    files: FilesByClass, classes: Sequence[str], size: int, channels: int
) -> tuple[FilePixels, Tensor]:
    found = [(path, i) for i, name in enumerate(classes) for path in files.get(name, [])]
    # Shuffle the files so that plots of the first few images show all classes.
    found.sort(key=lambda each: _hash(f"{classes[each[1]]}/{each[0].name}"))
    paths, labels = [path for path, _ in found], [label for _, label in found]
    return FilePixels.read(paths, channels, Preprocessing(size, size)), torch.tensor(labels)
