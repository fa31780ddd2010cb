"""The range of every tensor on the calibration frames, by ONNX Runtime's calibrators.

In:  a float graph and frames.  Out: TensorsData, what its quantizer reads.  The graph is unchanged.
ONNX Runtime's entropy calibrator is left out: with its fixed number of bins it gives the ranges of
MinMax (measured), so it would be a second name for one thing.
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
PERCENTILE = 99.99
_BIN_COUNT = 2048


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
        rarest 0.01 % of the values.
    Returns: onnxruntime.quantization's TensorsData.
    """
    method, options = CalibrationMethod.MinMax, {}
    if calibrator == "percentile":
        method = CalibrationMethod.Percentile
        options = {"num_bins": _BIN_COUNT, "percentile": PERCENTILE}
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
