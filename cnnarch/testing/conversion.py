"""Checks for state dicts, copies, devices, memory formats, traces and compiled networks."""

import copy
import pickle
import warnings

import torch
from torch import Tensor

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.testing._helpers import expect_error, failing_as, on_a_copy
from cnnarch.testing.assertions import assert_close
from cnnarch.testing.examples import example_images

__all__ = [
    "check_channels_last",
    "check_compiles_to_one_graph",
    "check_copies_and_pickles_agree",
    "check_exports_with_a_dynamic_batch",
    "check_foreign_keys_get_a_hint",
    "check_meta_device",
    "check_state_dict_has_everything",
    "check_state_dict_round_trip",
    "check_traces",
    "check_traces_symbolically",
]


@on_a_copy()
def check_state_dict_has_everything(model: ImageClassifier) -> None:
    """The state dict contains every parameter, buffer and other tensor of the network."""
    saved = model.state_dict().keys()
    names = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    for path, module in model.named_modules():
        tensors = [name for name, value in vars(module).items() if isinstance(value, Tensor)]
        names |= {f"{path}.{name}".lstrip(".") for name in tensors}
    left_out = sorted(names - saved)
    assert not left_out, f"not in the state dict: {', '.join(left_out)}"
    assert saved == names, f"only in the state dict: {', '.join(sorted(saved - names))}"


@on_a_copy(calibrated=True)
@torch.no_grad()
def check_state_dict_round_trip(model: ImageClassifier) -> None:
    """A copy with different values returns the same logits after loading the state dict."""
    images = example_images(model)
    other = copy.deepcopy(model)
    for tensor in (*other.parameters(), *other.buffers()):
        tensor.fill_(2)
    with failing_as("the state dict cannot be loaded"):
        other.load_state_dict(model.state_dict())
    assert torch.equal(other(images), model(images)), "loading the state dict changes the logits"


@on_a_copy()
def check_foreign_keys_get_a_hint(model: ImageClassifier) -> None:
    """Loading another library's state dict raises an error that names the converter."""
    what, foreign = "another library's state dict", {"features.0.weight": torch.zeros(1)}
    expect_error(what, RuntimeError, "cnnarch.weights.load", model.load_state_dict, foreign)


@on_a_copy(calibrated=True)
@torch.no_grad()
def check_copies_and_pickles_agree(model: ImageClassifier) -> None:
    """Deep copies and pickles keep the logits, options and feature info."""
    images = example_images(model)
    logits = model(images)
    with failing_as("the network cannot be copied or pickled"):
        pickled = pickle.loads(pickle.dumps(model))
        copies = {"copy": copy.deepcopy(model), "pickle": pickled}
    for kind, copied in copies.items():
        assert torch.equal(copied(images), logits), f"a {kind} returns different logits"
        for fact in ("builder", "options", "feature_info"):
            found, expected = getattr(copied, fact), getattr(model, fact)
            assert found == expected, f"{fact} of a {kind} is {found}, expected {expected}"


@on_a_copy(devices=("cpu", "meta"))
def check_meta_device(model: ImageClassifier) -> None:
    """The network runs on the meta device, which computes shapes without data."""
    with failing_as("the network does not run on the meta device"):
        model.to("meta")
        shape = tuple(model(example_images(model, 2, 48).to("meta")).shape)
    devices = {tensor.device.type for tensor in model.state_dict().values()}
    assert devices == {"meta"}, f"tensors are on {', '.join(sorted(devices))}"
    assert shape == (2, model.num_classes), f"logits have shape {shape}"


@on_a_copy(calibrated=True)
@torch.no_grad()
def check_channels_last(model: ImageClassifier) -> None:
    """The channels-last memory format preserves the logits, and the maps keep the format."""
    model.double()  # float32 rounding errors accumulate in deep networks
    images = example_images(model).double()
    expected = model(images)
    model.to(memory_format=torch.channels_last)
    features = model.forward_features(images.to(memory_format=torch.channels_last))
    assert_close(model.forward_head(features), expected, 1e-9)
    if min(features.shape[1:]) > 1:  # size 1 makes the memory formats identical
        kept = features.is_contiguous(memory_format=torch.channels_last)
        assert kept, f"the last map has strides {features.stride()}, not those of channels_last"


@on_a_copy(calibrated=True)
@torch.no_grad()
def check_traces_symbolically(model: ImageClassifier) -> None:
    """`torch.fx.symbolic_trace` preserves the logits and the input shape check."""
    images = example_images(model)
    with failing_as("the network cannot be traced symbolically"):
        graph = torch.fx.symbolic_trace(model)
    assert torch.equal(graph(images), model(images)), "the symbolic trace changes the logits"
    what = "an image without a batch dimension"
    expect_error(what, ValueError, "expected images", graph, images[0])


@on_a_copy(calibrated=True)
def check_traces(model: ImageClassifier) -> None:
    """A `torch.jit.trace` taken with gradients enabled returns the same logits on other images."""
    images = example_images(model, 2, 32)
    with warnings.catch_warnings(), failing_as("the network cannot be traced"):
        warnings.simplefilter("ignore")  # sizes become constants, and the tracer is deprecated
        traced = torch.jit.trace(model, images)  # type: ignore[no-untyped-call]
    other = torch.randn_like(images)
    assert_close(traced(other), model(other), 1e-6)


@on_a_copy(calibrated=True)
@torch.no_grad()
def check_compiles_to_one_graph(model: ImageClassifier) -> None:
    """The network compiles without graph breaks and returns the same logits.

    The check clears the `torch.compile` caches.
    """
    images = example_images(model)
    torch.compiler.reset()
    with failing_as("the network does not compile to one graph"):
        logits = torch.compile(model, fullgraph=True, backend="eager")(images)
    assert_close(logits, model(images))


@on_a_copy(calibrated=True)
@torch.no_grad()
def check_exports_with_a_dynamic_batch(model: ImageClassifier) -> None:
    """A program that `torch.export` creates from two images accepts any batch size."""
    dynamic_batch = {0: torch.export.Dim.DYNAMIC}
    with failing_as("the network cannot be exported with a dynamic batch"):
        exported = torch.export.export(
            model, (example_images(model),), dynamic_shapes=(dynamic_batch,)
        )
    program = exported.module()
    batches = [example_images(model, size) for size in (1, 3)]
    logits, expected = (torch.cat([run(batch) for batch in batches]) for run in (program, model))
    assert_close(logits, expected)
