"""The file formats of `export`: how each is written, and how its engine runs the file."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export import ExportedProgram

from cnnarch.inference._offline import import_onnxruntime, import_openvino, with_core

RunImages = Callable[[Tensor], Tensor]

_MAX_ONNX_BYTES = 2**31 - 2**20  # protobuf's file size limit minus an allowance for the graph
_INPUT, _OUTPUT = "images", "logits"


def _write_pt2(program: ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
    torch.export.save(program, path, extra_files={"cnnarch.json": json.dumps(metadata)})


def _write_onnx(
    program: ExportedProgram, path: Path, metadata: dict[str, str], opset: int | None = None
) -> None:
    size = sum(t.nbytes for t in program.state_dict.values())
    if size > _MAX_ONNX_BYTES:
        raise ValueError(f"ONNX files are limited to 2 GiB, but the weights take {size:,} bytes")
    onnx = torch.onnx.export(
        program,
        verbose=False,
        input_names=[_INPUT],
        output_names=[_OUTPUT],
        opset_version=opset,
        dynamo=True,
    )
    assert onnx is not None
    found = onnx.model.opset_imports[""]
    if opset is not None and found != opset:  # the exporter only logs a warning
        raise ValueError(
            f"torch.onnx.export cannot write this network with opset {opset} (it wrote {found}): "
            "pass a different opset, or None for the default"
        )
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
        if isinstance(size, int) or size.value is None:  # None is an unknown size
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
    model = convert_to_openvino(program)
    for key, value in metadata.items():
        model.set_rt_info(value, key.split("."))
    import_openvino().save_model(model, path, compress_to_fp16=False)


def convert_to_openvino(program: ExportedProgram) -> Any:
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


class Format(NamedTuple):
    suffix: str
    packages: tuple[str, ...]
    write: Callable[..., None]
    load: Callable[[Path], RunImages]


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _load_onnx),
    "pt2": Format(".pt2", (), _write_pt2, lambda path: torch.export.load(path).module()),
    "openvino": Format(".xml", ("openvino",), _write_openvino, _load_openvino),
}
