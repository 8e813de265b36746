"""The three plots and sentences at the top of the page "How fast", from the saved results."""

from typing import Any, NamedTuple

from benchmarks import inference
from benchmarks.measure import machine_name, records_by_machine, saved_record
from benchmarks.training_step import BATCH

MACHINES = {"inference": "Intel Xeon, AMX", "training_step": "AMD EPYC, AVX-512 BF16"}
"""The machine of each plot: one with every column of the table."""
WITHOUT_BFLOAT16 = "AMD EPYC, AVX2"
IN_WORDS = {"resnet50": "ResNet-50", "efficientnet_b0": "EfficientNet-B0"}


class Claim(NamedTuple):
    """A plot and what it shows.

    Args:
        file: name of the plot in docs/_static.
        sentence: one sentence with the machine and the date, in Markdown.
        alt: what the plot shows, for readers who do not see it.
    """

    file: str
    sentence: str
    alt: str


def text() -> str:
    """Return the sentences, each above its plot, in Markdown."""
    parts = [
        f"{claim.sentence}\n\n```{{image}} _static/{claim.file}\n:alt: {claim.alt}\n"
        ":width: 640px\n```"
        for claim in (inference_claim(), folder_claim(), training_claim())
    ]
    return "\n\n".join(parts)


def with_word(machine: str) -> str:
    """Return a machine's name for a sentence: "Intel Xeon, AMX" becomes "Intel Xeon with AMX"."""
    return machine.replace(", ", " with ")


def inference_rows() -> list[dict[str, Any]]:
    """Return the rows of one image on the machine of the plot."""
    return [r for r in inference.saved_rows()[MACHINES["inference"]] if r["batch"] == 1]


def inference_claim() -> Claim:
    rows, name = inference_rows(), MACHINES["inference"]
    means = inference.means(rows)
    float32, bfloat16, int8 = (
        f"{means[f'{precision} over eager, batch 1']:.0%}"
        for precision in ("float32", "bfloat16", "int8")
    )
    in_int8 = sum("int8" in row["over eager"] for row in rows)
    return Claim(
        "speed_inference.svg",
        f"**Inference.** For one image, [`optimize`](inference.md) takes {float32} of the time of "
        f"eager PyTorch in float32, {bfloat16} in bfloat16 and {int8} in int8: geometric means "
        f"over {len(rows)} networks (int8: {in_int8}) on two cores of an {with_word(name)}; "
        f"results of {saved_record('inference')['date']}.",
        f"For each of {len(rows)} networks, the times in float32, bfloat16 and int8 relative to "
        "eager mode, which is 1. The first table below lists them in milliseconds.",
    )


def folder_claim() -> Claim:
    record = saved_record("folder")
    machine = with_word(machine_name(record["machine"]))
    ratios = {IN_WORDS[name]: f"{row['ratio']:.1f}" for name, row in record["results"].items()}
    words = " and ".join(f"{ratio} times ({name})" for name, ratio in ratios.items())
    return Claim(
        "speed_folder.svg",
        "**A folder of photographs.** From 1,000 JPEG files to labels, the throughput of "
        f"[`Predictor`](predictor.md) with a network optimized in bfloat16 is {words} that of the "
        f"usual torchvision loop in float32, on two cores of an {machine}; "
        f"results of {record['date']}.",
        "Images per second: "
        + "; ".join(
            f"{IN_WORDS[name]}, "
            + ", ".join(f"{k} {v:.0f}" for k, v in row["images_per_second"].items())
            for name, row in record["results"].items()
        )
        + ".",
    )


def training_rows() -> dict[str, float]:
    """Return each network's ratio on the machine of the plot, with the precision it selects."""
    results = records_by_machine("training_step")[MACHINES["training_step"]]["results"]
    return {name: row["ratio"] for name, row in results.items() if isinstance(row, dict)}


def training_claim() -> Claim:
    records = records_by_machine("training_step")
    name, rows = MACHINES["training_step"], training_rows()
    key = "geometric mean of ratio"
    mean, other = (records[m]["results"][key] for m in (name, WITHOUT_BFLOAT16))
    return Claim(
        "speed_training.svg",
        f"**Training.** A step of [`cnnarch train`](training.md) on {BATCH} images takes "
        f"{mean:.0%} of the time of torchvision's or timm's network with PyTorch's defaults: "
        f"geometric mean over {len(rows)} networks on two cores of an {with_word(name)}. On an "
        f"{with_word(WITHOUT_BFLOAT16)}, which has no bfloat16, it takes {other:.0%}. Results of "
        f"{records[name]['date']} and {records[WITHOUT_BFLOAT16]['date']}.",
        "Time of a training step relative to the defaults, which are 1: "
        + ", ".join(f"{network} {ratio:.2f}" for network, ratio in rows.items())
        + ".",
    )
