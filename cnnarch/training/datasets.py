"""Data sets by name: scikit-learn's digits, MNIST and its kin, CIFAR, folders, made-up images."""

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cnnarch.images import find_images
from cnnarch.preprocessing import Preprocessing
from cnnarch.training.data import FilePixels, ImageData, ImageSet, measured

__all__ = ["DATA_SETS", "load_data", "named_folder"]

DIGITS_HELD_OUT = 360
FOLDER_HELD_OUT = 0.2
FOLDER_RESOLUTION = 224
STATISTICS_SAMPLE = 2_000  # files on which mean and deviation are measured
DEBIAN = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}
NUMERALS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

Pixels = Tensor | FilePixels
FilesByClass = dict[str, list[Path]]


class Source(NamedTuple):
    """A data set as it comes: pixels and labels of both splits, and the names of its classes."""

    train: tuple[Pixels, Tensor]
    test: tuple[Pixels, Tensor]
    classes: Sequence[str]


def load_data(
    name: str = "digits",
    *,
    root: str | PathLike[str] | None = None,
    image_resolution: int | None = None,
    grayscale: bool | None = None,
    hold_out: bool = True,
) -> ImageData:
    """Read a data set.

    Mean and deviation of the network's input are measured on the training images.

    Args:
        name: "digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "synthetic", or
            "folder:PATH" with a folder for each class, in PATH or in PATH/train and PATH/test.
        root: where the files are, or are downloaded to; None means ~/.cache/cnnarch/data.
        image_resolution: side of the network's input in pixels; None keeps the images' own,
            which in folders is 224.
        grayscale: True for one channel, False for three, None for the images' own, which in
            folders is three.
        hold_out: whether a fifth of a folder without test images is held out to test. False
            gives all of them as `train` and as `test`, for networks trained on others.

    Raises:
        ValueError: there is no such data set, or its files are missing or damaged.

    >>> data = load_data("digits", image_resolution=32)
    >>> len(data.train), len(data.test), data.preprocessing.crop_size
    (1437, 360, 32)
    """
    where = Path(root) if root is not None else Path.home() / ".cache" / "cnnarch" / "data"
    folder = named_folder(name)
    if folder is not None:
        channels = 1 if grayscale else 3
        source = read_folder(folder, image_resolution or FOLDER_RESOLUTION, channels, hold_out)
    elif name in _READERS:
        source = _READERS[name](where)
    else:
        raise ValueError(f"there is no data set {name!r}; there are {', '.join(DATA_SETS)}")
    sample = _sample(source.train[0])
    channels = sample.shape[1] if grayscale is None else 1 if grayscale else 3
    preprocessing = measured(sample, image_resolution or sample.shape[-1], channels)
    classes = tuple(source.classes)
    train = ImageSet(*source.train, classes, preprocessing)
    return ImageData(name, train, ImageSet(*source.test, classes, preprocessing))


def named_folder(name: str) -> Path | None:
    """The folder that the name of a data set names, if it is a folder's."""
    kind, _, path = name.partition(":")
    return Path(path) if kind == "folder" and path else None


def _sample(pixels: Pixels) -> Tensor:
    kept = pixels.kept if isinstance(pixels, FilePixels) else pixels
    if kept is not None:
        return kept
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    return pixels[order[:STATISTICS_SAMPLE]]


def read_digits(_: Path) -> Source:
    """1,797 handwritten digits of 8x8 pixels, which come with scikit-learn.

    360 are held out, as many of each class as the whole has, drawn with a fixed seed.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, test = train_test_split(
        range(len(digits.target)),
        test_size=DIGITS_HELD_OUT,
        stratify=digits.target,
        random_state=0,
    )
    pixels = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(digits.target).long()
    return Source((pixels[train], labels[train]), (pixels[test], labels[test]), NUMERALS)


def read_mnist(root: Path) -> Source:
    """60,000 and 10,000 handwritten digits of 28x28 pixels (LeCun et al., 1998)."""
    return _read_idx_set("mnist", "MNIST", NUMERALS, root)


def read_fashion_mnist(root: Path) -> Source:
    """60,000 and 10,000 articles of clothing of 28x28 pixels (Xiao et al., 2017)."""
    return _read_idx_set("fashion_mnist", "FashionMNIST", CLOTHES, root)


def read_cifar10(root: Path) -> Source:
    """50,000 and 10,000 photographs of 32x32 pixels in 10 classes (Krizhevsky, 2009)."""
    return _read_cifar("CIFAR10", root)


def read_cifar100(root: Path) -> Source:
    """50,000 and 10,000 photographs of 32x32 pixels in 100 classes (Krizhevsky, 2009)."""
    return _read_cifar("CIFAR100", root)


def make_synthetic(_: Path) -> Source:
    """1,000 and 200 made-up images of 32x32 pixels: stripes whose direction is the class."""
    generator = torch.Generator().manual_seed(0)
    count, held_out, classes, size = 1_200, 200, 10, 32
    labels = torch.arange(count) % classes
    angle = (labels * math.pi / classes)[:, None, None]
    phase = torch.rand(count, 1, 1, generator=generator) * 2 * math.pi
    colour = torch.rand(count, 3, 1, 1, generator=generator) + 0.3
    noise = torch.randn(count, 3, size, size, generator=generator)
    place = torch.arange(size) - (size - 1) / 2
    stripes = torch.sin((angle.cos() * place + angle.sin() * place[:, None]) * 0.8 + phase)
    pixels = (127 + 70 * colour * stripes[:, None] + 25 * noise).clamp(0, 255).to(torch.uint8)
    names = [f"{180 * i // classes} degrees" for i in range(classes)]
    train, test = slice(held_out, None), slice(held_out)
    return Source((pixels[train], labels[train]), (pixels[test], labels[test]), names)


_READERS: dict[str, Callable[[Path], Source]] = {
    "digits": read_digits,
    "mnist": read_mnist,
    "fashion_mnist": read_fashion_mnist,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "synthetic": make_synthetic,
}
DATA_SETS = (*_READERS, "folder:PATH")
"""What `load_data` takes."""


def _read_idx_set(name: str, folder: str, classes: Sequence[str], root: Path) -> Source:
    """MNIST's four files from the first place that has them, else from the network."""
    downloaded = root / folder / "raw"
    places = [root, downloaded, *filter(None, [DEBIAN.get(name)])]
    place = next((p for p in places if _idx_files(p)), None)
    if place is None:
        from torchvision import datasets

        try:
            getattr(datasets, folder)(root, download=True)
        except (OSError, RuntimeError) as error:
            for made in (downloaded, downloaded.parent):
                if made.is_dir() and not any(made.iterdir()):
                    made.rmdir()
            looked, reason = ", ".join(map(str, places)), " ".join(str(error).split())
            raise ValueError(
                f"{name} is not in {looked} and cannot be downloaded ({reason}); name the "
                "folder of its four .gz files with --data-root"
            ) from error
    images, labels, test_images, test_labels = map(read_idx, _idx_files(place or downloaded))
    train = images[:, None], labels.long()
    return Source(train, (test_images[:, None], test_labels.long()), classes)


