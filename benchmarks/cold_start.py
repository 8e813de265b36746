"""How long does a new process take to import, build ResNet-50 and classify one image?

Goal: at most 0.65x torchvision's time.
"""

import statistics

from benchmarks.measure import alternate_processes, keep, ratio_of_medians

RUN = "model.eval()(torch.zeros(1, 3, 224, 224))"
CODE = {
    "cnnarch": f"import torch, cnnarch; model = cnnarch.resnet50(); {RUN}",
    "torchvision": f"import torch, torchvision; model = torchvision.models.resnet50(); {RUN}",
    "torch alone": "import torch",
}


def main() -> None:
    seconds = alternate_processes(CODE, 11)
    results = {
        "median_seconds": {name: statistics.median(s) for name, s in seconds.items()},
        "ratio": ratio_of_medians(seconds, "cnnarch", "torchvision"),
        "seconds": seconds,
    }
    keep("cold_start", "at most 0.65x of torchvision", results)


if __name__ == "__main__":
    main()
