"""Compile the computation of gradients, and replay it on a GPU as a single CUDA graph.

A small network's step on a GPU takes less time than launching its kernels one by one. The update of
the weights stays outside the graph: it is a single fused kernel, and its learning rate and momentum
are Python numbers, which a graph would keep as they were when it was recorded.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cnnarch.blocks._hooks import hooked_modules
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.training.recipe import Recipe

MIN_CAPTURED_STEPS = 100  # recording a graph takes as long as a few dozen steps
MIN_COMPILED_STEPS = 2000  # the compiler takes up to a few minutes
WARMUP_STEPS = 3  # as PyTorch recommends before a graph is recorded

Gradients = Callable[[Tensor, Tensor], Tensor]


class Method(NamedTuple):
    """How gradients are computed.

    Args:
        compiled: whether torch.compile compiles the network.
        captured: whether the computation is replayed as a CUDA graph.
        reason: why it is not faster.
    """

    compiled: bool = False
    captured: bool = False
    reason: str = ""

    def __str__(self) -> str:
        parts = ["compiled"] * self.compiled + ["captured in a CUDA graph"] * self.captured
        return " and ".join(parts) or f"eager ({self.reason})"


def choose_method(
    recipe: Recipe, model: nn.Module, device: torch.device, processes: int, steps: int
) -> Method:
    """Return how gradients are computed, according to the recipe's `compile`.

    Args:
        recipe: the recipe.
        model: the network.
        device: the device to train on.
        processes: number of processes.
        steps: number of optimizer steps.
    """
    if recipe.compile is False:
        return Method(reason="compile: false")
    on_gpu, is_chosen = device.type == "cuda", recipe.compile is True
    obstacle = ""
    if not on_gpu:
        obstacle = "not on a CUDA device"
    elif processes > 1:
        obstacle = "several processes"
    elif recipe.accumulate_grad_batches > 1:
        obstacle = "accumulated gradients"
    elif hooked_modules(model):
        obstacle = "the network has hooks, which a graph would not call"
    elif not isinstance(model, ImageClassifier) and not is_chosen:
        obstacle = "the network is not from cnnarch"
    elif steps < MIN_CAPTURED_STEPS and not is_chosen:
        obstacle = f"only {steps} steps"
    if obstacle:
        return Method(compiled=is_chosen, reason=obstacle)
    return Method(compiled=is_chosen or steps >= MIN_COMPILED_STEPS, captured=True)


class CapturedGradients:
    """Computes gradients by replaying a CUDA graph, which is recorded in the first call.

    Inputs are copied to the tensors that the graph reads, and metrics from those that it writes.
    Recording it changes neither BatchNorm's statistics nor the state of the random number
    generators.

    Args:
        compute: computes the gradients of a batch and returns its metrics.
        model: the network.
        record: records a function as a graph and returns a function that replays it.
    """

    def __init__(
        self,
        compute: Gradients,
        model: nn.Module,
        record: Callable[[Callable[[], None]], Callable[[], None]] | None = None,
    ) -> None:
        self.compute = compute
        self.model = model
        self.record = record or record_graph
        self.replay: Callable[[], None] | None = None

    def fits(self, inputs: Tensor, targets: Tensor) -> bool:
        """Return whether the graph was recorded for tensors of these shapes, or not yet at all."""
        return self.replay is None or (
            (inputs.shape, targets.shape, targets.dtype)
            == (self.inputs.shape, self.targets.shape, self.targets.dtype)
        )

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Set the gradients of all trained parameters, and return the batch's metrics."""
        if self.replay is None:
            self._record(inputs, targets)
        self.inputs.copy_(inputs)
        self.targets.copy_(targets)
        assert self.replay is not None
        self.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        return self.metrics.clone()

    def _record(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets = inputs.clone(), targets.clone()
        statistics = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        try:
            with torch.random.fork_rng():
                self.replay = self.record(self._compute)
            trained = [p for p in self.model.parameters() if p.grad is not None]
            self.gradients = [(p, p.grad) for p in trained]
        finally:
            for buffer, before in statistics:
                buffer.copy_(before)

    def _compute(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = None  # a graph then writes gradients instead of adding to them
        self.metrics = self.compute(self.inputs, self.targets)


def record_graph(function: Callable[[], None]) -> Callable[[], None]:
    """Run a function a few times, record it as a CUDA graph, and return a function to replay it.

    Source: "Whole-network capture" in PyTorch's notes on CUDA semantics.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARMUP_STEPS):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay
