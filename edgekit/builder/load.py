"""Load a trained model: one normalised graph, a shape for every tensor, proved equal to the file.

In: an .onnx file, or a .pt file of our own format.  Out: a LoadedModel.
Every model that leaves here runs in the real runtime and gives the file's own numbers; every one
that cannot is refused with the operator, the input or the step that stands in the way.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import onnx.shape_inference

from edgekit.builder.compare import MAX_RELATIVE_ERROR, differences
from edgekit.builder.constants import GraphParts, parts_of, refuse_control_flow
from edgekit.builder.input_shapes import resolve_inputs
from edgekit.builder.lower_opset import MAX_OPSET
from edgekit.builder.normalize import normalize, passes_for, refuse_static_outputs
from edgekit.builder.probe import probe_tensors, run_proto, seeded_inputs
from edgekit.builder.read import read_model
from edgekit.errors import ModelError
from edgekit.spec.tensors import Array, TensorSpec

logger = logging.getLogger(__name__)

_NEWEST_IR = 10
_NEWER_OPSET = "ValidateOpsetForDomain"
"""How ONNX Runtime words that a file's opset is newer than itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A normalised model and the facts that splitting and costing need.

    ``activations`` holds every tensor that depends on the input (and early model outputs);
    ``constants`` every weight, also those that constant operators make.
    """

    proto: onnx.ModelProto
    path: Path
    name: str
    source_sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    activations: Mapping[str, TensorSpec]
    constants: Mapping[str, TensorSpec]
    parts: GraphParts
    notes: tuple[str, ...]
    """What was assumed or changed, as sentences to say aloud."""


def load_model(
    path: Path, *, input_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> LoadedModel:
    """The model at ``path``, normalised and checked.

    ``input_shapes`` fixes open dimensions, by input name.
    Raises: ConfigError if the file is missing or a shape must be given; ModelError if the file is
    not whole, uses an operator that cannot be run or split, or changes when it is normalised.
    """
    given = dict(input_shapes or {})
    only_shape = next(iter(given.values())) if len(given) == 1 else None
    proto, sha256 = read_model(path, only_shape)
    refuse_control_flow(proto)
    inputs, notes = resolve_inputs(proto, given)
    for note in notes:
        logger.info("%s: %s", path.name, note)
    original = _run_original(path, proto, inputs)
    normalised = _normalised(proto, inputs)
    notes += _check_equal(proto, normalised, inputs, original)
    return _with_facts(normalised, path, sha256, inputs, notes)


def _run_original(
    path: Path, proto: onnx.ModelProto, inputs: tuple[TensorSpec, ...]
) -> dict[str, Array]:
    """Outputs of the file itself on the inputs of seed 0, before anything is rewritten."""
    given = seeded_inputs(inputs, 0)
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    # The number alone keeps a runtime from loading a graph that it could run.
    copy.ir_version = min(proto.ir_version, _NEWEST_IR)
    try:
        return run_proto(copy, given, optimization="extended", name=path.name)
    except ModelError as error:
        if _NEWER_OPSET not in str(error):
            raise _explained(error, proto, path) from None
        logger.info("%s: newer than this ONNX Runtime, compared with the reference", path.name)
        refusal = error
    try:
        evaluator = onnx.reference.ReferenceEvaluator(copy)
        return dict(zip(evaluator.output_names, evaluator.run(None, given), strict=True))
    except Exception:  # noqa: BLE001 - the reference raises whatever its numpy code meets
        raise refusal from None


def _normalised(proto: onnx.ModelProto, inputs: tuple[TensorSpec, ...]) -> onnx.ModelProto:
    """The normalised graph, known to load in the runtime."""
    try:
        normalised = normalize(proto, inputs)
        refuse_static_outputs(normalised)
        run_proto(normalised, seeded_inputs(inputs, 0), optimization="none")
    except ModelError as error:
        opset = max((one.version for one in proto.opset_import if not one.domain), default=0)
        if opset <= MAX_OPSET or "opset" in error.what:
            raise
        raise ModelError(
            f"opset {opset} brought down to {MAX_OPSET}: {error.what}",
            hint=f"export the model with opset_version={MAX_OPSET}",
        ) from None
    return normalised


def _explained(error: ModelError, proto: onnx.ModelProto, path: Path) -> ModelError:
    """The runtime's refusal, with the operator that the standard does not know if there is one."""
    versions = {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}
    for node in proto.graph.node:
        domain = node.domain or "ai.onnx"
        known = onnx.defs.has(node.op_type, node.domain)
        if not known and re.search(rf"\b{re.escape(node.op_type)}\b", str(error)):
            return ModelError(
                f"{path.name} uses the operator {domain}.{node.op_type} "
                f"(node {node.name or node.output[0]!r}), which ONNX Runtime does not know",
                hint="export the model without it, or from standard operators of ai.onnx opset "
                f"{versions.get('ai.onnx', 17)}",
            )
    return error


