"""No operation mixes devices; FakeTensorMode shows this without a GPU."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from cnnarch.inference.optimize import _other_images


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=str)
def test_noise_is_on_the_device_of_the_example(dtype: torch.dtype) -> None:
    with FakeTensorMode():
        example = torch.empty(4, 3, 8, 8, dtype=dtype, device="cuda")
        noise = _other_images(example)
    assert noise.device == example.device
    assert (noise.dtype, noise.shape) == (dtype, (1, 3, 8, 8))


def test_noise_has_the_mean_and_deviation_of_the_example() -> None:
    example = 3 + 2 * torch.randn(1, 3, 64, 64)
    noise = _other_images(example)
    assert noise.shape == (2, 3, 64, 64)
    assert abs(noise.mean() - 3) < 0.1
    assert abs(noise.std() - 2) < 0.1
    assert _other_images(torch.zeros(1, 3, 64, 64)).std() == pytest.approx(1, abs=0.05)
