"""Model cards: what the Hub reads from them, what they show, and what they reject."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

import cnnarch
from cnnarch.weights import WeightsError, push_to_hub, save_pretrained
from tests.weights.runs import CLASSES, PICTURES, RECIPE, network, write_run
from tests.weights.server import Server

IMAGE = re.compile(r"!\[(.*?)\]\((.*?)\)")


@pytest.fixture(scope="module")
def trained() -> cnnarch.ImageClassifier:
    return network("lenet5", in_channels=3)


@pytest.fixture(scope="module")
def finished(trained: cnnarch.ImageClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "one", trained)


def read(folder: Path) -> ModelCard:
    return ModelCard((folder / "README.md").read_text("utf-8"))


def test_the_hub_reads_the_task_the_license_and_the_results(
    trained: cnnarch.ImageClassifier, finished: Path, tmp_path: Path
) -> None:
    save_pretrained(trained, tmp_path / "net", run=finished, license="mit")
    data = read(tmp_path / "net").data
    assert (data.library_name, data.pipeline_tag) == ("cnnarch", "image-classification")
    assert data.license == "mit"
    assert data.datasets == ["zalando-datasets/fashion_mnist"]
    assert data.metrics == ["accuracy", "f1"]
    assert {"image-classification", "cnnarch", "lenet5"} == set(data.tags)
    accuracy, f1 = data.eval_results
    assert data.model_name == "net"
    assert accuracy.task_type == "image-classification"
    assert (accuracy.dataset_type, accuracy.dataset_name) == (
        "zalando-datasets/fashion_mnist",
        "fashion_mnist",
    )
    assert (accuracy.dataset_split, accuracy.metric_type) == ("test", "accuracy")
    assert (accuracy.metric_value, f1.metric_value) == (0.9322, 0.9314)


def test_a_card_states_accuracy_data_split_and_seed(
    trained: cnnarch.ImageClassifier, finished: Path, tmp_path: Path
) -> None:
    trained.save_pretrained(tmp_path, run=finished)
    text = " ".join(read(tmp_path).text.split())
    assert "# lenet5 on `fashion_mnist`" in text
    assert "| Accuracy | 93.22% |" in text
    assert "test split of `fashion_mnist` (10,000 images)" in text
    assert "one training run of 10 epochs with seed 3" in text
    assert "0 daisy 1 rose 2 tulip" in text
    assert "learning_rate: 0.1" in text


def test_the_pictures_of_the_run_are_copied_and_described(
    trained: cnnarch.ImageClassifier, finished: Path, tmp_path: Path
) -> None:
    trained.save_pretrained(tmp_path, run=finished)
    shown = IMAGE.findall(read(tmp_path).text)
    assert [name for _, name in shown] == [f"{name}.png" for name in PICTURES]
    for alt, name in shown:
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()
        assert len(alt) > 30  # a description, not a heading


def test_a_run_saved_into_its_own_folder_keeps_its_pictures(
    trained: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "run", trained)
    before = (folder / "curves.png").read_bytes()
    trained.save_pretrained(folder, run=folder)
    assert (folder / "curves.png").read_bytes() == before
    assert len(IMAGE.findall(read(folder).text)) == len(PICTURES)


def test_a_deleted_picture_is_omitted(trained: cnnarch.ImageClassifier, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", trained)
    (folder / "gradcam.png").unlink()
    trained.save_pretrained(tmp_path / "net", run=folder)
    names = [name for _, name in IMAGE.findall(read(tmp_path / "net").text)]
    assert names == ["curves.png", "confusion.png"]
    assert not (tmp_path / "net" / "gradcam.png").exists()


def test_without_a_run_the_card_states_the_facts_of_the_sheet(tmp_path: Path) -> None:
    cnnarch.lenet5().save_pretrained(tmp_path)
    card = read(tmp_path)
    assert card.data.eval_results is None
    assert not IMAGE.findall(card.text)
    assert "Gradient-Based Learning Applied to Document Recognition" in card.text
    assert "Parameters: 61,706" in card.text  # 156 + 2,416 + 48,120 + 10,164 + 850
    assert "The license of these weights is not stated." in card.text


def test_a_network_without_a_classifier_is_not_tagged_as_a_classifier(tmp_path: Path) -> None:
    cnnarch.lenet5(num_classes=0).save_pretrained(tmp_path)
    card = read(tmp_path)
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert "cnnarch predict" not in card.text


def test_paths_of_the_training_machine_are_not_published(
    trained: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    recipe = RECIPE.replace("fashion_mnist", "folder:../private/flowers")
    recipe = recipe.replace("weights: null", "weights: /home/someone/secret/start.pth")
    places = {"data": "folder:../private/flowers", "data_folder": "/home/someone/private/flowers"}
    folder = write_run(tmp_path / "run", trained, recipe, **places, command="/home/someone/train")
    trained.save_pretrained(tmp_path / "net", run=folder)
    card = read(tmp_path / "net")
    assert card.data.datasets is None
    (accuracy, _) = card.data.eval_results
    assert (accuracy.dataset_type, accuracy.dataset_name) == ("imagefolder", "flowers")
    assert "private" not in card.content
    assert "someone" not in card.content
    found = re.search(r"```yaml\n(.*?)```", card.text, re.DOTALL)
    assert found
    shown = yaml.safe_load(found[1])
    assert (shown["data"], shown["weights"]) == ("folder:flowers", "start.pth")


@pytest.mark.parametrize("name", ["a`b", "a|b", "<script>", "[x](y)", "two\nlines", "*a*"])
def test_names_are_shown_as_they_are(
    trained: cnnarch.ImageClassifier, tmp_path: Path, name: str
) -> None:
    markdown = pytest.importorskip("markdown_it", reason="requires cnnarch[docs]")
    folder = write_run(tmp_path / "run", trained, data=name)
    trained.save_pretrained(tmp_path / "net", run=folder)
    tokens = markdown.MarkdownIt("commonmark").parse(read(tmp_path / "net").text)
    title = next(t for t in tokens if t.type == "inline")
    code = [t.content for t in title.children if t.type == "code_inline"]
    assert code == [name.replace("\n", "\\n")]
    assert not any(t.type == "html_inline" for t in title.children)


def test_initial_weights_from_the_hub_are_the_base_model(
    trained: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    recipe = RECIPE.replace("weights: null", "weights: hf-hub:timm/resnet18.a1_in1k@main")
    folder = write_run(tmp_path / "run", trained, recipe)
    trained.save_pretrained(tmp_path / "net", run=folder)
    card = read(tmp_path / "net")
    assert card.data.base_model == "timm/resnet18.a1_in1k"
    assert "(https://huggingface.co/timm/resnet18.a1_in1k)" in card.text


def test_initial_weights_from_the_catalog_keep_their_license(tmp_path: Path) -> None:
    model = cnnarch.lenet5(weights="FASHION_MNIST")
    model.save_pretrained(tmp_path)
    license = cnnarch.weights.get_weights("lenet5")["FASHION_MNIST"].license
    assert f"`FASHION_MNIST`, whose license is {license}." in read(tmp_path).text


def test_a_long_list_of_classes_is_shortened(tmp_path: Path) -> None:
    model = cnnarch.lenet5(num_classes=150)
    model.categories = tuple(f"class {i}" for i in range(150))
    model.save_pretrained(tmp_path)
    text = read(tmp_path).text
    assert "\n99 class 99\n... and 50 more in config.json\n" in text
    assert "class 100" not in text


def unfinished(folder: Path) -> None:
    (folder / "results.json").unlink()


def without_recipe(folder: Path) -> None:
    (folder / "recipe.yaml").unlink()


def cut(folder: Path) -> None:
    (folder / "results.json").write_text('{"test": {')


def without_accuracy(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    del results["test"]["top1"]
    (folder / "results.json").write_text(json.dumps(results))


def a_list(folder: Path) -> None:
    (folder / "recipe.yaml").write_text("- 1\n")


def without_network(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


BROKEN = {
    unfinished: r"is not finished: it has no results\.json; resume it",
    without_recipe: r"not the folder of a training run: it has no recipe\.yaml",
    cut: r"results\.json does not contain the results of a run",
    without_accuracy: r"results\.json does not contain the results of a run: KeyError\('top1'\)",
    a_list: r"recipe\.yaml is corrupted",
    without_network: r"model\.safetensors cannot be read",
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_a_broken_run_is_rejected_before_anything_is_written(
    trained: cnnarch.ImageClassifier, tmp_path: Path, damage: object
) -> None:
    folder = write_run(tmp_path / "run", trained)
    damage(folder)  # type: ignore[operator]
    with pytest.raises(WeightsError, match=BROKEN[damage]):  # type: ignore[index]
        trained.save_pretrained(tmp_path / "net", run=folder)
    assert not (tmp_path / "net").exists()


def test_a_missing_run_is_rejected(trained: cnnarch.ImageClassifier, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"run='.*none' is not a folder"):
        trained.save_pretrained(tmp_path / "net", run=tmp_path / "none")


def test_the_results_of_another_network_are_rejected(finished: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = network("lenet5", in_channels=3)
    with pytest.raises(WeightsError, match=r"weights differ from those in .*model\.safetensors"):
        other.save_pretrained(tmp_path / "net", run=finished)
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize("license", [5, "", True])
def test_a_license_must_be_a_name(
    trained: cnnarch.ImageClassifier, license: Any, tmp_path: Path
) -> None:
    with pytest.raises(
        WeightsError, match=f"license must be a name, such as 'mit', got {license!r}"
    ):
        trained.save_pretrained(tmp_path / "net", license=license)
    assert not (tmp_path / "net").exists()


def test_pushing_uploads_the_pictures(
    hub: Server, trained: cnnarch.ImageClassifier, finished: Path
) -> None:
    push_to_hub(trained, "owner/flowers", run=finished, license="apache-2.0", token="hf_none")
    files = hub.repositories["owner/flowers"]
    assert set(files) == {
        *("README.md", "config.json", "model.safetensors"),
        *(f"{name}.png" for name in PICTURES),
    }
    assert files["curves.png"] == (finished / "curves.png").read_bytes()
    card = ModelCard(files["README.md"].decode())
    assert (card.data.model_name, card.data.license) == ("flowers", "apache-2.0")
    assert 'cnnarch.from_pretrained("hf-hub:owner/flowers")' in card.text
    assert "cnnarch predict --model hf-hub:owner/flowers photo.jpg" in card.text
    assert cnnarch.from_pretrained("owner/flowers").categories == CLASSES  # type: ignore[attr-defined]
