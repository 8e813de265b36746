"""Loading data sets by name."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cnnarch.training import datasets, file_pixels, load_data

PARTS = {"train": 40, "t10k": 12}


def write_idx(path: Path, values: Tensor) -> None:
    """Write a file in MNIST's format, compressed if its name ends in .gz."""
    head = struct.pack(f">HBB{values.dim()}I", 0, 8, values.dim(), *values.shape)
    data = head + values.numpy().tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def mnist_files(folder: Path, suffix: str = ".gz") -> dict[str, Tensor]:
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for part, count in PARTS.items():
        images = torch.randint(0, 256, (count, 28, 28)).to(torch.uint8)
        labels = (torch.arange(count) % 10).to(torch.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", labels)
        written[part] = images
    return written


@pytest.fixture
def _no_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "DEBIAN", {})


def photographs(folder: Path, count: int, size: tuple[int, int] = (20, 24)) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(np.full((*size, 3), i, dtype=np.uint8)).save(folder / f"{i:02}.png")


def test_digits_are_1797_images_of_8x8_pixels_with_360_held_out() -> None:
    data = load_data("digits")
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.classes == tuple("0123456789")
    assert data.train.pixels[torch.arange(3)].shape == (3, 1, 8, 8)
    assert data.preprocessing.crop_size == 8
    assert int(data.train.pixels[torch.arange(1437)].max()) == 255
    assert (data.test.labels.bincount() - 36).abs().max() <= 1


def test_held_out_digits_are_not_in_the_training_set() -> None:
    data = load_data("digits")
    both = [
        {tuple(p.flatten().tolist()) for p in s.pixels[torch.arange(len(s))]}
        for s in (data.train, data.test)
    ]
    assert not both[0] & both[1]


@pytest.mark.usefixtures("_no_debian")
@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize("below", ["", "FashionMNIST/raw"])
def test_fashion_mnist_is_read_from_local_files(tmp_path: Path, suffix: str, below: str) -> None:
    written = mnist_files(tmp_path / below, suffix)
    data = load_data("fashion_mnist", root=tmp_path)
    assert torch.equal(data.train.pixels[torch.arange(40)][:, 0], written["train"])
    assert torch.equal(data.test.pixels[torch.arange(12)][:, 0], written["t10k"])
    assert data.test.labels.tolist() == [i % 10 for i in range(12)]
    assert data.classes[9] == "Ankle boot"


def test_fashion_mnist_is_read_from_debians_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mnist_files(tmp_path / "debian")
    monkeypatch.setattr(datasets, "DEBIAN", {"fashion_mnist": tmp_path / "debian"})
    assert len(load_data("fashion_mnist", root=tmp_path / "empty").train) == 40


@pytest.mark.skipif(not datasets.DEBIAN["fashion_mnist"].exists(), reason="needs Debian's files")
def test_fashion_mnist_has_its_published_mean_and_standard_deviation(tmp_path: Path) -> None:
    data = load_data("fashion_mnist", root=tmp_path)
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert data.preprocessing.mean == pytest.approx((0.2860,), abs=5e-5)
    assert data.preprocessing.std == pytest.approx((0.3530,), abs=5e-5)


