"""Bytes on disk become an ONNX graph, whole and self-contained, or a ModelError that says why not.

In: the path of an .onnx file (with external data beside it) or of a .pt file of our own format.
Out: the ModelProto with all weights inside, and the sha256 of everything that was read.
Never runs anything.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import (
    ExternalDataInfo,
    load_external_data_for_tensor,
    uses_external_data,
)

from edgekit.errors import ConfigError, ModelError


def read_model(
    path: Path, input_shape: tuple[int, ...] | None = None
) -> tuple[onnx.ModelProto, str]:
    """The graph at ``path`` and the sha256 of its source (external data included).

    ``input_shape`` is for .pt files, which have no shape of their own.
    Raises: ConfigError if there is no such file; ModelError if it is not a whole model.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read model {path}: {error.strerror}", hint="check the path"
        ) from None
    if path.suffix in {".pt", ".pth"}:
        from edgekit.builder.export import export_onnx_bytes

        exported = export_onnx_bytes(path, input_shape, fold=False)
        return _parsed(exported, path), hashlib.sha256(data).hexdigest()
    proto = _parsed(data, path)
    digest = hashlib.sha256(data)
    _take_in_external_data(proto, path, digest)
    return proto, digest.hexdigest()


def _parsed(data: bytes, path: Path) -> onnx.ModelProto:
    again = "copy or export it again"
    if not data:
        raise ModelError(f"{path} is empty", hint=again)
    try:
        proto = onnx.load_model_from_string(data)
    except DecodeError:
        raise ModelError(
            f"{path} is not a whole ONNX file ({len(data)} bytes)", hint=again
        ) from None
    # Protobuf accepts a file that was cut between two fields, and some that were never ONNX.
    if not proto.graph.node or not proto.graph.output:
        raise ModelError(f"{path} holds no graph ({len(data)} bytes)", hint=again)
    if not proto.opset_import:
        raise ModelError(f"{path} names no operator set ({len(data)} bytes)", hint=again)
    if not all(isinstance(text, str) for text in _texts(proto)):
        raise ModelError(f"{path} is damaged: a name in it is no text", hint=again)
    if not all(any(node.output) for node in proto.graph.node):
        raise ModelError(f"{path} is damaged: an operator makes nothing", hint=again)
    return proto


def _texts(proto: onnx.ModelProto) -> Iterator[Any]:
    """Every name of the graph; protobuf gives bytes for one that is not UTF-8."""
    yield from (entry.domain for entry in proto.opset_import)
    yield from (value.name for value in (*proto.graph.input, *proto.graph.output))
    yield from (tensor.name for tensor in proto.graph.initializer)
    for node in proto.graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _take_in_external_data(proto: onnx.ModelProto, path: Path, digest: "hashlib._Hash") -> None:
    """Load the tensors that live in files beside the model; their bytes join ``digest``."""
    for tensor in _all_tensors(proto):
        if not uses_external_data(tensor):
            continue
        _check_external(ExternalDataInfo(tensor), tensor.name, path)
        try:
            load_external_data_for_tensor(tensor, str(path.parent))
        except (ValueError, OSError, onnx.checker.ValidationError) as error:
            raise ModelError(
                f"{path.name}: the external data of {tensor.name!r} cannot be read: {error}",
                hint="export the model again, or save it as one file",
            ) from None
        digest.update(tensor.raw_data)


def _check_external(info: ExternalDataInfo, name: str, path: Path) -> None:
    """Raise ModelError if the file that should hold the tensor ``name`` is elsewhere or cut off."""
    file = path.parent / info.location
    if not file.resolve().is_relative_to(path.parent.resolve()):
        raise ModelError(
            f"{path.name} keeps weights outside its folder ({info.location!r})",
            hint="export it again with the external data beside the model",
        )
    if not file.is_file():
        raise ModelError(
            f"{path.name} keeps the weight {name!r} in {info.location!r}, which is missing",
            hint=f"copy {info.location} into {path.parent}",
        )
    end = int(info.offset or 0) + int(info.length or 0)
    if file.stat().st_size < end:
        raise ModelError(
            f"{info.location} is cut off: {file.stat().st_size} bytes, {name!r} ends at byte {end}",
            hint=f"copy {info.location} into {path.parent} again",
        )


def _all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from proto.graph.initializer
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
