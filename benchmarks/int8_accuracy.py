"""How much accuracy does int8 cost on the Fashion-MNIST test set?

Bar: top-1 at most 0.5 points below float32. 512 training images calibrate.

    python -m benchmarks.int8_accuracy                       the networks that come with the package
    python -m benchmarks.int8_accuracy runs/zoo/vgg11_bn ... those of these folders
"""

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

import cnnarch
from benchmarks.measure import keep
from benchmarks.zoo import SHIPPED
from cnnarch.inference._offline import import_openvino
from cnnarch.inference.quantize import quantize
from cnnarch.training import load_data

CALIBRATION, BATCH = 512, 250


def int8(model: nn.Module, calibration: Tensor) -> Callable[[Tensor], Tensor]:
    settings = {"INFERENCE_PRECISION_HINT": "f32"}  # of what is not in int8, as in optimize
    compiled = import_openvino().Core().compile_model(quantize(model, calibration), "CPU", settings)
    return lambda images: torch.from_numpy(compiled(images.numpy())[0])


def measure(model: cnnarch.ImageClassifier) -> dict[str, float | str]:
    data = load_data("fashion_mnist").suited(model)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    quick = int8(model, data.train.inputs(order[:CALIBRATION]))
    right = {"float32": 0, "int8": 0, "agreement": 0}
    with torch.inference_mode():
        for indices in torch.arange(len(data.test)).split(BATCH):
            images, labels = data.test.inputs(indices), data.test.labels[indices]
            exact, rough = model(images).argmax(1), quick(images).argmax(1)
            right["float32"] += int((exact == labels).sum())
            right["int8"] += int((rough == labels).sum())
            right["agreement"] += int((exact == rough).sum())
    percent = {key: 100 * count / len(data.test) for key, count in right.items()}
    lost = round(percent["float32"] - percent["int8"], 2)
    return {"network": str(model.builder), **percent, "points_lost": lost}


def main() -> None:
    if sys.argv[1:]:
        models = [cnnarch.from_pretrained(folder) for folder in sys.argv[1:]]
    else:
        models = [cnnarch.get_model(name, weights="FASHION_MNIST") for name in SHIPPED]
    rows = [measure(model.eval()) for model in models]
    missed = [row["network"] for row in rows if float(row["points_lost"]) > 0.5]
    results = {"images": 10_000, "calibration": CALIBRATION, "networks": rows, "missed": missed}
    keep("int8_accuracy", "at most 0.5 points below float32", results)


if __name__ == "__main__":
    main()
