"""Assertions about parameters, multiply-adds, shapes and outputs."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cnnarch.analysis import Shape, count_macs, count_parameters, stage_shapes

__all__ = ["assert_close", "assert_macs", "assert_parameters", "assert_stage_shapes"]


def assert_parameters(model: nn.Module, expected: int) -> None:
    """Assert that `model` has exactly `expected` trainable parameters."""
    found = count_parameters(model)
    assert found == expected, f"{found:,} parameters, expected {expected:,} ({found - expected:+,})"


def assert_macs(model: nn.Module, expected: int, input_size: Shape | None = None) -> None:
    """Assert that one image of `input_size` (C, H, W) needs exactly `expected` multiply-adds."""
    found = count_macs(model, input_size)
    assert found == expected, f"{found:,} MACs, expected {expected:,} ({found - expected:+,})"


def assert_stage_shapes(
    model: nn.Module, expected: Mapping[str, Shape], input_size: Shape | None = None
) -> None:
    """Assert that modules return maps of the expected shapes.

    Args:
        model: any module that accepts images.
        expected: output shape without the batch dimension, by module path ("stages.0.1"). A shape
            (C, 1, 1) also matches the flattened (C,).
        input_size: `(C, H, W)`. None uses the input size on the network's card.
    """
    found = stage_shapes(model, input_size)
    for path, shape in expected.items():
        assert path in found, f"module {path!r} was not called"
        padded = found[path] + (1,) * (len(shape) - len(found[path]))
        assert padded == tuple(shape), f"{path} returns {found[path]}, expected {tuple(shape)}"


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Assert that two outputs are close, relative to the largest absolute expected value.

    Expected values that vary less than the tolerance also fail: a constant would match them.
    Use `calibrate` to make the outputs of an untrained network vary.

    Args:
        actual: outputs under test.
        expected: outputs to compare with, of the same shape.
        tolerance: largest allowed difference, relative to the largest absolute value.
    """
    assert expected.isfinite().all(), "expected values are not finite"
    allowed = tolerance * expected.abs().max().item()
    spread = expected.std(correction=0).item()
    assert spread > allowed, f"expected values vary by only {spread:.1e}: nothing is compared"
    torch.testing.assert_close(actual, expected, rtol=0, atol=allowed, check_dtype=False)
