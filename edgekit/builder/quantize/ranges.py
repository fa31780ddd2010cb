"""The range of every tensor on the calibration frames, by ONNX Runtime's calibrators.

In:  a float graph and frames.  Out: TensorsData, what its quantizer reads.  The graph is unchanged.
ONNX Runtime's entropy calibrator as its ``quantize_static`` sets it, 128 bins for 128 integers, has
nothing to choose from and gives the ranges of MinMax; here it has four times as many bins.
Source: Migacz, "8-bit Inference with TensorRT", GTC 2017 (entropy: the range whose integers have
the smallest Kullback-Leibler divergence from the values).
"""

import contextlib
import io
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

from edgekit.builder.probe import to_bytes
from edgekit.spec.tensors import Array

CALIBRATORS = ("minmax", "percentile")
"""What is tried unless one is named."""
ALL_CALIBRATORS = (*CALIBRATORS, "entropy")
"""Entropy only by name: its search is a loop in Python, a quarter of a second for each tensor."""
PERCENTILE = 99.99
_BIN_COUNT = 2048
_ENTROPY_BINS = {"num_bins": 512, "num_quantized_bins": 128}


class _OneFrame(CalibrationDataReader):  # type: ignore[misc]
    """ONNX Runtime's reader port, for one frame: the tensors of all at once fill the memory."""

    def __init__(self, inputs: dict[str, Array]) -> None:
        self._inputs: dict[str, Array] | None = inputs

    def get_next(self) -> dict[str, Array] | None:
        """The frame, then None."""
        inputs, self._inputs = self._inputs, None
        return inputs


def ranges_of(
    proto: onnx.ModelProto,
    op_types: Collection[str],
    frames: Sequence[dict[str, Array]],
    calibrator: str,
    *,
    watch: Callable[[int], None] = lambda done: None,
) -> Any:
    """The range of every tensor that operators of ``op_types`` read or make.

    calibrator: "minmax" takes the smallest and largest value seen, "percentile" leaves out the
        rarest 0.01 % of the values, "entropy" as many as keep the distribution closest.
    Returns: onnxruntime.quantization's TensorsData.
    """
    method, options = CalibrationMethod.MinMax, dict[str, float]()
    if calibrator == "percentile":
        method = CalibrationMethod.Percentile
        options = {"num_bins": _BIN_COUNT, "percentile": PERCENTILE}
    elif calibrator == "entropy":
        method, options = CalibrationMethod.Entropy, dict(_ENTROPY_BINS)
    with (
        tempfile.TemporaryDirectory(prefix="edgekit-") as folder,
        contextlib.redirect_stdout(io.StringIO()),  # the calibrators report by printing
    ):
        path = Path(folder) / "float.onnx"
        path.write_bytes(to_bytes(proto))
        collector = create_calibrator(
            str(path),
            sorted(op_types),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=method,
            extra_options=options,
        )
        for done, inputs in enumerate(frames, start=1):
            collector.collect_data(_OneFrame(inputs))
            watch(done)
        return collector.compute_data()
