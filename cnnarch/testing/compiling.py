"""Checks that tracers, `torch.compile` and `torch.export` read a network as one graph."""

import warnings

import torch

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.testing._steps import calibrated_copy, failing_as, refusal, small_side
from cnnarch.testing.assertions import assert_close
from cnnarch.testing.examples import example_images

__all__ = [
    "check_compiles_to_one_graph",
    "check_exports_with_a_dynamic_batch",
    "check_traces",
    "check_traces_symbolically",
]


@torch.no_grad()
def check_traces_symbolically(model: ImageClassifier) -> None:
    """`torch.fx.symbolic_trace` gives the same logits and refuses wrong images in words."""
    twin = calibrated_copy(model)
    images = example_images(twin)
    with failing_as("the network cannot be traced symbolically"):
        graph = torch.fx.symbolic_trace(twin)
    assert torch.equal(graph(images), twin(images)), "the symbolic trace gives other logits"
    said = refusal("an image without a batch", ValueError, graph, images[0])
    assert "expected images" in said, f"the trace refuses an image with {said!r}"


def check_traces(model: ImageClassifier) -> None:
    """`torch.jit.trace` with gradients gives the same logits for other images."""
    twin = calibrated_copy(model)
    images = example_images(twin, 2, small_side(twin, 32))
    with warnings.catch_warnings(), failing_as("the network cannot be traced"):
        warnings.simplefilter("ignore")  # sizes become constants, and the tracer is deprecated
        traced = torch.jit.trace(twin, images)  # type: ignore[no-untyped-call]
    other = torch.randn_like(images)
    assert_close(traced(other), twin(other), 1e-6)


@torch.no_grad()
def check_compiles_to_one_graph(model: ImageClassifier) -> None:
    """`torch.compile` needs no graph break, and gives the same logits.

    What was compiled before is forgotten.
    """
    twin = calibrated_copy(model)
    images = example_images(twin)
    torch.compiler.reset()
    with failing_as("the network does not compile to one graph"):
        logits = torch.compile(twin, fullgraph=True, backend="eager")(images)
    assert_close(logits, twin(images))


@torch.no_grad()
def check_exports_with_a_dynamic_batch(model: ImageClassifier) -> None:
    """`torch.export` with two images gives a program that takes any number of them."""
    twin = calibrated_copy(model)
    free = {0: torch.export.Dim.DYNAMIC}
    with failing_as("the network cannot be exported with a dynamic batch"):
        exported = torch.export.export(twin, (example_images(twin),), dynamic_shapes=(free,))
    program = exported.module()
    batches = [example_images(twin, size) for size in (1, 3)]
    logits, expected = (torch.cat([run(batch) for batch in batches]) for run in (program, twin))
    assert_close(logits, expected)
