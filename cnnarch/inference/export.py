"""Export a network to a file for other programs: ONNX, OpenVINO, or torch.export's PT2."""

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from cnnarch.blocks._checks import check_choice, check_integer, check_positive
from cnnarch.blocks._wrappers import is_sharded, unwrapped
from cnnarch.contract.trunk import Trunk
from cnnarch.inference._copies import inference_copy
from cnnarch.inference._file_formats import FORMATS, Format, RunImages, convert_to_openvino
from cnnarch.inference._half import HalfNetwork, find_overflow
from cnnarch.inference._measure import difference
from cnnarch.inference._offline import why_missing
from cnnarch.inference._tracing import (
    default_device,
    example_for,
    has_free_size,
    reads_pixels,
    suppress_messages,
    trace,
)
from cnnarch.inference.reparameterize import merge_all_branches
from cnnarch.preprocessing import preprocessing_of

__all__ = ["ExportError", "export", "to_openvino"]


class ExportError(RuntimeError):
    """The exported file does not compute the same outputs as the network."""


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    example: Tensor | None = None,
    dynamic_size: bool | None = None,
    half: bool = False,
    opset: int | None = None,
    tolerance: float | None = None,
) -> Path:
    """Write a network to a file in eval mode, and check the file's outputs against the network's.

    The batch size is always dynamic. The file is run with the traced batch size and with others,
    and with a different image size if height and width are dynamic. It is moved to `path` only if
    all outputs agree. The file contains the network's name, categories and preprocessing. A network
    on a GPU is exported from a copy on the CPU.

    - "onnx" (.onnx): a single file, for ONNX Runtime and many other programs. Requires
      `cnnarch[export]`.
    - "openvino" (.xml): OpenVINO's graph, with the float32 weights in a second file (.bin).
      Requires `cnnarch[export]`.
    - "pt2" (.pt2): for `torch.export.load`.

    An engine may reject the smallest images that the network accepts if a map is smaller than a
    pooling kernel, or a single pixel before adaptive pooling.

    Args:
        model: any module that maps images to a tensor, in float32; left unchanged. `torch.compile`
            and `DataParallel` wrappers are removed. The branches of each `cnnarch.blocks.RepConv`
            are merged as in `fuse`. Fold BatchNorm with `fuse` first; if preprocessing is also
            folded, the file accepts uint8 images.
        path: a path in an existing folder, with the suffix of the format.
        format: "onnx", "pt2" or "openvino"; None infers it from the suffix.
        example: images, (N, C, H, W), to trace with. Required for networks from other libraries. If
            height and width are fixed, the file accepts only the example's size; None uses the
            size of the network's preprocessing or, without one, of its paper.
        dynamic_size: whether height and width are dynamic. None makes them dynamic for all
            cnnarch networks except the Mixers and those with TensorFlow's padding ("same").
        half: whether an ONNX file stores its weights and computes in float16, which halves its size
            and is faster on GPUs. Images and outputs remain float32 (or uint8 images). No weight,
            and no layer's output for the example and for noise, may exceed float16's largest value,
            65504.
        opset: the version of ONNX's operators, 18 or higher; None uses PyTorch's default.
        tolerance: the largest allowed difference from the float32 network, relative to the largest
            output; None allows 1e-4, or 3e-2 if `half`.

    Returns:
        The path.

    Raises:
        ValueError: the format is unknown, the suffix is wrong, the format does not support `half`
            or `opset`, the exporter cannot write this opset, the number of channels of the
            preprocessing is not the network's, or the network is not in float32, has no values, is
            quantized or cannot be traced.
        TypeError: the model is not a module or does not return a tensor, an argument has the wrong
            type, or the example is required but missing, or is not a batch of images.
        FileNotFoundError: the folder does not exist.
        ImportError: a required package is not installed.
        ExportError: the outputs differ, the engine cannot run the file, or a layer exceeds
            float16's range; no file is written.

    >>> import cnnarch, tempfile
    >>> path = export(cnnarch.lenet5(), f"{tempfile.mkdtemp()}/lenet5.pt2")
    >>> program = torch.export.load(path).module()
    >>> program(torch.zeros(5, 1, 32, 32)).shape
    torch.Size([5, 10])
    """
    path = Path(path)
    form = _check_format(path, format)
    options = _check_onnx_options(form, half, opset)
    tolerance = (3e-2 if half else 1e-4) if tolerance is None else tolerance
    check_positive("tolerance", tolerance)
    metadata = _metadata(unwrapped(model))
    with (
        default_device(torch.device("cpu")),
        tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder,
    ):
        traced = _trace_copy(model, example, dynamic_size, half)
        draft = Path(folder) / path.name
        with suppress_messages():
            form.write(traced.program, draft, metadata, **options)
            _check_outputs(form, draft, traced, tolerance)
        for part in sorted(draft.parent.iterdir(), key=lambda p: p == draft):  # the graph last
            part.replace(path.parent / part.name)
    return path


