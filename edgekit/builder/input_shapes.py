"""Fix the shape of every model input, from the file and from what the user said.

In: the graph's declared inputs and ``--input NAME=1x3x416x416``.  Out: one static shape per input,
and the guesses that were made, as sentences to say aloud.
"""

from collections.abc import Mapping

import onnx

from edgekit.errors import ConfigError, ModelError
from edgekit.spec.tensors import TensorSpec

_LIKELY_PX = 320
"""Height and width in the flag we suggest for a model that names neither."""


def resolve_inputs(
    proto: onnx.ModelProto, given: Mapping[str, tuple[int, ...]]
) -> tuple[tuple[TensorSpec, ...], tuple[str, ...]]:
    """Static inputs of ``proto``, and what was assumed.

    Raises: ConfigError naming the flag to add or to change; ModelError if an input is no tensor.
    """
    weights = {tensor.name for tensor in proto.graph.initializer}
    declared = [value for value in proto.graph.input if value.name not in weights]
    names = [value.name for value in declared]
    for name in given:
        if name not in names:
            raise ConfigError(
                f"--input names {name!r}, but the model's inputs are {', '.join(names)}",
                hint=f"write --input {names[0] if names else 'NAME'}=...",
            )
    specs, notes = [], []
    for value in declared:
        spec, note = _resolved(value, given.get(value.name))
        specs.append(spec)
        notes += [note] if note else []
    if not specs:
        raise ModelError("the model has no input", hint="export it with its image as an input")
    return tuple(specs), tuple(notes)


def _resolved(value: onnx.ValueInfoProto, given: tuple[int, ...] | None) -> tuple[TensorSpec, str]:
    name = value.name
    if value.type.WhichOneof("value") != "tensor_type":
        raise ModelError(
            f"input {name!r} is not a tensor", hint="export the model with tensors as inputs"
        )
    dtype = _dtype_of(value)
    if not value.type.tensor_type.HasField("shape"):
        if given is None:
            raise ConfigError(
                f"input {name!r} declares no shape", hint=f"add --input {name}=1x3x{_LIKELY_PX}x320"
            )
        return TensorSpec(name=name, dtype=dtype, shape=given), ""
    dims = list(value.type.tensor_type.shape.dim)
    fixed = [dim.dim_value if dim.dim_value > 0 else 0 for dim in dims]
    labels = [str(dim.dim_value or dim.dim_param or "?") for dim in dims]
    if given is not None:
        _check_given(name, given, fixed, labels)
        return TensorSpec(name=name, dtype=dtype, shape=given), ""
    if all(fixed):
        return TensorSpec(name=name, dtype=dtype, shape=tuple(fixed)), ""
    if not all(fixed[1:]):
        raise ConfigError(
            f"input {name!r} has the open shape {'x'.join(labels)}",
            hint=f"add --input {name}={_suggestion(fixed)}, with the size your model works at",
        )
    shape = (1, *fixed[1:])
    text = "x".join(map(str, shape))
    note = f"input {name!r}: the open batch dimension {labels[0]!r} is taken as 1 ({text})"
    return TensorSpec(name=name, dtype=dtype, shape=shape), note


def _dtype_of(value: onnx.ValueInfoProto) -> str:
    element = value.type.tensor_type.elem_type
    try:
        dtype: str = onnx.helper.tensor_dtype_to_np_dtype(element).name
    except KeyError:
        raise ModelError(
            f"input {value.name!r} declares no element type", hint="export the model again"
        ) from None
    return dtype


def _suggestion(fixed: list[int]) -> str:
    channels_last = len(fixed) == 4 and fixed[3] in {1, 3} and fixed[1] == 0
    guess = [1, _LIKELY_PX, _LIKELY_PX, 3] if channels_last else [1, 3, _LIKELY_PX, _LIKELY_PX]
    guess = guess if len(fixed) == 4 else [1] * len(fixed)
    return "x".join(str(dim or other) for dim, other in zip(fixed, guess, strict=True))


def _check_given(name: str, given: tuple[int, ...], fixed: list[int], labels: list[str]) -> None:
    """Raise ConfigError if ``given`` contradicts what the file fixes."""
    declared = "x".join(labels)
    text = "x".join(map(str, given))
    if len(given) != len(fixed):
        raise ConfigError(
            f"--input {name}={text} has {len(given)} dimensions, the model takes {declared}",
            hint=f"write --input {name}={_suggestion(fixed)}",
        )
    if any(want and want != have for want, have in zip(fixed, given, strict=True)):
        merged = "x".join(str(want or have) for want, have in zip(fixed, given, strict=True))
        raise ConfigError(
            f"--input {name}={text} contradicts the model, which takes {declared}",
            hint=f"write --input {name}={merged}, or export the model with open dimensions",
        )
