"""Convert a network to float16, and check that its values stay in float16's range."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from cnnarch.inference._copies import inference_copy

_LARGEST = torch.finfo(torch.float16).max  # 65504


class HalfNetwork(nn.Module):
    """A copy of a network that computes in float16.

    Args:
        network: in float32; left unchanged.

    Shape:
        (N, C, H, W), float32 or uint8 -> the network's output, float32

    Raises:
        ValueError: a weight is outside float16's range.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and tensor.numel() and _peak(tensor) > _LARGEST:
                raise ValueError(
                    f"{name} contains {_peak(tensor):.1e}, but float16 ends at {_LARGEST:.0f}: "
                    "export with half=False"
                )
        self.network = inference_copy(network, share=True).half()

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for images, whose values are rounded to float16 first."""
        output = self.network(x.half() if x.is_floating_point() else x)
        if not isinstance(output, Tensor):
            raise TypeError(f"the network must return a tensor, got {type(output).__name__}")
        return output.float()


def find_overflow(network: nn.Module, batches: Iterable[Tensor]) -> str:
    """Return which layer's output exceeds float16's range on some images, or an empty string.

    ONNX Runtime computes parts of a float16 graph in float32 on the CPU, so it cannot show this.
    """
    found: list[str] = []

    def record(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
                peak = _peak(output)
                if peak > _LARGEST and not found:
                    found.append(f"the output of layer {name!r} reaches {peak:.1e}")

        return hook

    handles = [m.register_forward_hook(record(name)) for name, m in network.named_modules() if name]
    try:
        with torch.no_grad():
            for images in batches:
                network(images)
    finally:
        for handle in handles:
            handle.remove()
    return "".join(found[:1])


def _peak(values: Tensor) -> float:
    """Return the largest absolute value, ignoring NaN and the infinity with which max-pools pad."""
    return values.abs().nan_to_num(nan=0.0, posinf=0.0).max().item()
