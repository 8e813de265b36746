"""Figures of photographs: files, their contents and Pillow images."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import cnnarch
from cnnarch import viz
from cnnarch.images import read_image
from cnnarch.training import ImageSet, load_data
from cnnarch.weights import Preprocessing


@pytest.fixture(scope="module")
def model() -> cnnarch.ImageClassifier:
    torch.manual_seed(0)
    model = cnnarch.resnet20_cifar(num_classes=3).eval()
    model.preprocessing = Preprocessing(32, 40)
    model.categories = ("cat", "dog", "owl")
    return model


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph that its EXIF data rotate."""
    pixels = np.random.default_rng(0).integers(0, 255, (50, 80, 3), "uint8")
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def prepared(model: cnnarch.ImageClassifier, path: Path) -> Tensor:
    """Return the network's input, computed by the transform that users apply themselves."""
    assert model.preprocessing is not None
    with Image.open(path) as image:
        inputs: Tensor = model.preprocessing.transform()(image)[None]
    return inputs


def arrays(figure: Any) -> list[np.ndarray]:
    return [np.asarray(i.get_array()) for axes in figure.axes for i in axes.images]


FIGURES: dict[str, Callable[..., Any]] = {
    "gradcam": viz.gradcam,
    "integrated_gradients": viz.integrated_gradients,
    "predictions": viz.predictions,
    "feature_maps": viz.feature_maps,
}


@pytest.mark.parametrize("name", FIGURES)
def test_one_call_shows_a_file_its_bytes_or_an_image(
    name: str, model: cnnarch.ImageClassifier, photo: Path
) -> None:
    draw = FIGURES[name]
    expected = draw(model, prepared(model, photo))
    with Image.open(photo) as image:
        image.load()
        pixels = read_image(photo)
        array = pixels.permute(1, 2, 0).numpy()
        kinds: list[Any] = [photo, str(photo), photo.read_bytes(), image, [photo], pixels, array]
        kinds += [pixels[None], [pixels], BytesIO(photo.read_bytes()), iter([photo])]
        kinds += [prepared(model, photo).numpy(), prepared(model, photo)[0]]
        for source in kinds:
            figure = draw(model, source)
            for found, other in zip(arrays(figure), arrays(expected), strict=True):
                np.testing.assert_allclose(found, other, atol=1e-6)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [axes.get_title() for axes in expected.axes]


def test_a_list_shows_all_photographs_and_a_folder_the_first_six(
    model: cnnarch.ImageClassifier, photo: Path, tmp_path: Path
) -> None:
    assert len(viz.gradcam(model, 8 * [photo]).axes) == 16  # two rows
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(photo.read_bytes())
    assert len(viz.gradcam(model, tmp_path).axes) == 12
    assert len(viz.integrated_gradients(model, [photo, str(photo)]).axes) == 4


def test_a_grid_shows_photographs_without_a_network(photo: Path) -> None:
    (shown,) = arrays(viz.data_grid(photo))
    with Image.open(photo) as image:
        expected = Preprocessing(224, 224).crop()(image).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(shown, expected / 255, atol=1e-6)


def test_photographs_can_be_embedded(
    model: cnnarch.ImageClassifier, photo: Path, tmp_path: Path
) -> None:
    for i in range(5):
        Image.new("RGB", (40, 40), (50 * i, 9, 9)).save(tmp_path / f"{i}.png")
    figure = viz.embeddings(model, tmp_path, method="pca")
    assert len(figure.axes[0].collections[0].get_offsets()) == 5
    with pytest.raises(ValueError, match="at least 4 images are needed, got 1"):
        viz.embeddings(model, photo)


def test_what_cannot_be_shown_is_rejected(
    model: cnnarch.ImageClassifier, photo: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png is not a readable image"):
        viz.gradcam(model, broken)
    with pytest.raises(ValueError, match="image 1 is not a readable image"):
        viz.gradcam(model, [photo, b"no image"])
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder gone\.png"):
        viz.gradcam(model, "gone.png")
    with pytest.raises(FileNotFoundError, match=r"there is no file gone\.png"):
        viz.gradcam(model, [photo, "gone.png"])
    with pytest.raises(ValueError, match="the network has no preprocessing; pass one"):
        viz.gradcam(cnnarch.lenet5(), photo)
    with pytest.raises(ValueError, match="got 3 images, but the figure shows at most 1"):
        viz.feature_maps(model, 3 * [photo])
    with pytest.raises(ValueError, match="got 3 images, but the figure shows at most 2"):
        viz.gradcam(model, 3 * [photo], columns=2)
    with pytest.raises(ValueError, match="the list is empty"):
        viz.gradcam(model, [])
    images: Any = [photo, 3]
    with pytest.raises(TypeError, match="image 1 is a int; expected a path to a file or folder"):
        viz.gradcam(model, images)
    images = 3
    with pytest.raises(TypeError, match=r"expected a path to a file .* data\.test; got int"):
        viz.gradcam(model, images)
    with pytest.raises(TypeError, match=r"image 0 must be uint8, got torch\.int64"):
        viz.gradcam(model, torch.zeros(1, 3, 32, 32, dtype=torch.int64))
    with pytest.raises(ValueError, match="targets must be class indices from 0 to 2, got 3"):
        viz.gradcam(model, photo, [3])
    with pytest.raises(ValueError, match=r"a path is empty; pass '\.'"):
        viz.gradcam(model, "")
    with pytest.raises(TypeError, match=r"pass one of its splits, such as data\.test"):
        viz.gradcam(model, load_data("digits"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected one image, got 2"):
        viz.feature_maps(model, np.zeros((2, 32, 32, 3), np.uint8))


def test_an_image_set_is_shown_with_its_labels(model: cnnarch.ImageClassifier, photo: Path) -> None:
    pixels = read_image(photo)[None]
    images = ImageSet(pixels, torch.tensor([2]), ("cat", "dog", "owl"), Preprocessing(32, 40))
    for shown, expected in zip(
        arrays(viz.gradcam(model, images)), arrays(viz.gradcam(model, photo)), strict=True
    ):
        np.testing.assert_allclose(shown, expected, atol=1e-6)