@pytest.mark.usefixtures("_no_debian")
def test_missing_files_without_internet_access_raise_an_error_and_leave_no_folder(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=r"mnist is not in .* cannot be downloaded .*--data_root"):
        load_data("mnist", root=tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("cut", [3, 1000, -1])
def test_the_error_names_a_truncated_file(tmp_path: Path, cut: int) -> None:
    mnist_files(tmp_path, "")
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte is corrupted"):
        load_data("mnist", root=tmp_path)


def test_the_error_names_a_damaged_archive(tmp_path: Path) -> None:
    mnist_files(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte\.gz is corrupted"):
        load_data("mnist", root=tmp_path)


def test_the_error_names_the_archive_of_a_damaged_file(tmp_path: Path) -> None:
    mnist_files(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(b"junk"))
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte\.gz is corrupted"):
        load_data("mnist", root=tmp_path)


def test_uncompressed_files_need_no_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mnist_files(tmp_path, "")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    assert load_data("mnist", root=tmp_path).name == "mnist"


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_missing_cifar_without_internet_access_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is not in .* cannot be downloaded"):
        load_data(name, root=tmp_path)


def test_cifar_is_read_from_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    def fake(self: CIFAR10, _root: Path, train: bool, **_: bool) -> None:
        count = 6 if train else 4
        self.data = np.arange(count * 32 * 32 * 3).reshape(count, 32, 32, 3).astype(np.uint8)
        self.targets = list(range(count))
        self.classes = [f"class {i}" for i in range(10)]

    monkeypatch.setattr(CIFAR10, "__init__", fake)
    data = load_data("cifar10", root=tmp_path)
    pixels = data.train.pixels[torch.arange(6)]
    assert pixels.shape == (6, 3, 32, 32)
    assert pixels[0, :, 0, 1].tolist() == [
        3,
        4,
        5,
    ]  # colors of a pixel are adjacent in the file
    assert data.test.labels.tolist() == [0, 1, 2, 3]


def test_a_folder_holds_out_a_fifth_of_each_class(tmp_path: Path) -> None:
    photographs(tmp_path / "cat", 10)
    photographs(tmp_path / "dog", 5)
    data = load_data(f"folder:{tmp_path}", image_resolution=16)
    assert data.classes == ("cat", "dog")
    assert data.train.labels.bincount().tolist() == [8, 4]
    assert data.test.labels.bincount().tolist() == [2, 1]
    again = load_data(f"folder:{tmp_path}", image_resolution=16)
    assert torch.equal(again.test.inputs(torch.arange(3)), data.test.inputs(torch.arange(3)))


def test_adding_images_to_a_folder_hardly_changes_the_split(tmp_path: Path) -> None:
    """A new random split would move a fifth of the old training images to the test set."""

    def shades(count: int) -> tuple[set[int], set[int]]:
        for name in ("cat", "dog"):
            photographs(tmp_path / str(count) / name, count, (4, 4))
        data = load_data(f"folder:{tmp_path / str(count)}", image_resolution=4)
        train, test = (s.pixels[torch.arange(len(s))][:, 0, 0, 0] for s in (data.train, data.test))
        return set(train.tolist()), set(test.tolist())

    trained, held_out = shades(100)
    assert (len(trained), len(held_out)) == (80, 20)
    assert len(trained & shades(150)[1]) <= 4


@pytest.mark.parametrize("hold_out", [True, False])
@pytest.mark.parametrize("held_out", ["test", "val", "valid", "validation"])
def test_a_folder_may_have_its_own_test_images(
    tmp_path: Path, held_out: str, hold_out: bool
) -> None:
    for part, count in (("train", 4), (held_out, 2)):
        for name in ("cat", "dog"):
            photographs(tmp_path / part / name, count)
    name = f"folder:{tmp_path}"
    data = load_data(name, image_resolution=16, grayscale=True, hold_out=hold_out)
    assert (len(data.train), len(data.test), data.channels) == (8, 4, 1)


def test_a_folder_may_be_used_without_holding_out_images(tmp_path: Path) -> None:
    for name, count in (("cat", 5), ("dog", 1)):  # too few dog images to hold one out
        photographs(tmp_path / name, count)
    data = load_data(f"folder:{tmp_path}", image_resolution=16, hold_out=False)
    assert data.test.labels.tolist() == data.train.labels.tolist()
    assert sorted(data.test.labels.tolist()) == [0] * 5 + [1]
    brightness = data.test.pixels[torch.arange(6)][:, 0, 0, 0]  # the number in the file name
    assert sorted(brightness.tolist()) == [0, 0, 1, 2, 3, 4]


def test_the_first_images_of_a_folder_show_all_classes(tmp_path: Path) -> None:
    """Plots show the first few images."""
    for name in ("cat", "dog", "eel"):
        photographs(tmp_path / name, 40)
    data = load_data(f"folder:{tmp_path}", image_resolution=16)
    for images in (data.train, data.test):
        assert set(images.labels[:12].tolist()) == {0, 1, 2}
    again = load_data(f"folder:{tmp_path}", image_resolution=16)
    assert torch.equal(again.test.labels, data.test.labels)


def test_a_test_folder_with_an_unknown_class_is_rejected(tmp_path: Path) -> None:
    for place in ("train/cat", "train/dog", "test/cat", "test/cow"):
        photographs(tmp_path / place, 2)
    with pytest.raises(ValueError, match=r"classes without training images: cow; the"):
        load_data(f"folder:{tmp_path}")


def test_a_large_folder_is_decoded_batch_by_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cat", "dog"):
        photographs(tmp_path / name, 5)
    whole = load_data(f"folder:{tmp_path}", image_resolution=16)
    monkeypatch.setattr(file_pixels, "MEMORY_LIMIT", 0)
    lazy = load_data(f"folder:{tmp_path}", image_resolution=16)
    for path in tmp_path.rglob("*.png"):
        path.rename(path.with_suffix(".gone"))
    whole.train.inputs(torch.tensor([0, 3]))
    with pytest.raises(FileNotFoundError):
        lazy.train.inputs(torch.tensor([0, 3]))
    for path in tmp_path.rglob("*.gone"):
        path.rename(path.with_suffix(".png"))
    some = torch.tensor([0, 3])
    assert torch.equal(lazy.train.inputs(some), whole.train.inputs(some))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "must contain one subfolder per class"),
        (["cat"], r"must contain .* found \['cat'\]"),
        (None, "does not exist"),
    ],
)
def test_a_folder_without_classes_is_rejected(
    tmp_path: Path, names: list[str] | None, message: str
) -> None:
    for name in names or []:
        photographs(tmp_path / name, 2)
    place = tmp_path / "gone" if names is None else tmp_path
    with pytest.raises(ValueError, match=message):
        load_data(f"folder:{place}")


def test_a_class_with_one_image_is_rejected(tmp_path: Path) -> None:
    for name, count in (("cat", 5), ("dog", 1)):
        photographs(tmp_path / name, count)
    with pytest.raises(ValueError, match=r"dog must contain at least two images"):
        load_data(f"folder:{tmp_path}")


def test_the_error_names_an_unreadable_image(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        photographs(tmp_path / name, 5)
    (tmp_path / "dog" / "03.png").write_bytes(b"\x89PNG torn")
    with pytest.raises(ValueError, match=r"dog/03\.png is not a readable image"):
        load_data(f"folder:{tmp_path}", image_resolution=16)


def test_synthetic_images_are_the_same_every_time() -> None:
    data, again = (load_data("synthetic") for _ in range(2))
    assert (len(data.train), len(data.test), len(data.classes)) == (1000, 200, 10)
    assert torch.equal(data.train.inputs(torch.arange(9)), again.train.inputs(torch.arange(9)))


@pytest.mark.parametrize("grayscale", [True, False])
def test_images_are_converted_to_gray_or_color(grayscale: bool) -> None:
    data = load_data("synthetic", grayscale=grayscale, image_resolution=20)
    assert data.train.inputs(torch.arange(2)).shape == (2, 1 if grayscale else 3, 20, 20)


def test_an_unknown_data_set_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no data set 'minst'; available: digits, mnist"):
        load_data("minst")