def to_openvino(
    model: nn.Module, example: Tensor | None = None, dynamic_size: bool | None = None
) -> Any:
    """Convert a network to an `openvino.Model` without checking it; arguments as in `export`."""
    _require("openvino")
    with default_device(torch.device("cpu")), suppress_messages():
        traced = _trace_copy(model, example, dynamic_size)
        return convert_to_openvino(traced.program)


class _TracedNetwork(NamedTuple):
    network: nn.Module
    program: ExportedProgram
    images: Tensor
    free_size: bool


def _trace_copy(
    model: nn.Module, example: Tensor | None, dynamic_size: bool | None, half: bool = False
) -> _TracedNetwork:
    model = unwrapped(model)
    _check_model(model)
    network = inference_copy(model, share=True).cpu()
    free_size = _check_dynamic_size(network, dynamic_size)
    images = example_for(network, free_size) if example is None else _check_example(model, example)
    with torch.no_grad():
        plain = merge_all_branches(inference_copy(network, share=True))
    traced = HalfNetwork(plain) if half else plain
    if half and (overflow := find_overflow(plain, [images, next(_noise(images))])):
        raise ExportError(f"{overflow}, but float16 ends at 65504: export with half=False")
    return _TracedNetwork(network, trace(traced, images, free_size), images, free_size)


def _check_model(model: object) -> None:
    """Raise TypeError or ValueError unless this is a module with float32 values."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    if any(t.is_meta for t in tensors.values()):
        raise ValueError("the network is on the meta device and has no values")
    if sharded := [name for name, t in tensors.items() if is_sharded(t)]:
        raise ValueError(f"{sharded[0]} is sharded: export the network before sharding it")
    for name, module in model.named_modules():
        if type(module).__module__.startswith("torch.ao.nn.quantized"):
            raise ValueError(
                f"layer {name!r} is quantized ({type(module).__name__}): export the network from "
                "before quantization, or quantize it for OpenVINO with cnnarch.inference.quantize"
            )
    buffers = {b.dtype for b in model.buffers() if b.is_floating_point()}
    dtypes = {p.dtype for p in model.parameters()} | buffers
    if dtypes - {torch.float32}:
        found = ", ".join(sorted(map(str, dtypes)))
        hint = "; half=True then writes float16" if torch.float16 in dtypes else ""
        raise ValueError(f"the network must be in float32 (model.float()), got {found}{hint}")


def _check_dynamic_size(network: nn.Module, dynamic_size: bool | None) -> bool:
    """Return whether height and width are dynamic."""
    possible = has_free_size(network)
    if dynamic_size is None:
        return possible
    if not isinstance(dynamic_size, bool):
        raise TypeError(f"dynamic_size must be True, False or None, got {dynamic_size!r}")
    if dynamic_size and isinstance(network, Trunk) and not possible:
        why = "accepts one image size" if network.fixed_input_size else 'has padding "same"'
        raise ValueError(f"dynamic_size must be False or None: {type(network).__name__} {why}")
    return dynamic_size


def _check_example(model: nn.Module, example: object) -> Tensor:
    """Return at least two images of the example's shape on the CPU."""
    if not isinstance(example, Tensor) or example.dim() != 4 or not len(example):
        found = str(tuple(example.shape)) if isinstance(example, Tensor) else repr(example)
        raise TypeError(f"example must be images of shape (N, C, H, W), got {found}")
    if example.dtype not in (torch.float32, torch.uint8):
        raise ValueError(f"example must be float32 or uint8, got {example.dtype}")
    if isinstance(model, Trunk) and example.dtype == torch.uint8 and not reads_pixels(model):
        raise ValueError(
            "the network accepts float32 images, got a uint8 example: fold preprocessing into it "
            "with fuse(model, preprocessing)"
        )
    images = example.detach().cpu()
    return images if len(images) > 1 else torch.cat([images, images])


