"""Images added to a file of features: only their features are computed."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import cnnarch
from cnnarch.embedding import image_list
from tests.test_embedding import SMALL, Counted, by_hand, interrupted, pictures


@pytest.fixture
def color() -> cnnarch.ImageClassifier:
    model = cnnarch.lenet5(in_channels=3)
    model.preprocessing = SMALL
    return model


def stored(output: Path) -> np.ndarray:
    if output.suffix == ".npy":
        return np.asarray(np.load(output))
    return load_file(output)["features"]


def assert_complete(model: cnnarch.ImageClassifier, found: Any, output: Path) -> None:
    """Check a result and its files against single files embedded one by one."""
    names = json.loads(output.with_name(output.name + ".json").read_text())["names"]
    assert names == list(found.names)
    np.testing.assert_array_equal(stored(output), found.features)
    for name, row in zip(names, found.features, strict=True):
        expected = cnnarch.embed(model, name).features[0]
        np.testing.assert_allclose(row, expected, atol=1e-5)
    others = {path.name for path in output.parent.iterdir()} - {"photos"}
    assert others == {output.name, f"{output.name}.json"}


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_only_the_features_of_new_files_are_computed(
    tmp_path: Path, color: cnnarch.ImageClassifier, suffix: str
) -> None:
    photos, output = tmp_path / "photos", tmp_path / f"x{suffix}"
    paths = pictures(photos, 7)
    first, last = paths[0], paths[6]
    for path in (first, last):
        path.rename(path.with_suffix(".later"))
    cnnarch.embed(color, photos, output=output, batch_size=2)
    for path in (first, last):
        path.with_suffix(".later").rename(path)
    counted = Counted(color)
    found = cnnarch.embed(color, photos, output=output, batch_size=2)
    assert counted.images == 2
    assert found.names == tuple(map(str, paths))  # in the order of the call
    assert_complete(color, found, output)
    counted.images = 0
    again = cnnarch.embed(color, photos, output=output)
    assert counted.images == 0
    np.testing.assert_array_equal(again.features, found.features)


def test_a_different_order_computes_nothing(tmp_path: Path, color: cnnarch.ImageClassifier) -> None:
    paths, output = pictures(tmp_path / "photos", 4), tmp_path / "x.npy"
    cnnarch.embed(color, paths, output=output)
    counted = Counted(color)
    paths = [paths[2], paths[0], paths[3], paths[1]]
    found = cnnarch.embed(color, paths, output=output)
    assert counted.images == 0
    assert found.names == tuple(map(str, paths))
    assert_complete(color, found, output)


def test_a_file_may_be_given_twice(tmp_path: Path, color: cnnarch.ImageClassifier) -> None:
    paths, output = pictures(tmp_path / "photos", 3), tmp_path / "x.npy"
    cnnarch.embed(color, [paths[1], paths[1]], output=output)
    counted = Counted(color)
    found = cnnarch.embed(color, [paths[0], paths[1], paths[2], paths[1]], output=output)
    assert counted.images == 2
    assert [Path(name).name for name in found.names or ()] == ["0.png", "1.png", "2.png", "1.png"]
    assert_complete(color, found, output)


def test_adding_can_be_interrupted(tmp_path: Path, color: cnnarch.ImageClassifier) -> None:
    paths, output = pictures(tmp_path / "photos", 9), tmp_path / "x.npy"
    cnnarch.embed(color, paths[4:7], output=output)
    before = output.read_bytes()
    counted = Counted(color)

    def stop(*_: object) -> None:
        if counted.images > 3:
            raise KeyboardInterrupt

    hook = color.stem.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        cnnarch.embed(color, paths[:8], output=output, batch_size=1)
    hook.remove()
    assert output.read_bytes() == before  # complete until it is replaced
    counted.images = 0
    found = cnnarch.embed(color, paths, output=output, batch_size=1)  # one more has been added
    assert counted.images == 9 - 3 - 3
    assert_complete(color, found, output)


@pytest.mark.parametrize("step", ["before metadata", "between", "after"])
def test_a_kill_while_files_are_replaced_loses_nothing(
    tmp_path: Path, color: cnnarch.ImageClassifier, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    paths, output = pictures(tmp_path / "photos", 5), tmp_path / "x.npy"
    cnnarch.embed(color, paths[2:], output=output)
    write, replace = Path.write_text, Path.replace

    def written(path: Path, *args: Any, **options: Any) -> int:
        if step == "before metadata":
            raise KeyboardInterrupt
        return write(path, *args, **options)

    def replaced(path: Path, target: Path) -> Path:
        if step == "between":
            raise KeyboardInterrupt
        replace(path, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", written)
        patch.setattr(Path, "replace", replaced)
        with pytest.raises(KeyboardInterrupt):
            cnnarch.embed(color, paths, output=output)
    counted = Counted(color)
    found = cnnarch.embed(color, paths, output=output)
    assert counted.images == 0
    assert found.names == tuple(map(str, paths))
    assert_complete(color, found, output)


def test_a_repaired_file_is_added(tmp_path: Path, color: cnnarch.ImageClassifier) -> None:
    paths, output = pictures(tmp_path / "photos", 4), tmp_path / "x.npy"
    content = paths[1].read_bytes()
    paths[1].write_bytes(b"broken")
    found = cnnarch.embed(color, paths, output=output, skip_unreadable=True)
    assert len(found) == 3
    paths[1].write_bytes(content)
    counted = Counted(color)
    found = cnnarch.embed(color, paths, output=output)
    assert counted.images == 1
    assert (len(found), found.unreadable) == (4, ())
    assert_complete(color, found, output)


def test_a_new_unreadable_file_is_listed(tmp_path: Path, color: cnnarch.ImageClassifier) -> None:
    paths, output = pictures(tmp_path / "photos", 4), tmp_path / "x.npy"
    cnnarch.embed(color, paths[1:], output=output)
    paths[0].write_bytes(b"broken")
    for _ in range(2):
        found = cnnarch.embed(color, paths, output=output, skip_unreadable=True)
        assert [entry.name for entry in found.unreadable] == [str(paths[0])]
        metadata = json.loads((tmp_path / "x.npy.json").read_text())
        assert metadata["unreadable"] == [list(found.unreadable[0])]
        assert_complete(color, found, output)
    with pytest.raises(ValueError, match=r"0\.png is not a readable image"):
        cnnarch.embed(color, paths, output=output)


def test_images_may_be_appended_to_an_array(tmp_path: Path) -> None:
    model, x, output = cnnarch.lenet5(), torch.rand(7, 1, 32, 32), tmp_path / "x.npy"
    labels = torch.arange(7)
    batches = [(x[:3], labels[:3]), (x[3:5], labels[3:5])]
    cnnarch.embed(model, batches, output=output)
    counted = Counted(model)
    found = cnnarch.embed(model, [*batches, (x[5:], labels[5:])], output=output)
    assert counted.images == 2
    assert found.labels is not None
    assert found.labels.tolist() == labels.tolist()
    np.testing.assert_allclose(np.load(output), by_hand(model, x), atol=1e-6)


def test_features_of_images_that_are_not_given_are_kept(
    tmp_path: Path, color: cnnarch.ImageClassifier
) -> None:
    paths, output = pictures(tmp_path / "photos", 4), tmp_path / "x.npy"
    cnnarch.embed(color, paths[:3], output=output)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    message = r"x\.npy contains features of 2 images that are not among these, such as .*0\.png"
    with pytest.raises(ValueError, match=message):
        cnnarch.embed(color, paths[2:], output=output)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    found = cnnarch.embed(color, paths[2:], output=output, overwrite=True)
    assert len(found) == 2


def test_only_a_changed_file_is_computed_again_and_is_named(
    tmp_path: Path, color: cnnarch.ImageClassifier, caplog: pytest.LogCaptureFixture
) -> None:
    paths, output = pictures(tmp_path / "photos", 4), tmp_path / "x.npy"
    cnnarch.embed(color, paths[:3], output=output)
    status = paths[1].stat()
    Image.fromarray(np.asarray(Image.open(paths[1]))[::-1]).save(paths[1])
    os.utime(paths[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    counted = Counted(color)
    found = cnnarch.embed(color, paths, output=output)
    assert counted.images == 2
    assert f"1 of 3 images have changed since they were saved, such as {paths[1]}" in caplog.text
    assert_complete(color, found, output)
    caplog.clear()
    counted.images = 0
    cnnarch.embed(color, paths, output=output)
    assert (counted.images, caplog.text) == (0, "")


def test_a_change_is_found_when_an_interrupted_call_is_resumed(
    tmp_path: Path, color: cnnarch.ImageClassifier, caplog: pytest.LogCaptureFixture
) -> None:
    paths, output = pictures(tmp_path / "photos", 5), tmp_path / "x.npy"
    paths[4].write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"4\.png is not a readable image"):
        cnnarch.embed(color, paths, output=output, batch_size=2)
    for i in (0, 4):
        Image.new("RGB", (40, 40), "red").save(paths[i])
    counted = Counted(color)
    found = cnnarch.embed(color, paths, output=output, batch_size=2)
    assert counted.images == 2
    assert "1 of 4 images have changed" in caplog.text
    assert_complete(color, found, output)


@pytest.mark.parametrize("limit", [2**31, 0])
@pytest.mark.parametrize("place", ["moved", "copied", "relative"])
def test_a_moved_or_touched_folder_computes_nothing(
    tmp_path: Path,
    color: cnnarch.ImageClassifier,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    limit: int,
) -> None:
    monkeypatch.setattr(image_list, "CONTENT_LIMIT", limit)
    paths, output = pictures(tmp_path / "before", 4), tmp_path / "x.npy"
    cnnarch.embed(color, tmp_path / "before", output=output)
    photos = tmp_path / "photos"
    if place == "copied":
        shutil.copytree(tmp_path / "before", photos, copy_function=shutil.copyfile)
        shutil.rmtree(tmp_path / "before")
    else:
        paths[0].parent.rename(photos)
    paths = [photos / path.name for path in paths]
    for path in paths:
        os.utime(path, ns=(1, 1))
    if place == "relative":
        monkeypatch.chdir(tmp_path)
        photos = Path("photos")
        paths = [photos / path.name for path in paths]
    counted = Counted(color)
    found = cnnarch.embed(color, photos, output=output)
    assert counted.images == 0
    assert found.names == tuple(map(str, paths))
    assert_complete(color, found, output)


def test_byte_equal_files_keep_their_rows(tmp_path: Path, color: cnnarch.ImageClassifier) -> None:
    paths, output = pictures(tmp_path / "photos", 3), tmp_path / "x.npy"
    shutil.copy(paths[0], paths[1])
    cnnarch.embed(color, paths, output=output)
    counted = Counted(color)
    found = cnnarch.embed(color, paths[::-1], output=output)
    assert counted.images == 0
    assert_complete(color, found, output)
    with pytest.raises(ValueError, match="features of 1 images that are not among these"):
        cnnarch.embed(color, paths[1:], output=output)


def test_images_in_memory_are_known_by_their_pixels(
    tmp_path: Path, color: cnnarch.ImageClassifier
) -> None:
    paths, output = pictures(tmp_path / "photos", 3), tmp_path / "x.npy"
    images = [Image.open(path) for path in paths]
    for image in images:
        image.load()
    cnnarch.embed(color, images[:2], output=output)
    counted = Counted(color)
    found = cnnarch.embed(color, images[::-1], output=output)
    assert counted.images == 1
    expected = cnnarch.embed(color, paths[::-1]).features
    np.testing.assert_allclose(found.features, expected, atol=1e-5)


def test_an_interrupted_call_with_overwrite_is_resumed(tmp_path: Path) -> None:
    old, new = cnnarch.lenet5(), cnnarch.lenet5()
    x, output = torch.rand(6, 1, 32, 32), tmp_path / "x.npy"
    cnnarch.embed(old, x, output=output)

    def batches() -> Any:
        yield from x.split(2)[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cnnarch.embed(new, batches(), output=output, overwrite=True)
    np.testing.assert_allclose(np.load(output), by_hand(old, x), atol=1e-6)
    counted = Counted(new)
    found = cnnarch.embed(new, x, output=output)
    assert counted.images == 2
    np.testing.assert_allclose(found.features, by_hand(new, x), atol=1e-6)


def test_a_first_call_may_be_resumed_with_more_images(tmp_path: Path) -> None:
    model, x, output = cnnarch.lenet5(), torch.rand(8, 1, 32, 32), tmp_path / "x.npy"
    interrupted(model, x[:6], output, 2)
    counted = Counted(model)
    found = cnnarch.embed(model, x, output=output)
    assert counted.images == 4
    np.testing.assert_allclose(found.features, by_hand(model, x), atol=1e-6)
