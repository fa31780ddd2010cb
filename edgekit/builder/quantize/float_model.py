"""The float model as quantization needs it: folded, in an opset that knows scales per channel.

In:  a LoadedModel.  Out: another, with every block one convolution, every BatchNorm folded into the
convolution before it, opset 13 or newer; proved equal to the first. The given one is unchanged.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import onnx
import onnx.version_converter

from edgekit.builder.compare import MAX_RELATIVE_ERROR, differences
from edgekit.builder.fold.onnx_fold import fold_model
from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.probe import run_proto, seeded_inputs, to_bytes
from edgekit.errors import ModelError

_LEAST_OPSET = 13
"""The first whose DequantizeLinear takes one scale per channel."""
_OPSET = 17


def float_model(loaded: LoadedModel) -> LoadedModel:
    """``loaded``, folded whole and raised to opset 17 if it is older than 13.

    Raises: ModelError if it is not equal after that, or cannot be raised.
    """
    folded, _ = fold_model(loaded, [])
    opset = next(one.version for one in folded.proto.opset_import if one.domain in ("", "ai.onnx"))
    return folded if opset >= _LEAST_OPSET else _raised(folded, opset)


def _raised(loaded: LoadedModel, opset: int) -> LoadedModel:
    try:
        proto = onnx.version_converter.convert_version(loaded.proto, _OPSET)
    except Exception as error:  # noqa: BLE001 - the converter raises bare errors from C++
        raise _refusal(loaded, opset, str(error)) from None
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / f"{loaded.name}.onnx"
        path.write_bytes(to_bytes(proto))
        raised = load_model(path)
    given = seeded_inputs(loaded.inputs, 0)
    want = run_proto(loaded.proto, given, optimization="extended")
    got = run_proto(raised.proto, given, optimization="extended")
    worst = max(one.relative_error for one in differences(want, got).values())
    if not worst <= MAX_RELATIVE_ERROR:
        raise _refusal(loaded, opset, f"outputs moved by {worst:.1e} of their range")
    return replace(
        raised, path=loaded.path, name=loaded.name, source_sha256=loaded.source_sha256,
        notes=loaded.notes,
    )  # fmt: skip


def _refusal(loaded: LoadedModel, opset: int, why: str) -> ModelError:
    return ModelError(
        f"{loaded.name} has opset {opset}, which knows no integers per channel, and cannot be "
        f"brought to {_OPSET}: {why[:200]}",
        hint=f"export the model with opset_version={_OPSET}",
    )
