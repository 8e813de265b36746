"""Assertions on parameters, multiply-adds, shapes and outputs."""

from collections.abc import Mapping

from torch import Tensor, nn

from cnnarch.analysis import Shape, count_macs, count_parameters, stage_shapes

__all__ = ["assert_close", "assert_macs", "assert_parameters", "assert_stage_shapes"]


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
            also means the flattened (C,).
        input_size: `(C, H, W)` in pixels; None means the size on the network's card.
    """
    found = stage_shapes(model, input_size)
    for path, shape in expected.items():
        assert path in found, f"no module {path!r} was run"
        padded = found[path] + (1,) * (len(shape) - len(found[path]))
        assert padded == tuple(shape), f"{path} gives {found[path]}, expected {tuple(shape)}"


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Fail unless outputs agree to `tolerance` of scale and have a spread worth comparing.

    Scale is the largest absolute value expected. Outputs that vary by no more than is allowed
    would agree with a constant; `calibrate` gives an untrained network a spread.
    """
    assert actual.shape == expected.shape, (
        f"shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
    )
    assert expected.isfinite().all(), "expected values are not finite"
    scale, spread = expected.abs().max(), expected.std(correction=0)
    assert spread > tolerance * scale, f"the spread is {spread:.1e}: nothing is compared"
    difference = ((actual - expected).abs().max() / scale).item()
    assert difference <= tolerance, f"off by {difference:.1e} of scale, allowed {tolerance:.1e}"
