"""Tests for reading image files."""

import io
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnarch.images import decode_image, find_images, read_ahead, read_image, read_together


def photograph(path: Path, size: tuple[int, int] = (30, 20), mode: str = "RGB") -> Path:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "gif", "webp", "jpg", "ppm"])
def test_common_formats_are_read(tmp_path: Path, suffix: str) -> None:
    image = read_image(photograph(tmp_path / f"a.{suffix}"))
    assert image.shape == (3, 20, 30)
    assert image.dtype == torch.uint8
    assert image.float().std() > 10


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_any_mode_is_converted_to_gray_or_color(tmp_path: Path, mode: str) -> None:
    path = photograph(tmp_path / "a.tiff", mode=mode)
    assert read_image(path, 1).shape == (1, 20, 30)
    assert read_image(path, 3).shape == (3, 20, 30)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    assert read_image(path).shape == (3, 30, 20)


def test_a_damaged_file_is_reported(tmp_path: Path) -> None:
    path = photograph(tmp_path / "cut.png", (200, 200))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut\.png is not a readable image"):
        read_image(path)


def test_a_text_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.png is not a readable image"):
        read_image(path)


def test_unsupported_numbers_of_channels_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 or 3 channels, but 4 are needed"):
        read_image(photograph(tmp_path / "a.png"), 4)


def test_folders_are_searched_recursively_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/2.PNG", "b/1.jpg", "a.png"):
        photograph(tmp_path / "x.png").rename(tmp_path / name)
    (tmp_path / "b/readme.txt").write_text("not an image")
    found = [str(p.relative_to(tmp_path)) for p in find_images([tmp_path])]
    assert found == ["a.png", "b/1.jpg", "b/2.PNG"]
    (tmp_path / "folder.png").mkdir()
    photograph(tmp_path / "folder.png/3.png")
    assert find_images([tmp_path])[-1] == tmp_path / "folder.png/3.png"
    assert len(find_images([tmp_path])) == 4
    assert find_images([tmp_path / "a.png"]) == [tmp_path / "a.png"]


def test_missing_and_empty_folders_are_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        find_images([tmp_path / "gone"])
    with pytest.raises(ValueError, match="contains no images"):
        find_images([tmp_path])


def test_16_bit_images_are_converted_to_8_bits(tmp_path: Path) -> None:
    values = np.array([[0, 256, 40000, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    for channels in (1, 3):
        image = read_image(tmp_path / "deep.png", channels)
        assert image.tolist() == [[[0, 1, 156, 255]]] * channels


@pytest.mark.parametrize(("mode", "dtype"), [("I", np.int32), ("F", np.float32)])
def test_modes_without_a_white_level_are_rejected(tmp_path: Path, mode: str, dtype: type) -> None:
    Image.fromarray(np.zeros((2, 2), dtype)).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=f"mode '{mode}' have no defined white level"):
        read_image(tmp_path / "a.tiff")


def test_transparent_palettes_keep_their_colors(tmp_path: Path) -> None:
    image = Image.new("P", (3, 2), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(tmp_path / "a.png", transparency=bytes([255, 0]))
    assert read_image(tmp_path / "a.png")[:, 0, 0].tolist() == [200, 100, 50]


def test_a_one_pixel_image_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), "white").save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[255]]] * 3


def test_a_decompression_bomb_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = photograph(tmp_path / "a.png", (30, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)  # images up to twice this size are allowed
    with pytest.raises(ValueError, match=r"a\.png is not a readable image: Image size"):
        read_image(path)


def test_an_image_that_is_too_elongated_is_rejected(tmp_path: Path) -> None:
    Image.new("RGB", (1001, 1)).save(tmp_path / "a.png")
    Image.new("RGB", (1, 1000)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="1001 by 1 pixels is too elongated"):
        read_image(tmp_path / "a.png")
    assert read_image(tmp_path / "b.png").shape == (3, 1000, 1)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tiff", "bmp"])
def test_randomly_damaged_files_are_read_or_raise_value_error(tmp_path: Path, suffix: str) -> None:
    whole = photograph(tmp_path / f"a.{suffix}").read_bytes()
    generator = np.random.default_rng(0)
    messages = []
    for _ in range(60):
        corrupted = bytearray(whole)
        for place in generator.integers(0, len(whole), 5):
            corrupted[place] = generator.integers(0, 256)
        try:
            assert decode_image(io.BytesIO(corrupted), 3, "corrupted").shape[0] == 3
        except ValueError as error:
            messages.append(str(error))
    assert messages
    assert all(m.startswith("corrupted is not a readable image: ") for m in messages)


def test_a_pillow_image_is_not_changed() -> None:
    image = Image.new("P", (4, 3))
    image.getexif()[0x0112] = 6
    assert decode_image(image).shape == (3, 4, 3)
    assert (image.mode, image.size) == ("P", (4, 3))


def test_items_are_read_in_order_within_the_limit() -> None:
    consumed: list[int] = []

    def items() -> Iterator[int]:
        for i in range(30):
            consumed.append(i)
            yield i

    def read(item: int) -> int:
        time.sleep(0.001 * (item % 3))
        return -item

    results = []
    for result in read_ahead(items(), read, num_threads=3, ahead=5):
        results.append(result)
        assert len(consumed) <= len(results) + 4
    assert results == [-i for i in range(30)]


def test_threads_end_when_the_generator_is_closed() -> None:
    before = threading.active_count()
    reader = read_ahead(range(1000), lambda _item: time.sleep(0.001), num_threads=3, ahead=50)
    next(reader)
    reader.close()
    assert threading.active_count() == before


def test_an_error_is_raised_in_place_of_its_item() -> None:
    reader = read_ahead([1, 2, 0, 4], lambda item: 1 / item, num_threads=2, ahead=3)
    assert [next(reader), next(reader)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(reader)


def test_the_threads_of_read_together_are_reused() -> None:
    def read(item: int) -> tuple[int, str]:
        time.sleep(0.001)
        return -item, threading.current_thread().name

    first, second = read_together(range(20), read), read_together(range(20), read)
    assert [value for value, _ in first] == [-i for i in range(20)]
    assert {name for _, name in first} & {name for _, name in second}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_read_together_works_in_a_forked_process() -> None:
    """In a forked process, such as a DataLoader worker, the parent's threads do not exist."""
    assert read_together([1, 2], str) == ["1", "2"]
    context = multiprocessing.get_context("fork")
    with context.Pool(1) as pool:
        assert pool.apply_async(read_together, ([3, 4], str)).get(timeout=60) == ["3", "4"]
