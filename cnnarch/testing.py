"""Checks for your own pytest files, on any network: the ones cnnarch's own suite uses.

from cnnarch.testing import assert_parameters, check_classifier

def test_my_network():
    model = MyNetwork(num_classes=10)
    assert_parameters(model, 1_234_567)
    check_classifier(model)
"""

import copy
import pickle
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnarch.analysis import Shape, count_macs, count_parameters, stage_shapes
from cnnarch.contract.classifier import ImageClassifier

__all__ = [
    "assert_close",
    "assert_macs",
    "assert_parameters",
    "assert_stage_shapes",
    "calibrate",
    "check_classifier",
    "example_images",
]


def assert_parameters(model: nn.Module, expected: int) -> None:
    """Fail unless `model` has exactly this many trainable parameters."""
    found = count_parameters(model)
    assert found == expected, f"{found:,} parameters, expected {expected:,} ({found - expected:+,})"


def assert_macs(model: nn.Module, expected: int, input_size: Shape | None = None) -> None:
    """Fail unless one image of `input_size` (C, H, W) costs exactly this many multiply-adds."""
    found = count_macs(model, input_size)
    assert found == expected, f"{found:,} MACs, expected {expected:,} ({found - expected:+,})"


def assert_stage_shapes(
    model: nn.Module, expected: Mapping[str, Shape], input_size: Shape | None = None
) -> None:
    """Fail unless the modules give out these shapes.

    Args:
        model: any module of images.
        expected: output shape without the batch, by path ("stages.0.1"). A shape (C, 1, 1)
            also stands for the flattened (C,).
        input_size: `(C, H, W)` in pixels; None means the size on the network's card.
    """
    found = stage_shapes(model, input_size)
    for path, shape in expected.items():
        assert path in found, f"no module {path!r} was run"
        padded = found[path] + (1,) * (len(shape) - len(found[path]))
        assert padded == tuple(shape), f"{path} gives {found[path]}, expected {tuple(shape)}"


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Fail unless outputs agree to `tolerance` of scale and have a spread worth comparing.

    Scale is the largest absolute value expected. Outputs that hardly vary would agree whatever
    the network did; `calibrate` gives an untrained network a spread.
    """
    assert actual.shape == expected.shape, (
        f"shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
    )
    assert expected.isfinite().all(), "expected values are not finite"
    assert expected.std() > 1e-3, f"the spread is {expected.std():.1e}: nothing is compared"
    difference = ((actual - expected).abs().max() / expected.abs().max()).item()
    assert difference <= tolerance, f"off by {difference:.1e} of scale, allowed {tolerance:.1e}"


def example_images(model: ImageClassifier, batch: int = 2, side: int | None = None) -> Tensor:
    """Seeded noise images that the network accepts, small ones unless `side` says otherwise."""
    if side is None:
        side = model.min_input_size if model.fixed_input_size else max(model.min_input_size, 64)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, model.in_channels, side, side, generator=generator)


def calibrate(model: nn.Module, images: Tensor) -> None:
    """Set BatchNorm statistics to those of `images`, and leave `model` in eval mode.

    An untrained network's statistics are not those of its activations: in eval mode its logits
    can be all but 0, and comparing them proves nothing.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        model.train()
        with torch.no_grad():
            model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def check_classifier(model: ImageClassifier) -> None:
    """Fail unless `model` keeps cnnarch's contract, at a small size.

    Logits of the right shape for a batch and for one image, feature maps as `feature_info`
    says, head and features that make up `forward`, a gradient for every parameter, copies and
    pickles that agree, a smaller image refused. The model itself stays as it is.
    """
    assert model.num_classes > 0, "check a network that has a classifier"
    model = copy.deepcopy(model)
    calibrate(model, example_images(model, 8))
    images = example_images(model)
    with torch.no_grad():
        logits = model(images)
        assert logits.shape == (2, model.num_classes), f"logits have shape {tuple(logits.shape)}"
        assert logits.isfinite().all(), "logits are not finite"
        _check_features(model, images, logits)
        _check_copies(model, images, logits)
    _check_gradients(model, images)
    _check_sizes(model)


def _check_features(model: ImageClassifier, images: Tensor, logits: Tensor) -> None:
    assert_close(model(images[:1]), logits[:1], 1e-3)  # deep networks add up their rounding
    maps = model.forward_stages(images)
    channels = [m.shape[1] for m in maps]
    assert channels == [row.channels for row in model.feature_info], f"channels are {channels}"
    features = model.forward_features(images)
    assert torch.equal(features, maps[-1]), "forward_features is not the last stage"
    assert torch.equal(model.forward_head(features), logits), "the head does not give the logits"
    width = model.forward_head(features, pre_logits=True).shape
    assert width == (2, model.num_features), f"pre-logits have shape {tuple(width)}"


def _check_copies(model: ImageClassifier, images: Tensor, logits: Tensor) -> None:
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images), logits), "a copy gives other logits"


def _check_gradients(model: ImageClassifier, images: Tensor) -> None:
    model.train()
    output = model(images)
    outputs = (output,) if isinstance(output, Tensor) else output
    torch.stack([o.square().sum() for o in outputs if o is not None]).sum().backward()  # type: ignore[no-untyped-call]
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, f"no gradient for {', '.join(without)}"


def _check_sizes(model: ImageClassifier) -> None:
    model.eval()
    smallest = model.min_input_size
    with torch.no_grad():
        assert model(example_images(model, 1, smallest)).isfinite().all()
        if smallest > 1:
            too_small = example_images(model, 1, smallest - 1)
            try:
                model(too_small)
            except ValueError:
                return
            raise AssertionError(f"an image of {smallest - 1} pixels was not refused")