def _check_equal(
    proto: onnx.ModelProto,
    normalised: onnx.ModelProto,
    inputs: tuple[TensorSpec, ...],
    original: dict[str, Array],
) -> tuple[str, ...]:
    """Prove that normalising changed no number; notes if it changed some within the limit."""
    got = run_proto(normalised, seeded_inputs(inputs, 0), optimization="extended")
    found = differences(original, got)
    worst = max(difference.relative_error for difference in found.values())
    if all(difference.bit_equal for difference in found.values()):
        return ()
    if worst <= MAX_RELATIVE_ERROR:
        return (f"normalising moved the outputs by {worst:.1e} of their range (limit 1e-5)",)
    _refuse_random(proto, inputs, original)
    step = _guilty_step(proto, inputs, original)
    raise ModelError(
        f"normalising step {step!r} moved the outputs by {worst:.1e}, "
        f"limit {MAX_RELATIVE_ERROR:.0e}",
        hint="report this model; until then export it with fixed shapes and opset 13 to 17",
    )


def _refuse_random(
    proto: onnx.ModelProto, inputs: tuple[TensorSpec, ...], original: dict[str, Array]
) -> None:
    """Raise ModelError if the file itself gives other outputs each time."""
    again = run_proto(proto, seeded_inputs(inputs, 0), optimization="extended")
    for name, found in differences(original, again).items():
        if found.relative_error > MAX_RELATIVE_ERROR:
            raise ModelError(
                f"output {name!r} differs from run to run on the same input",
                hint="export the model in evaluation mode (model.eval()), without random operators",
            )


def _guilty_step(
    proto: onnx.ModelProto, inputs: tuple[TensorSpec, ...], original: dict[str, Array]
) -> str:
    """Name of the first normalising step after which the outputs differ."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for step in passes_for(inputs):
        copy = step.apply(copy)
        got = run_proto(copy, seeded_inputs(inputs, 0), optimization="extended")
        found = differences(original, got).values()
        if not all(difference.relative_error <= MAX_RELATIVE_ERROR for difference in found):
            return step.name
    return "all together"


def _with_facts(
    proto: onnx.ModelProto,
    path: Path,
    sha256: str,
    inputs: tuple[TensorSpec, ...],
    notes: tuple[str, ...],
) -> LoadedModel:
    parts = parts_of(proto)
    nodes = proto.graph.node
    made = [name for i in parts.activation_nodes for name in nodes[i].output if name]
    values = probe_tensors(proto, seeded_inputs(inputs, 0), made)
    activations = {spec.name: spec for spec in inputs}
    activations |= {name: _spec_of(name, values[name]) for name in made}
    _refuse_data_dependent(proto, inputs, activations)
    return LoadedModel(
        proto=proto,
        path=path,
        name=path.stem,
        source_sha256=sha256,
        inputs=inputs,
        outputs=tuple(activations[name] for name in parts.output_names),
        activations=activations,
        constants=_constant_specs(proto, parts, inputs),
        parts=parts,
        notes=notes,
    )


def _spec_of(name: str, value: Array) -> TensorSpec:
    if not isinstance(value, np.ndarray):
        raise ModelError(
            f"{name!r} is not a tensor but a {type(value).__name__}",
            hint="export the model without sequences, maps or optionals",
        )
    return TensorSpec(name=name, dtype=value.dtype.name, shape=value.shape)


_DATA_DEPENDENT = {"NonMaxSuppression", "NonZero", "Unique", "Compress"}


def _refuse_data_dependent(
    proto: onnx.ModelProto,
    inputs: tuple[TensorSpec, ...],
    activations: Mapping[str, TensorSpec],
) -> None:
    """Raise ModelError if the shape of a tensor follows the data: it cannot be planned."""
    for node in proto.graph.node:
        if node.op_type in _DATA_DEPENDENT and node.output[0] in activations:
            raise ModelError(
                f"operator {node.op_type} ({node.name}) gives as many results as the data holds, "
                "so shapes are not static",
                hint="export the model without its post-processing; EdgeKit decodes boxes itself",
            )


def _constant_specs(
    proto: onnx.ModelProto, parts: GraphParts, inputs: tuple[TensorSpec, ...]
) -> dict[str, TensorSpec]:
    """Shape and type of every constant; those made by operators by inference, else by running."""
    to_dtype = onnx.helper.tensor_dtype_to_np_dtype
    specs = {
        tensor.name: TensorSpec(
            name=tensor.name, dtype=to_dtype(tensor.data_type).name, shape=tuple(tensor.dims)
        )
        for tensor in proto.graph.initializer
    }
    made = {name for i in parts.constant_nodes for name in proto.graph.node[i].output if name}
    if not made:
        return specs
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph.value_info
    for value in inferred:
        dims = value.type.tensor_type.shape.dim
        if value.name in made and all(dim.HasField("dim_value") for dim in dims):
            dtype = to_dtype(value.type.tensor_type.elem_type).name
            shape = tuple(dim.dim_value for dim in dims)
            specs[value.name] = TensorSpec(name=value.name, dtype=dtype, shape=shape)
    unknown = sorted(made - set(specs))
    if unknown:
        values = probe_tensors(proto, seeded_inputs(inputs, 0), unknown)
        specs |= {name: _spec_of(name, value) for name, value in values.items()}
    return specs
