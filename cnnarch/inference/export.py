"""Export a network to a file for other programs: ONNX, OpenVINO, or torch.export's PT2."""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from cnnarch.blocks._checks import check_choice, check_positive
from cnnarch.blocks._wrappers import unwrapped
from cnnarch.inference._copies import inference_copy
from cnnarch.inference._measure import difference
from cnnarch.inference._offline import import_onnxruntime, import_openvino, why_missing, with_core
from cnnarch.inference._tracing import example_for, has_free_size, suppress_messages, trace
from cnnarch.preprocessing import preprocessing_of

__all__ = ["ExportError", "export", "to_openvino"]

_MAX_ONNX_BYTES = 2**31 - 2**20  # protobuf's file size limit minus an allowance for the graph
_INPUT, _OUTPUT = "images", "logits"

RunImages = Callable[[Tensor], Tensor]


class ExportError(RuntimeError):
    """The exported file does not compute the same outputs as the network."""


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    example: Tensor | None = None,
    dynamic_size: bool | None = None,
    tolerance: float = 1e-4,
) -> Path:
    """Write a network to a file in eval mode, and check the file's outputs against the network's.

    The batch size is always dynamic. The file is run with the traced batch size and with others,
    and with a different image size if height and width are dynamic. It is moved to `path` only if
    all outputs agree. The file contains the network's name, categories and preprocessing.

    - "onnx" (.onnx): a single file, for ONNX Runtime and many other programs. Requires
      `cnnarch[export]`.
    - "openvino" (.xml): OpenVINO's graph, with the float32 weights in a second file (.bin).
      Requires `cnnarch[export]`.
    - "pt2" (.pt2): for `torch.export.load`.

    An engine may reject the smallest images that the network accepts if a map is smaller than a
    pooling kernel, or a single pixel before adaptive pooling.

    Args:
        model: any module that maps images to a tensor; left unchanged. Fold BatchNorm with `fuse`
            first; if preprocessing is also folded, the file accepts uint8 images.
        path: a path in an existing folder, with the suffix of the format.
        format: "onnx", "pt2" or "openvino"; None infers it from the suffix.
        example: images, (N, C, H, W), to trace with. Required for networks from other libraries. If
            height and width are fixed, the file accepts only the example's size; None uses the
            size of the network's preprocessing or, without one, of its paper.
        dynamic_size: whether height and width are dynamic. None makes them dynamic for all
            cnnarch networks except the Mixers and those with TensorFlow's padding ("same").
        tolerance: the largest allowed difference, relative to the largest output.

    Returns:
        The path.

    Raises:
        ValueError: the format is unknown, the suffix is wrong, the number of channels of the
            preprocessing is not the network's, or the network is not in float32 or cannot be
            traced.
        TypeError: the example is required but missing, or is not a batch of images.
        FileNotFoundError: the folder does not exist.
        ImportError: a required package is not installed.
        ExportError: the outputs differ; no file is written.

    >>> import cnnarch, tempfile
    >>> path = export(cnnarch.lenet5(), f"{tempfile.mkdtemp()}/lenet5.pt2")
    >>> program = torch.export.load(path).module()
    >>> program(torch.zeros(5, 1, 32, 32)).shape
    torch.Size([5, 10])
    """
    path = Path(path)
    form = _check_format(path, format)
    check_positive("tolerance", tolerance)
    model = unwrapped(model)
    metadata = _metadata(model)
    traced = _trace_copy(model, example, dynamic_size)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        with suppress_messages():
            form.write(traced.program, draft, metadata)
            _check_outputs(form.load(draft), traced, tolerance)
        for part in sorted(draft.parent.iterdir(), key=lambda p: p == draft):  # the graph last
            part.replace(path.parent / part.name)
    return path


def to_openvino(
    model: nn.Module, example: Tensor | None = None, dynamic_size: bool | None = None
) -> Any:
    """Convert a network to an `openvino.Model` without checking it; arguments as in `export`."""
    _require("openvino")
    traced = _trace_copy(model, example, dynamic_size)
    with suppress_messages():
        return _convert_to_openvino(traced.program)


class _TracedNetwork(NamedTuple):
    network: nn.Module
    program: ExportedProgram
    images: Tensor
    free_size: bool


def _trace_copy(
    model: nn.Module, example: Tensor | None, dynamic_size: bool | None
) -> _TracedNetwork:
    dtypes = {p.dtype for p in model.parameters()}
    if dtypes - {torch.float32}:
        found = ", ".join(sorted(map(str, dtypes)))
        raise ValueError(f"the network must be in float32 (model.float()), got {found}")
    if any(p.is_meta for p in model.parameters()):
        raise ValueError("the network is on the meta device and has no values")
    network = inference_copy(model, share=True).cpu()
    free_size = has_free_size(network) if dynamic_size is None else dynamic_size
    if example is None:
        images = example_for(network, free_size)
    elif isinstance(example, Tensor) and example.dim() == 4 and len(example):
        images = example.detach().cpu()
        images = images if len(images) > 1 else torch.cat([images, images])
    else:
        found = str(tuple(example.shape)) if isinstance(example, Tensor) else repr(example)
        raise TypeError(f"example must be images of shape (N, C, H, W), got {found}")
    return _TracedNetwork(network, trace(network, images, free_size), images, free_size)


