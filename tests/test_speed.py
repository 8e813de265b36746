"""The plots and sentences of the page "How fast" agree with the saved results."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent
RESULTS, STATIC = ROOT / "benchmarks/results", ROOT / "docs/_static"
SVG = "{http://www.w3.org/2000/svg}"
PRECISIONS = ("float32", "bfloat16", "int8")


def saved(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


def inference_rows() -> Iterator[Any]:
    for path in (RESULTS / "inference/intel-xeon-amx").glob("*-1.json"):
        yield json.loads(path.read_text())


def training_ratios(machine: str) -> dict[str, float]:
    rows = saved(f"training_step/{machine}.json")["results"]
    return {name: row["ratio"] for name, row in rows.items() if isinstance(row, dict)}


def mean(ratios: list[float]) -> float:
    return math.prod(ratios) ** (1 / len(ratios))


def plot(name: str) -> ElementTree.Element:
    return ElementTree.parse(STATIC / f"speed_{name}.svg").getroot()


def texts(name: str) -> list[str]:
    return [element.text or "" for element in plot(name).iter(f"{SVG}text")]


def sentence(title: str) -> str:
    found = re.search(rf"^\*\*{title}\.\*\*.*$", (ROOT / "docs/speed.md").read_text(), re.M)
    assert found
    return found[0]


def test_the_points_of_the_first_plot_are_the_measured_ratios() -> None:
    root = plot("inference")
    ticks = {t.text: float(t.attrib["x"]) for t in root.iter(f"{SVG}text")}
    zero, one = ticks["0.0"], ticks["1.0"]
    points = {
        group.attrib["id"]: float(use.attrib["x"])
        for group in root.iter(f"{SVG}g")
        for use in group.findall(f"{SVG}g/{SVG}use")
        if group.attrib.get("id", "").endswith(PRECISIONS)
    }
    expected = {
        f"{row['network']} {precision}": zero + (one - zero) * ratio
        for row in inference_rows()
        for precision, ratio in row["over eager"].items()
    }
    assert points == pytest.approx(expected, abs=0.01)


def test_the_labels_of_the_second_plot_are_the_measured_rates() -> None:
    rates = [row["images_per_second"] for row in saved("folder.json")["results"].values()]
    labels = [f"{who} {value:.0f}" for row in rates for who, value in row.items()]
    assert [t for t in texts("folder") if t.startswith(("cnnarch", "torchvision"))] == labels


def test_the_labels_of_the_third_plot_are_the_measured_ratios() -> None:
    ratios = training_ratios("amd-epyc-avx-512-bf16")
    found = [text for text in texts("training") if re.fullmatch(r"0\.\d\d|1\.\d\d", text)]
    assert found == [f"{ratio:.2f}" for ratio in ratios.values()]
    assert [text for text in texts("training") if text in ratios] == list(ratios)


def test_the_first_sentence_says_what_was_measured() -> None:
    kept: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    for row in inference_rows():
        for precision, ratio in row["over eager"].items():
            kept[precision].append(ratio)
    text = sentence("Inference")
    for precision, ratios in kept.items():
        assert re.search(rf"\b{mean(ratios):.0%} (of the time .*)?in {precision}", text)
    assert f"over {len(kept['float32'])} networks (int8: {len(kept['int8'])})" in text
    assert "an Intel Xeon with AMX" in text


def test_the_second_sentence_says_what_was_measured() -> None:
    record = saved("folder.json")
    resnet, efficientnet = (
        rates["cnnarch"] / rates["torchvision"]
        for rates in (
            record["results"][name]["images_per_second"] for name in ("resnet50", "efficientnet_b0")
        )
    )
    text = sentence("A folder of photographs")
    assert f"{resnet:.1f} times (ResNet-50) and {efficientnet:.1f} times (EfficientNet-B0)" in text
    assert record["machine"]["processor"] in text
    assert record["date"] in text


def test_the_third_sentence_says_what_was_measured() -> None:
    fast, slow = map(training_ratios, ("amd-epyc-avx-512-bf16", "amd-epyc-avx2"))
    text = sentence("Training")
    assert f"takes {mean(list(fast.values())):.0%} of the time" in text
    assert f"AVX2, which has no bfloat16, it takes {mean(list(slow.values())):.0%}" in text
    assert f"over {len(fast)} networks" in text
    for machine in ("amd-epyc-avx-512-bf16", "amd-epyc-avx2"):
        assert saved(f"training_step/{machine}.json")["date"] in text


def test_the_page_begins_with_the_plots() -> None:
    before, _, _ = (ROOT / "docs/speed.md").read_text().partition("\n## ")
    plots = re.findall(r"_static/(\w+)\.svg\n:alt: (.{40,})\n", before)
    assert [name for name, _ in plots] == ["speed_inference", "speed_folder", "speed_training"]