def _idx_files(folder: Path) -> list[Path]:
    """The four files, as they are or zipped; none if one is missing."""
    found = []
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        files = [folder / f"{part}-ubyte{suffix}" for suffix in ("", ".gz")]
        found += [file for file in files if file.is_file()][:1]
    return found if len(found) == 4 else []


def read_idx(path: Path) -> Tensor:
    """A file of MNIST's format: magic number with type and rank, sizes, values (big-endian).

    Raises:
        ValueError: the file is no such file, or is cut short.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        zero, kind, rank = struct.unpack_from(">HBB", data)
        sizes = struct.unpack_from(f">{rank}I", data, 4)
        if (zero, kind) != (0, 8) or len(data) != 4 + 4 * rank + math.prod(sizes):
            raise ValueError(f"its header says {sizes} values of type {kind}")
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise ValueError(f"{path} is damaged, or no file of unsigned bytes: {error}") from error
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=4 + 4 * rank).view(sizes)


def _read_cifar(folder: str, root: Path) -> Source:
    from torchvision import datasets

    try:
        train, test = (
            getattr(datasets, folder)(root, train=part, download=True) for part in (True, False)
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{folder} is not in {root} and cannot be downloaded ({error}); name the folder of "
            f"its archive with --data-root"
        ) from error
    splits = [
        (torch.from_numpy(part.data).permute(0, 3, 1, 2), torch.tensor(part.targets))
        for part in (train, test)
    ]
    return Source(splits[0], splits[1], train.classes)


def read_folder(folder: Path, size: int, channels: int, hold_out: bool = True) -> Source:
    """A folder of images for each class, in `folder` or in its train and test.

    The latter may be called val, valid or validation. Without a test folder a fifth of
    each class is held out, drawn by the files' names, or all images are in both splits.

    Raises:
        ValueError: the folder is missing, has fewer than two classes or one with too few
            images, or holds a file that cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    names = ("test", "val", "valid", "validation")
    held_out = next((folder / name for name in names if (folder / name).is_dir()), None)
    if (folder / "train").is_dir() and held_out:
        train = _files_by_class(folder / "train")
        test = _files_by_class(held_out)
        extra = sorted(test.keys() - train.keys())
        if extra:
            raise ValueError(f"{held_out} has classes that {folder / 'train'} has not: {extra}")
    elif hold_out:
        train, test = _split(folder)
    else:
        train = test = _files_by_class(folder)
    classes = list(train)
    first = _labelled_files(train, classes, size, channels)
    second = first if test is train else _labelled_files(test, classes, size, channels)
    return Source(first, second, classes)


def _split(folder: Path) -> tuple[FilesByClass, FilesByClass]:
    """What to train on, and what is held out of each class."""
    train: FilesByClass = {}
    test: FilesByClass = {}
    for name, files in _files_by_class(folder).items():
        if len(files) < 2:
            raise ValueError(
                f"{folder / name} must hold two images or more, as one is held out to test"
            )
        count = max(1, round(len(files) * FOLDER_HELD_OUT))
        drawn = sorted(files, key=partial(_draw, folder / name))
        test[name], train[name] = sorted(drawn[:count]), sorted(drawn[count:])
    return train, test


def _draw(folder: Path, file: Path) -> bytes:
    return _number(file.relative_to(folder).as_posix())


def _number(name: str) -> bytes:
    """By chance, but for a file always the same, whatever is beside it."""
    return hashlib.sha256(name.encode()).digest()


def _files_by_class(folder: Path) -> FilesByClass:
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        raise ValueError(f"{folder} must hold a folder of images for each class, found {names}")
    return {name: find_images([folder / name]) for name in names}


def _labelled_files(
    files: FilesByClass, classes: Sequence[str], size: int, channels: int
) -> tuple[Pixels, Tensor]:
    found = [(path, i) for i, name in enumerate(classes) for path in files.get(name, [])]
    # By chance, so that the first few show all classes.
    found.sort(key=lambda each: _number(f"{classes[each[1]]}/{each[0].name}"))
    paths, labels = [path for path, _ in found], [label for _, label in found]
    return FilePixels.read(paths, channels, Preprocessing(size, size)), torch.tensor(labels)
