"""The float model as quantization needs it: folded, in an opset that knows scales per channel.

In:  a LoadedModel.  Out: another, with every block one convolution, every BatchNorm folded into the
convolution before it, opset 13 or newer; proved equal to the first. The given one is unchanged.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import onnx.version_converter

from edgekit.builder.compare import MAX_RELATIVE_ERROR, differences
from edgekit.builder.fold.onnx_find import find_blocks
from edgekit.builder.fold.onnx_fold import fold_chosen, fold_model
from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.probe import run_proto, seeded_inputs, to_bytes
from edgekit.errors import ModelError
from edgekit.spec.fusion import FusionRule

_LEAST_OPSET = 13
"""The first whose DequantizeLinear takes one scale per channel."""
_OPSET = 17


def float_model(loaded: LoadedModel, rules: Sequence[FusionRule] = ()) -> LoadedModel:
    """``loaded``, folded as ``rules`` say (whole without any), in opset 13 or newer.

    Raises: ConfigError if a rule matches no block; ModelError if it is not equal after that, or
    cannot be raised.
    """
    folded, _ = fold_model(loaded, rules)
    return in_quantizable_opset(folded)


def without_batch_norms(loaded: LoadedModel) -> LoadedModel:
    """``loaded``, its blocks as they are, every BatchNorm in its convolution, opset 13 or newer.

    Raises: ModelError as ``float_model``.
    """
    merged, _ = fold_chosen(loaded, find_blocks(loaded), {}, conv_bn=True)
    return in_quantizable_opset(merged)


def in_quantizable_opset(loaded: LoadedModel) -> LoadedModel:
    """``loaded``, raised to opset 17 if it is older than 13.

    Raises: ModelError if it is not equal after that, or cannot be raised.
    """
    opset = next(one.version for one in loaded.proto.opset_import if one.domain in ("", "ai.onnx"))
    return loaded if opset >= _LEAST_OPSET else _raised(loaded, opset)


def _raised(loaded: LoadedModel, opset: int) -> LoadedModel:
    try:
        proto = onnx.version_converter.convert_version(loaded.proto, _OPSET)
    except Exception as error:  # noqa: BLE001 - the converter raises bare errors from C++
        raise _refusal(loaded, opset, str(error)) from None
    raised = reloaded(proto, loaded)
    given = seeded_inputs(loaded.inputs, 0)
    want = run_proto(loaded.proto, given, optimization="extended")
    got = run_proto(raised.proto, given, optimization="extended")
    worst = max(one.relative_error for one in differences(want, got).values())
    if not worst <= MAX_RELATIVE_ERROR:
        raise _refusal(loaded, opset, f"outputs moved by {worst:.1e} of their range")
    return raised


def reloaded(proto: onnx.ModelProto, origin: LoadedModel) -> LoadedModel:
    """The graph ``proto``, made of ``origin``, as a model that bears its name and digest."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / f"{origin.name}.onnx"
        path.write_bytes(to_bytes(proto))
        loaded = load_model(path)
    return replace(
        loaded, path=origin.path, name=origin.name, source_sha256=origin.source_sha256,
        notes=origin.notes,
    )  # fmt: skip


def _refusal(loaded: LoadedModel, opset: int, why: str) -> ModelError:
    return ModelError(
        f"{loaded.name} has opset {opset}, which knows no integers per channel, and cannot be "
        f"brought to {_OPSET}: {why[:200]}",
        hint=f"export the model with opset_version={_OPSET}",
    )
