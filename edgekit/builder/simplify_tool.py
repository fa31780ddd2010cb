"""Run one simplifier on one file, in this process: ``python -m ... onnxsim IN OUT``.

In:  the name of a tool and an ONNX file.  Out: another ONNX file, as that tool left it.
For ``simplify`` alone: nothing here is checked, and the tools may take the process with them.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Literal, cast

import onnx

ToolName = Literal["onnxsim", "onnxslim", "onnxruntime"]
TOOLS: tuple[ToolName, ...] = ("onnxsim", "onnxslim", "onnxruntime")
"""In the order in which they are tried."""
_FOLD_KILOBYTES = 16
"""Larger tensors are not computed ahead: a file must not grow by what it can make."""
_MOST_ROUNDS = 4


def main(tool: str, given: Path, made: Path) -> None:
    """Simplify ``given`` until nothing more comes off, and write ``made``."""
    proto = onnx.load_model(given)
    for _ in range(_MOST_ROUNDS):
        node_count = len(proto.graph.node)
        proto = _RUN[cast(ToolName, tool)](proto, made)
        if len(proto.graph.node) >= node_count:
            break
    made.write_bytes(proto.SerializeToString(deterministic=True))


# The imports are those of one tool, and seconds long: onnxsim imports torch.


def _onnxsim(proto: onnx.ModelProto, _: Path) -> onnx.ModelProto:
    simplify = import_module("onnxsim").simplify
    return cast(onnx.ModelProto, simplify(proto, tensor_size_threshold=f"{_FOLD_KILOBYTES}KB")[0])


def _onnxslim(proto: onnx.ModelProto, _: Path) -> onnx.ModelProto:
    slim = import_module("onnxslim").slim
    return cast(onnx.ModelProto, slim(proto, size_threshold=_FOLD_KILOBYTES * 1024))


def _onnxruntime(proto: onnx.ModelProto, scratch: Path) -> onnx.ModelProto:
    ort = import_module("onnxruntime")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(scratch)
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return cast(onnx.ModelProto, onnx.load_model(scratch))


_RUN: dict[ToolName, Callable[[onnx.ModelProto, Path], onnx.ModelProto]] = {
    "onnxsim": _onnxsim,
    "onnxslim": _onnxslim,
    "onnxruntime": _onnxruntime,
}

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
