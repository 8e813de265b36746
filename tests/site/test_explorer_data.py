"""The explorer's data agree with sources outside its generator."""

import json
from pathlib import Path
from typing import Any

import pytest

import cnnarch
from benchmarks.measure import RESULTS
from cnnarch.facts.builders import families
from cnnarch.weights.selection import select
from docs.generators import explorer


@pytest.fixture(scope="module")
def facts() -> Any:
    cards = [cnnarch.get_card(name) for name in cnnarch.list_models()]
    return explorer.facts(cards, explorer.measured_times())


def row_of(rows: list[Any], **values: Any) -> Any:
    (row,) = [row for row in rows if values.items() <= row.items()]
    return row


def test_every_network_and_checkpoint_has_a_row(facts: Any) -> None:
    assert [row["name"] for row in facts["networks"]] == cnnarch.list_models()
    catalog = json.loads((Path(cnnarch.__file__).parent / "weights/catalog.json").read_text())
    listed = {(row["network"], row["tag"]) for row in facts["checkpoints"]}
    assert listed == {(name, tag) for name, entries in catalog.items() for tag in entries}
    assert len(listed) == len(facts["checkpoints"])


def test_the_pages_of_all_families_are_generated(facts: Any) -> None:
    assert {row["family"] for row in facts["networks"]} == set(families())


def test_a_network_has_the_values_of_its_paper_and_sheet(facts: Any) -> None:
    row = row_of(facts["networks"], name="resnet50")
    assert (row["year"], row["params"], row["macs"]) == (2015, 25_557_032, 4_089_184_256)
    assert "year" not in row_of(facts["networks"], name="convnet")


def test_checkpoints_have_the_values_that_their_publishers_state(facts: Any) -> None:
    """https://docs.pytorch.org/vision/stable/models.html and timm's results-imagenet.csv.

    The counts are in Table 1 of the ConvNeXt paper, which lists ConvNeXt-B for 384 pixels.
    """
    v2 = row_of(facts["checkpoints"], network="resnet50", tag="IMAGENET1K_V2")
    assert (v2["top1"], v2["top5"], v2["params"]) == (80.858, 95.434, 25_557_032)
    assert v2["source_url"] == "https://docs.pytorch.org/vision/stable/models.html"
    clip = "TIMM_CLIP_LAION2B_AUGREG_FT_IN12K_IN1K_384"
    large = row_of(facts["checkpoints"], network="convnext_base", tag=clip)
    assert (large["pixels"], large["top1"], large["top5"]) == (384, 87.144, 98.228)
    assert (round(large["params"] / 1e6), round(large["macs"] / 1e9)) == (89, 45)


def test_values_that_are_not_published_are_missing(facts: Any) -> None:
    row = row_of(facts["checkpoints"], network="convnext_base", tag="TIMM_FB_IN22K")
    assert not {"top1", "top5", "dataset"} & row.keys()
    assert row["source_url"].startswith("https://huggingface.co/timm/convnext_base")


def test_licenses_have_one_spelling(facts: Any) -> None:
    licenses = {row["license"] for row in facts["checkpoints"]}
    assert {"mit", "apache-2.0", "its own", "not stated"} <= licenses
    assert len(licenses) == len({name.lower() for name in licenses})
    own = [row for row in facts["checkpoints"] if row["license"] == "its own"]
    assert all(row["license_url"].startswith("https://") for row in own)


def test_times_name_the_machine_and_fit_the_image_size(facts: Any) -> None:
    """`benchmarks.eager` times Inception v4 with 224 pixels, and its card says 299."""
    kinds = {time["kind"]: time["key"] for time in facts["times"]}
    measured = json.loads((RESULTS / "every_network.json").read_text())["networks"]["resnet18"]
    row = row_of(facts["networks"], name="resnet18")
    plain, fast = (
        kinds["plain, AMD EPYC, AVX2"],
        kinds["optimized, AMD EPYC, AVX2"],
    )
    assert row[plain] == pytest.approx(measured["plain_ms"], rel=1e-3)
    assert row[fast] == pytest.approx(measured["milliseconds"], rel=1e-3)
    other = kinds["plain, AMD EPYC, AVX-512 BF16"]
    assert other in row
    assert other not in row_of(facts["networks"], name="inception_v4")


def test_the_page_states_the_number_of_times(facts: Any) -> None:
    networks = json.loads((RESULTS / "every_network.json").read_text())["networks"]
    timed = sum(row["plain_ms"] is not None for row in networks.values())
    assert f"{timed} networks (plain, AMD EPYC, AVX2)" in explorer.description(facts)


def test_accuracies_that_rate_a_network_are_those_of_list_models(facts: Any) -> None:
    """They are on ImageNet-1K, and of checkpoints with as many parameters as the network."""
    for row in facts["networks"]:
        own = [each for each in facts["checkpoints"] if each["network"] == row["name"]]
        best = max((each["top1"] for each in own if each.get("rates")), default=None)
        (rated,) = select([row["name"]])
        assert best == rated.top1


def test_a_script_in_the_data_cannot_end_the_element() -> None:
    text = explorer.as_script({"name": "</script><b>"})
    assert text.count("</script>") == 1
    assert json.loads(text[text.index("{") : text.rindex("}") + 1]) == {"name": "</script><b>"}
