"""Image files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnarch.images import find_images, read_image, resize_images


def photograph(path: Path, size: tuple[int, int] = (30, 20), mode: str = "RGB") -> Path:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "gif", "webp", "jpg", "ppm"])
def test_reads_the_usual_formats(tmp_path: Path, suffix: str) -> None:
    image = read_image(photograph(tmp_path / f"a.{suffix}"))
    assert image.shape == (3, 20, 30)
    assert image.dtype == torch.uint8
    assert image.float().std() > 10


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_any_mode_becomes_gray_or_colour(tmp_path: Path, mode: str) -> None:
    path = photograph(tmp_path / "a.tiff", mode=mode)
    assert read_image(path, 1).shape == (1, 20, 30)
    assert read_image(path, 3).shape == (3, 20, 30)


def test_photographs_stand_upright(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    assert read_image(path).shape == (3, 30, 20)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = photograph(tmp_path / "cut.png", (200, 200))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut\.png is not a readable image"):
        read_image(path)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.png is not a readable image"):
        read_image(path)


def test_files_have_one_or_three_channels(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 or 3 channels, not 4"):
        read_image(photograph(tmp_path / "a.png"), 4)


def test_folders_are_searched_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/2.PNG", "b/1.jpg", "a.png"):
        photograph(tmp_path / "x.png").rename(tmp_path / name)
    (tmp_path / "b/readme.txt").write_text("no image")
    found = [str(p.relative_to(tmp_path)) for p in find_images([tmp_path])]
    assert found == ["a.png", "b/1.jpg", "b/2.PNG"]
    assert find_images([tmp_path / "a.png"]) == [tmp_path / "a.png"]


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        find_images([tmp_path / "gone"])
    with pytest.raises(ValueError, match="holds no images"):
        find_images([tmp_path])


def test_the_shorter_side_is_scaled_and_the_middle_kept() -> None:
    wide = torch.zeros(1, 20, 60, dtype=torch.uint8)
    wide[:, :, 20:40] = 255  # the middle third
    square = resize_images(wide, 10)
    assert square.shape == (1, 10, 10)
    assert square[:, :, 1:-1].float().mean() > 250
    assert resize_images(square, 10) is square
