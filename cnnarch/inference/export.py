"""Write a network to a file that other programs run: ONNX, torch.export's PT2, OpenVINO."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from cnnarch.blocks._checks import check_choice, check_positive
from cnnarch.inference._copies import inference_copy
from cnnarch.inference._measure import difference
from cnnarch.inference._offline import import_onnxruntime, import_openvino, with_core
from cnnarch.inference._tracing import example_for, has_free_size, quiet, trace

__all__ = ["ExportError", "export", "to_openvino"]

_ONE_FILE = 2**31 - 2**20  # protobuf's limit for an ONNX file, less what the graph takes
_INPUT, _OUTPUT = "images", "logits"

Metadata = Mapping[str, str]
Run = Callable[[Tensor], Tensor]


class ExportError(RuntimeError):
    """What was written does not compute what the network computes."""


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    example: Tensor | None = None,
    dynamic_size: bool | None = None,
    tolerance: float = 1e-4,
) -> Path:
    """Write a network to a file, in eval mode, and check it against the network.

    The batch is always free. The file is run on other batches than it was traced with, and on
    other image sizes where they are free, before the call returns; it is at `path` only if all
    outputs agree. Name, categories and pre-processing of the network are stored in it.

    - "onnx" (.onnx): one file, for ONNX Runtime and many others. Needs `cnnarch[export]`.
    - "openvino" (.xml): OpenVINO's graph, with the weights in float32 beside it (.bin). Needs
      `cnnarch[export]`.
    - "pt2" (.pt2): for `torch.export.load`.

    An engine can refuse the very smallest images that the network takes, where a map has fewer
    pixels than a pool's kernel, or a single one before a pool to a fixed size.

    Args:
        model: any module from images to a tensor; it stays as it is. Fold BatchNorm first with
            `fuse`; with pre-processing folded, the file takes uint8 images.
        path: with the format's suffix, in a folder that is there.
        format: "onnx", "pt2" or "openvino"; None goes by the suffix.
        example: images, (N, C, H, W), to trace with; needed for others' networks and where height
            and width are not free, which then are the example's.
        dynamic_size: whether height and width are free; None means all of cnnarch's networks but
            the Mixers and those with TensorFlow's padding ("same").
        tolerance: largest difference allowed, relative to the largest output.

    Returns:
        The path.

    Raises:
        ValueError: no such format, another suffix, a network that is not in float32 or cannot be
            traced.
        TypeError: an example is needed, or is not a batch of images.
        FileNotFoundError: the folder is not there.
        ImportError: a package is missing.
        ExportError: the outputs differ; nothing is left behind.

    >>> import cnnarch, tempfile
    >>> path = export(cnnarch.lenet5(), f"{tempfile.mkdtemp()}/lenet5.pt2")
    >>> program = torch.export.load(path).module()
    >>> program(torch.zeros(5, 1, 32, 32)).shape
    torch.Size([5, 10])
    """
    path = Path(path)
    form = _format(path, format)
    check_positive("tolerance", tolerance)
    twin = _prepared(model)
    free_size = has_free_size(twin) if dynamic_size is None else dynamic_size
    images = _example(twin, example, free_size)
    program = trace(twin, images, free_size)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        with quiet():
            form.write(program, draft, _metadata(model))
            _check(form.load(draft), twin, images, free_size, tolerance)
        for part in sorted(draft.parent.iterdir(), key=lambda p: p == draft):  # the graph last
            part.replace(path.parent / part.name)
    return path


def to_openvino(
    model: nn.Module, example: Tensor | None = None, dynamic_size: bool | None = None
) -> Any:
    """A network as an `openvino.Model` in memory, unchecked; arguments are those of `export`."""
    _require("openvino")
    twin = _prepared(model)
    free_size = has_free_size(twin) if dynamic_size is None else dynamic_size
    images = _example(twin, example, free_size)
    program = trace(twin, images, free_size)
    with quiet():
        return _converted(program)


class _Format(NamedTuple):
    """How a kind of file is written and run, and what that needs."""

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[ExportedProgram, Path, Metadata], None]
    load: Callable[[Path], Run]


def _write_pt2(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    torch.export.save(program, path, extra_files={"cnnarch.json": json.dumps(dict(metadata))})


def _load_pt2(path: Path) -> Run:
    return torch.export.load(path).module()


def _write_onnx(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    size = sum(t.nbytes for t in program.state_dict.values())
    if size > _ONE_FILE:
        raise ValueError(f"an ONNX file holds less than 2 GiB, the weights are {size:,} bytes")
    onnx = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=[_INPUT], output_names=[_OUTPUT]
    )
    assert onnx is not None
    onnx.model.metadata_props.update(metadata)
    onnx.save(path, external_data=False)


def _load_onnx(path: Path) -> Run:
    session = import_onnxruntime().InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {_INPUT: x.numpy()})[0])


def _write_openvino(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    model = _converted(program)
    for key, value in metadata.items():
        model.set_rt_info(value, key.split("."))
    import_openvino().save_model(model, path, compress_to_fp16=False)


def _converted(program: ExportedProgram) -> Any:
    model = import_openvino().convert_model(program)
    model.input(0).get_tensor().set_names({_INPUT})
    model.output(0).get_tensor().set_names({_OUTPUT})
    (node,) = (n for n in program.graph.nodes if n.name in program.graph_signature.user_inputs)
    shape = node.meta["val"].shape  # which the converter forgets
    model.reshape([size if isinstance(size, int) else -1 for size in shape])
    return model


def _load_openvino(path: Path) -> Run:
    # Without the hint it computes in bfloat16 where the processor has it.
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = with_core(lambda core: core.compile_model(path, "CPU", hint))
    return lambda x: torch.from_numpy(compiled(x.numpy())[0])


_FORMATS = {
    "onnx": _Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _load_onnx),
    "pt2": _Format(".pt2", (), _write_pt2, _load_pt2),
    "openvino": _Format(".xml", ("openvino",), _write_openvino, _load_openvino),
}


def _format(path: Path, name: str | None) -> _Format:
    """The format asked for, once all that can be wrong without any work is checked."""
    suffixes = {form.suffix: key for key, form in _FORMATS.items()}
    if name is None:
        if path.suffix not in suffixes:
            allowed = ", ".join(suffixes)
            raise ValueError(f"path must end in one of {allowed}, got {path.name!r}")
        name = suffixes[path.suffix]
    check_choice("format", name, _FORMATS)
    form = _FORMATS[name]
    if path.suffix != form.suffix:
        raise ValueError(f"{name} files end in {form.suffix}, got {path.name!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder")
    for package in form.packages:
        _require(package)
    return form


def _require(package: str) -> None:
    try:
        if package == "openvino":
            import_openvino()
        elif package == "onnxruntime":
            import_onnxruntime()
        else:
            import_module(package)
    except ImportError as error:
        raise ImportError(f"{package} is missing: pip install 'cnnarch[export]'") from error


def _prepared(model: nn.Module) -> nn.Module:
    types = {p.dtype for p in model.parameters()}
    if types - {torch.float32}:
        found = ", ".join(sorted(map(str, types)))
        raise ValueError(f"the network must be in float32 (model.float()), got {found}")
    if any(p.is_meta for p in model.parameters()):
        raise ValueError("the network is on the meta device and has no values")
    return inference_copy(model, share=True).cpu()


def _example(model: nn.Module, example: Tensor | None, free_size: bool) -> Tensor:
    """At least two images to trace with."""
    if example is None:
        return example_for(model, free_size)
    if not isinstance(example, Tensor) or example.dim() != 4 or not len(example):
        found = tuple(example.shape) if isinstance(example, Tensor) else example
        raise TypeError(f"example must be images of shape (N, C, H, W), got {found!r}")
    example = example.detach().cpu()
    return example if len(example) > 1 else torch.cat([example, example])


def _metadata(model: nn.Module) -> dict[str, str]:
    """What the network knows of itself, as text."""
    facts = {
        "network": getattr(model, "builder", None),
        "categories": getattr(model, "categories", None),
        "preprocessing": getattr(model, "preprocessing", None),
    }
    found = {}
    for key, value in facts.items():
        if value is not None:
            if key == "preprocessing":
                value = asdict(value)
            found[f"cnnarch.{key}"] = value if isinstance(value, str) else json.dumps(value)
    return found


def _check(run: Run, model: nn.Module, images: Tensor, free_size: bool, tolerance: float) -> None:
    for batch in _batches(images, free_size):
        with torch.no_grad():
            expected = model(batch)
            try:
                found = run(batch)
            except Exception as error:  # the engine's own, of any kind
                raise ExportError(
                    f"what was written cannot run images {tuple(batch.shape)}: {error}"
                ) from error
        differs_by = difference(found, expected)
        if differs_by > tolerance:
            raise ExportError(
                f"what was written differs by {differs_by:.1e} of scale on images "
                f"{tuple(batch.shape)}, allowed {tolerance:.1e}"
            )


def _batches(images: Tensor, free_size: bool) -> Iterator[Tensor]:
    """Noise of the size traced, of other batch sizes, and of another size if that is free."""
    batch, channels, height, width = images.shape
    shapes = [(batch, height, width), (1, height, width), (batch + 1, height, width)]
    if free_size:
        shapes.append((1, height + 64, width + 32))
    generator = torch.Generator().manual_seed(0)
    for n, h, w in shapes:
        if images.dtype == torch.uint8:
            size = (n, channels, h, w)
            yield torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        else:
            yield torch.randn(n, channels, h, w, generator=generator)