def _check_format(path: Path, name: str | None) -> Format:
    """Return the format after all checks that do not require tracing the network."""
    if name is None:
        names = {form.suffix: key for key, form in FORMATS.items()}
        if path.suffix not in names:
            raise ValueError(f"path must end in one of {', '.join(names)}, got {path.name!r}")
        name = names[path.suffix]
    check_choice("format", name, FORMATS)
    form = FORMATS[name]
    if path.suffix != form.suffix:
        raise ValueError(f"{name} files end in {form.suffix}, got {path.name!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist")
    if path.is_dir():
        raise ValueError(f"{path} is a folder")
    _require(*form.packages)
    return form


def _check_onnx_options(form: Format, half: bool, opset: int | None) -> dict[str, int]:
    """Return the arguments for writing the file, after checking the options of ONNX files."""
    if not isinstance(half, bool):
        raise TypeError(f"half must be True or False, got {half!r}")
    if opset is not None:
        check_integer("opset", opset, 1)
    if form is not FORMATS["onnx"] and (half or opset is not None):
        option = "half" if half else "opset"
        raise ValueError(f"{option} is an option of ONNX files, got a {form.suffix} file")
    return {} if opset is None else {"opset": int(opset)}


def _require(*packages: str) -> None:
    if missing := why_missing(*packages):
        raise ImportError(missing)


def _metadata(model: nn.Module) -> dict[str, str]:
    """Return the network's name, categories and preprocessing, each as text."""
    preprocessing = preprocessing_of(model)
    categories = getattr(model, "categories", None)
    facts = {
        "cnnarch.network": getattr(model, "builder", None) or getattr(model, "fused_from", None),
        "cnnarch.categories": categories and json.dumps(categories),
        "cnnarch.preprocessing": preprocessing and json.dumps(asdict(preprocessing)),
    }
    return {key: value for key, value in facts.items() if value}


def _check_outputs(form: Format, path: Path, traced: _TracedNetwork, tolerance: float) -> None:
    exported = _load(form, path)
    for images in _noise(traced.images, traced.free_size):
        with torch.no_grad():
            expected = traced.network(images)
            if not isinstance(expected, Tensor):
                kind = type(expected).__name__
                raise TypeError(f"the network must return a tensor, got {kind}")
            try:
                found = exported(images)
            except Exception as error:  # engines raise exceptions of any kind
                raise ExportError(
                    f"the exported file cannot run on images {tuple(images.shape)}: {error}"
                ) from error
        differs_by = difference(found, expected)
        if differs_by > tolerance:
            raise ExportError(
                f"the exported file's outputs differ by {differs_by:.1e}, relative to the largest "
                f"output, on images {tuple(images.shape)}; the tolerance is {tolerance:.1e}"
            )


def _load(form: Format, path: Path) -> RunImages:
    try:
        return form.load(path)
    except Exception as error:  # engines raise exceptions of any kind
        raise ExportError(f"the engine cannot load the exported file: {error}") from error


def _noise(images: Tensor, free_size: bool = False) -> Iterator[Tensor]:
    """Yield noise of the traced shape, other batch sizes, and a different size if dynamic."""
    batch, channels, height, width = images.shape
    shapes = [(batch, height, width), (1, height, width), (batch + 1, height, width)]
    if free_size:
        shapes.append((1, height + 64, width + 32))
    generator = torch.Generator().manual_seed(0)
    for n, h, w in shapes:
        size = (n, channels, h, w)
        if images.dtype == torch.uint8:
            yield torch.randint(0, 256, size, dtype=torch.uint8, generator=generator, device="cpu")
        else:
            yield torch.randn(size, generator=generator, device="cpu")
