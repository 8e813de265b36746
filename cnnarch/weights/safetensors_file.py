"""Read .safetensors files with the safetensors library, which checks the header of each."""

from pathlib import Path

from torch import Tensor

from cnnarch.weights.errors import WeightsError
from cnnarch.weights.files import open_regular

__all__ = ["read_safetensors"]


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file.

    The tensors are private memory maps of the file: pages are read on first use, and writing to a
    tensor changes neither the file nor another tensor. Replace the file by renaming a new one
    over it; rewriting it in place changes every network that maps it.

    Raises:
        WeightsError: the file is not a valid safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    with open_regular(path):  # raises for a pipe or a device, which safe_open would wait for
        try:
            with safe_open(path, "pt") as file:
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
                metadata = file.metadata() or {}
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise WeightsError(f"{path} is not a safetensors file: {error!s:.400}") from error
    for name, tensor in tensors.items():
        if tensor.data_ptr() % tensor.element_size():  # kernels may assume aligned data
            tensors[name] = tensor.clone()
    return tensors, metadata
