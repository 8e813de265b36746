"""What `optimize` tried, and what came of it."""

from dataclasses import dataclass

__all__ = ["Candidate", "Report"]


@dataclass(frozen=True)
class Candidate:
    """One way to run the network.

    Args:
        engine: "plain" is the network as it was given.
        precision: it computes in.
        verdict: "chosen", "slower: ..." with the ratio of the race that it lost, "out: ...",
            "failed: ...", "not here: ..." or "not tried: ...".
        milliseconds: a call with the example's batch takes, the median over all its races.
        memory: MiB by which the process grew while it was made ready and first run.
        difference: the largest from the plain network, of its largest logit.
        agreement: share of the calibration images with the plain network's top class; int8 only.
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
    """The candidates in the order they were tried.

    Args:
        candidates: one is chosen.
        shape: of the example, `(N, C, H, W)`.
        threads: OpenVINO and ONNX Runtime had; PyTorch has its own number.
        tolerance: allowed `difference`, or for int8 the allowed share of disagreement.
        precision: that was asked for; the chosen candidate's may be another.
        notes: what else to know.
    """

    candidates: tuple[Candidate, ...]
    shape: tuple[int, ...]
    threads: int
    tolerance: float
    precision: str
    notes: tuple[str, ...] = ()

    @property
    def chosen(self) -> Candidate:
        """The one that runs."""
        return next(c for c in self.candidates if c.verdict == "chosen")

    @property
    def speedup(self) -> float | None:
        """How many times faster than the plain network; None where that was not measured."""
        plain = next((c for c in self.candidates if c.engine == "plain"), None)
        if plain is None or not plain.milliseconds or not self.chosen.milliseconds:
            return None
        return plain.milliseconds / self.chosen.milliseconds

    def __str__(self) -> str:
        head = ("engine", "precision", "ms", "MiB", "difference", "verdict")
        rows = [head, *(_row(c) for c in self.candidates)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        numbers = range(2, 5)
        lines = [
            "  ".join(
                cell.rjust(width) if i in numbers else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        title = f"images {' x '.join(map(str, self.shape))}, {threads}"
        return "\n".join([title, *lines, *self.notes])


def _row(candidate: Candidate) -> tuple[str, ...]:
    def show(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    judged = show(candidate.difference, ".1e")
    if candidate.agreement is not None:
        judged = f"top-1 {candidate.agreement:.1%}"
    return (
        candidate.engine,
        candidate.precision,
        show(candidate.milliseconds, ".3f"),
        show(candidate.memory, ".0f"),
        judged,
        candidate.verdict,
    )
