"""The candidates that `optimize` compared, with their times and differences."""

from dataclasses import dataclass

from cnnarch.facts.text import shape_text, table_lines


@dataclass(frozen=True)
class Candidate:
    """One way to run the network.

    Args:
        engine: the engine's name; "plain" is the original network.
        precision: the precision of the computation.
        verdict: "chosen", "slower: ..." with the ratio to the faster candidate, "rejected: ...",
            "failed: ...", "unavailable: ..." or "not tried: ...".
        milliseconds: the median time of a call with the example's batch, over all comparisons.
        memory: the growth in process memory in MiB while the engine was prepared and first run; on
            a GPU, of the memory that PyTorch reserves there.
        difference: the largest difference from the plain network, relative to its largest logit.
        agreement: the fraction of calibration images for which the top class matches the plain
            network's; int8 only.
    """

    engine: str
    precision: str
    verdict: str
    milliseconds: float | None = None
    memory: float | None = None
    difference: float | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class Report:
    """The candidates in the order in which they were tried.

    Args:
        candidates: all candidates, including the chosen one.
        shape: the shape of the example, `(N, C, H, W)`.
        threads: the thread count of OpenVINO and ONNX Runtime; PyTorch uses its own setting.
        tolerance: the maximum `difference`; for int8, the maximum fraction of disagreeing images.
        precision: the requested precision; the chosen candidate's may differ.
        notes: other remarks.
        device: "cpu", or the name and memory of the GPU on which the candidates ran.
    """

    candidates: tuple[Candidate, ...]
    shape: tuple[int, ...]
    threads: int
    tolerance: float
    precision: str
    notes: tuple[str, ...] = ()
    device: str = "cpu"

    @property
    def chosen(self) -> Candidate:
        """The chosen candidate."""
        return next(c for c in self.candidates if c.verdict == "chosen")

    @property
    def speedup(self) -> float | None:
        """The plain network's time divided by the chosen candidate's; None if not measured."""
        plain = next((c for c in self.candidates if c.engine == "plain"), None)
        if plain is None or not plain.milliseconds or not self.chosen.milliseconds:
            return None
        return plain.milliseconds / self.chosen.milliseconds

    def __str__(self) -> str:
        rows = [("engine", "precision", "ms", "MiB", "difference", "verdict")]
        rows += map(_cells, self.candidates)
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        place = threads if self.device == "cpu" else self.device
        title = f"images {shape_text(self.shape, ' x ')}, {place}"
        return "\n".join([title, *table_lines(rows), *self.notes])


def _cells(c: Candidate) -> tuple[str, str, str, str, str, str]:
    ms = "" if c.milliseconds is None else f"{c.milliseconds:.3f}"
    mib = "" if c.memory is None else f"{c.memory:.0f}"
    difference = "" if c.difference is None else f"{c.difference:.1e}"
    if c.agreement is not None:
        difference = f"top-1 {c.agreement:.1%}"
    return c.engine, c.precision, ms, mib, difference, c.verdict
