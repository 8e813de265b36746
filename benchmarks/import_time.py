"""How much longer than `import torch` does `import cnnarch` take? Goal: at most 50 ms."""

import statistics

from benchmarks.measure import alternate_processes, keep


def main() -> None:
    seconds = alternate_processes({"torch": "import torch", "cnnarch": "import torch, cnnarch"}, 15)
    medians = {name: statistics.median(s) for name, s in seconds.items()}
    extra = 1000 * (medians["cnnarch"] - medians["torch"])
    results = {"median_seconds": medians, "extra_milliseconds": extra, "seconds": seconds}
    keep("import_time", "at most 50 ms over import torch", results)


if __name__ == "__main__":
    main()
