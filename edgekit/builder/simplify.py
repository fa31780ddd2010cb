"""Remove what an exporter left behind: computed constants, lone BatchNorms, shape arithmetic.

In:  a graph whose inputs have fixed shapes.  Out: a normalised graph of the same function, and the
tool that made it: onnxsim, or where that fails onnxslim, or where that fails ONNX Runtime's own
offline optimizer at its basic level. Each runs in a process of its own, for they may crash.
No result is taken on trust: the same names, no operator of a domain that was not there, outputs
within 1e-5 on seeded inputs, and no weights folded into something larger.
A graph in which there is nothing to simplify, as our own exports, comes back as it is, in
milliseconds; so does one that no tool could do, with a warning.
"""

import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import onnx
from google.protobuf.message import DecodeError

from edgekit.builder.compare import MAX_RELATIVE_ERROR, differences
from edgekit.builder.normalize import normalize
from edgekit.builder.probe import run_proto, seeded_inputs, to_bytes
from edgekit.builder.simplify_tool import TOOLS, ToolName
from edgekit.errors import ModelError
from edgekit.spec.tensors import TensorSpec

log = logging.getLogger(__name__)

ToolUsed = ToolName | Literal["none"]
_TIMEOUT_S = 300.0
_MAX_GROWTH_BYTES = 16 * 1024
"""Folded shapes and scalars; a folded weight is larger."""
_PLAIN = frozenset({
    "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "Div", "Gemm",
    "GlobalAveragePool", "HardSigmoid", "HardSwish", "LeakyRelu", "MaxPool", "Mul", "ReduceMean",
    "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Softmax", "Split", "Sub", "Transpose",
})  # fmt: skip
"""Operators that nothing removes where they stand alone and read an activation."""
_CHAINED = frozenset({"Reshape", "Transpose", "Slice", "Relu", "Clip"})
"""Two of these in a row are one."""


def simplify_model(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, ToolUsed]:
    """``proto`` in normal form, simplified if there is something to simplify.

    Returns: a new graph, and the tool that simplified it; "none" if nothing did or had to.
    Raises: ModelError if an input has no fixed shape, or the graph cannot be normalised.
    """
    specs = _input_specs(proto)
    before = normalize(proto, specs)
    reason = next(_leftovers(before), None)
    if reason is None:
        log.debug("nothing to simplify: operators=%d", len(before.graph.node))
        return before, "none"
    log.debug("simplifying, because of %s", reason)
    for tool in TOOLS:
        try:
            after = normalize(_rewritten(before, tool), specs)
            _check(before, after, specs)
        except ModelError as error:
            log.warning("%s cannot simplify this model: %s", tool, error.what)
            continue
        if not _is_less(after, before):
            log.info("nothing to simplify: %s left all %d operators", tool, len(before.graph.node))
            return before, "none"
        log.info(
            "%s simplified: operators=%d before=%d bytes=%d before=%d",
            tool, len(after.graph.node), len(before.graph.node),
            len(to_bytes(after)), len(to_bytes(before)),
        )  # fmt: skip
        return after, tool
    log.warning("no tool simplified this model; it is used as it is")
    return before, "none"


def _leftovers(proto: onnx.ModelProto) -> Iterator[str]:
    """What a simplifier may be able to remove, in words; nothing for a plain graph."""
    graph = proto.graph
    constants = {tensor.name for tensor in graph.initializer} | {""}
    readers: dict[str, int] = {value.name: 1 for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    makers = {name: node for node in graph.node for name in node.output}
    seen: set[bytes] = set()
    for node in graph.node:
        where = f"{node.op_type} {node.output[0]!r}"
        if node.op_type not in _PLAIN or node.domain:
            yield f"the operator {where}"
        if all(name in constants for name in node.input):
            yield f"the constant {where}"
        source = makers.get(node.input[0]) if node.input else None
        if source is not None and _is_one(source, node, readers):
            yield f"{source.op_type} before {where}"
        key = _key(node)
        if key in seen:
            yield f"the repeated {where}"
        seen.add(key)


def _is_one(first: onnx.NodeProto, second: onnx.NodeProto, readers: dict[str, int]) -> bool:
    """True if two neighbours do the work of one."""
    if second.op_type in _CHAINED:
        return bool(first.op_type == second.op_type)
    pair = first.op_type, second.op_type
    return pair == ("Conv", "BatchNormalization") and readers[first.output[0]] == 1


def _key(node: onnx.NodeProto) -> bytes:
    """What a node computes, without the names of it and of its outputs."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = ""
    del copy.output[:]
    key: bytes = copy.SerializeToString(deterministic=True)
    return key


def _rewritten(proto: onnx.ModelProto, tool: ToolName) -> onnx.ModelProto:
    """What ``tool`` makes of ``proto``. Raises: ModelError if it crashes, fails or is too slow."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        given, made = Path(folder, "given.onnx"), Path(folder, "made.onnx")
        given.write_bytes(to_bytes(proto))
        _run([*_command(tool), str(given), str(made)])
        try:
            return onnx.load_model(made)
        except (OSError, ValueError, DecodeError) as error:
            raise ModelError(f"it wrote no model: {error}", hint="report it there") from None


def _command(tool: ToolName) -> list[str]:
    return [sys.executable, "-m", "edgekit.builder.simplify_tool", tool]


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"no answer in {_TIMEOUT_S:.0f} s", hint="use another tool") from None
    if done.returncode < 0:
        raise ModelError(f"crashed with signal {-done.returncode}", hint="use another tool")
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit status {done.returncode}"
        raise ModelError(reason[:200], hint="use another tool")


def _check(before: onnx.ModelProto, after: onnx.ModelProto, specs: tuple[TensorSpec, ...]) -> None:
    """Raises: ModelError unless ``after`` may stand for ``before``."""
    for part in ("input", "output"):
        old, new = ([v.name for v in getattr(p.graph, part)] for p in (before, after))
        if old != new:
            raise ModelError(f"it changed the {part}s from {old} to {new}", hint="use another tool")
    foreign = {node.domain for node in after.graph.node} - {n.domain for n in before.graph.node}
    if foreign - {""}:
        raise ModelError(f"it brought in operators of {sorted(foreign)}", hint="use another tool")
    grown_bytes = len(to_bytes(after)) - len(to_bytes(before))
    if grown_bytes > _MAX_GROWTH_BYTES:
        raise ModelError(f"the file grew by {grown_bytes} bytes", hint="use another tool")
    inputs = seeded_inputs(specs, 0)
    want, got = (run_proto(proto, inputs, optimization="extended") for proto in (before, after))
    for name, found in differences(want, got).items():
        if not found.relative_error <= MAX_RELATIVE_ERROR:
            raise ModelError(
                f"it moved {name!r} by {found.relative_error:.1e}, limit {MAX_RELATIVE_ERROR:.0e}",
                hint="use another tool",
            )


def _is_less(after: onnx.ModelProto, before: onnx.ModelProto) -> bool:
    new, old = ((len(proto.graph.node), len(to_bytes(proto))) for proto in (after, before))
    return bool(new < old)


def _input_specs(proto: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    weights = {tensor.name for tensor in proto.graph.initializer}
    return tuple(_spec(value) for value in proto.graph.input if value.name not in weights)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dims = [one.dim_value if one.HasField("dim_value") else 0 for one in kind.shape.dim]
    if not kind.HasField("shape") or 0 in dims:
        raise ModelError(
            f"the input {value.name!r} has no fixed shape",
            hint="load the model with its input shape first (edgekit.builder.load)",
        )
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    return TensorSpec(name=value.name, dtype=dtype.name, shape=tuple(dims))