def _write_pt2(program: ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
    torch.export.save(program, path, extra_files={"cnnarch.json": json.dumps(metadata)})


def _write_onnx(program: ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
    size = sum(t.nbytes for t in program.state_dict.values())
    if size > _MAX_ONNX_BYTES:
        raise ValueError(f"ONNX files are limited to 2 GiB, but the weights take {size:,} bytes")
    onnx = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=[_INPUT], output_names=[_OUTPUT]
    )
    assert onnx is not None
    onnx.model.metadata_props.update(metadata)
    _name_axes(onnx.model.graph)
    onnx.save(path, external_data=False)


def _name_axes(graph: Any) -> None:
    """Name the dynamic axes of the images "batch", "height" and "width" in all shapes."""
    from onnx_ir import Shape

    (images,) = graph.inputs
    axes = zip(map(str, images.shape), ("batch", "channels", "height", "width"), strict=True)
    names = {symbol: name for symbol, name in axes if not symbol.isdigit()}

    def renamed(size: Any) -> Any:
        if isinstance(size, int):
            return size
        return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), str(size))

    outputs = (value for node in graph.all_nodes() for value in node.outputs)
    for value in (images, *outputs):
        if value.shape is not None:
            value.shape = Shape([renamed(size) for size in value.shape])


def _load_onnx(path: Path) -> RunImages:
    session = import_onnxruntime().InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {_INPUT: x.numpy()})[0])


def _write_openvino(program: ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
    model = _convert_to_openvino(program)
    for key, value in metadata.items():
        model.set_rt_info(value, key.split("."))
    import_openvino().save_model(model, path, compress_to_fp16=False)


def _convert_to_openvino(program: ExportedProgram) -> Any:
    model = import_openvino().convert_model(program)
    model.input(0).get_tensor().set_names({_INPUT})
    model.output(0).get_tensor().set_names({_OUTPUT})
    (node,) = (n for n in program.graph.nodes if n.name in program.graph_signature.user_inputs)
    shape = node.meta["val"].shape  # the converter loses this shape
    model.reshape([size if isinstance(size, int) else -1 for size in shape])
    return model


def _load_openvino(path: Path) -> RunImages:
    # Without the hint, OpenVINO computes in bfloat16 on processors that support it.
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = with_core(lambda core: core.compile_model(path, "CPU", hint))
    return lambda x: torch.from_numpy(compiled(x.numpy())[0])


class _Format(NamedTuple):
    suffix: str
    packages: tuple[str, ...]
    write: Callable[[ExportedProgram, Path, dict[str, str]], None]
    load: Callable[[Path], RunImages]


_FORMATS = {
    "onnx": _Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _load_onnx),
    "pt2": _Format(".pt2", (), _write_pt2, lambda path: torch.export.load(path).module()),
    "openvino": _Format(".xml", ("openvino",), _write_openvino, _load_openvino),
}


def _check_format(path: Path, name: str | None) -> _Format:
    """Return the format after all checks that do not require tracing the network."""
    if name is None:
        names = {form.suffix: key for key, form in _FORMATS.items()}
        if path.suffix not in names:
            raise ValueError(f"path must end in one of {', '.join(names)}, got {path.name!r}")
        name = names[path.suffix]
    check_choice("format", name, _FORMATS)
    form = _FORMATS[name]
    if path.suffix != form.suffix:
        raise ValueError(f"{name} files end in {form.suffix}, got {path.name!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist")
    if path.is_dir():
        raise ValueError(f"{path} is a folder")
    _require(*form.packages)
    return form


def _require(*packages: str) -> None:
    if missing := why_missing(*packages):
        raise ImportError(missing)


def _metadata(model: nn.Module) -> dict[str, str]:
    """Return the network's name, categories and preprocessing, each as text."""
    preprocessing = preprocessing_of(model)
    categories = getattr(model, "categories", None)
    facts = {
        "cnnarch.network": getattr(model, "builder", None),
        "cnnarch.categories": categories and json.dumps(categories),
        "cnnarch.preprocessing": preprocessing and json.dumps(asdict(preprocessing)),
    }
    return {key: value for key, value in facts.items() if value}


def _check_outputs(exported: RunImages, traced: _TracedNetwork, tolerance: float) -> None:
    for images in _noise(traced):
        with torch.no_grad():
            expected = traced.network(images)
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


def _noise(traced: _TracedNetwork) -> Iterator[Tensor]:
    """Yield noise of the traced shape, other batch sizes, and a different size if dynamic."""
    batch, channels, height, width = traced.images.shape
    shapes = [(batch, height, width), (1, height, width), (batch + 1, height, width)]
    if traced.free_size:
        shapes.append((1, height + 64, width + 32))
    generator = torch.Generator().manual_seed(0)
    for n, h, w in shapes:
        size = (n, channels, h, w)
        if traced.images.dtype == torch.uint8:
            yield torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        else:
            yield torch.randn(size, generator=generator)
