"""A detector of the zoo becomes ONNX: folded, traced, normalised, and compared before it is given.

In:  a torch module in evaluation mode, or the .pt file of one, and an input shape.  Out: the bytes
of an ONNX file: IR 8, opset 17, input ``images``, output ``output0`` in the Ultralytics v8 layout
(1, 4 + classes, cells); the same weights give the same bytes.
No simplifier runs: after folding, the exporter's graph holds nothing to simplify.
"""

import contextlib
import io
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edgekit.builder.checkpoint import load_checkpoint
from edgekit.builder.compare import MAX_RELATIVE_ERROR, difference
from edgekit.builder.export_names import name_by_module
from edgekit.builder.fold.torch_front import fold_module, in_float64
from edgekit.builder.normalize import normalize
from edgekit.builder.probe import run_proto, to_bytes
from edgekit.builder.zoo.cells import CellGrid, answers, cell_grid
from edgekit.builder.zoo.table6 import Table6Detector, check_image_size
from edgekit.errors import ModelError
from edgekit.spec.tensors import TensorSpec

log = logging.getLogger(__name__)

INPUT_NAME, OUTPUT_NAME = "images", "output0"
_ROOT = "detector"
_EXPORTED_OPSET = 18
"""The lowest that torch's exporter writes; ``normalize`` brings it down to 17, which every ONNX
Runtime loads. (Asked for 17, the exporter does the same with more noise.)"""


_PROBE = (2, 3, 96, 160)
"""Small: for the raw outputs of the folded network. The export is compared at full size."""


def export_onnx_bytes(path: Path, input_shape: tuple[int, ...] | None = None) -> bytes:
    """The ONNX form of the checkpoint at ``path``.

    Shapes: ``input_shape`` (B, 3, H, W); without it, the one in the checkpoint's configuration.
    Raises: ConfigError if there is no such file; ModelError if it is damaged, takes another input,
    or an output moves by more than 1e-5 of its range.
    """
    module = load_checkpoint(path)
    return export_module(module, input_shape or _detector(module).config.input_shape)


def export_module(module: nn.Module, input_shape: tuple[int, ...], *, fold: bool = True) -> bytes:
    """The ONNX form of a detector in evaluation mode; with ``fold=False``, all branches live.

    Shapes: ``input_shape`` (B, 3, H, W), H and W multiples of 32.
    Raises: ModelError as export_onnx_bytes; also for a module in training mode or not of the zoo.
    """
    detector = _detector(module)
    _check_shape(input_shape)
    if detector.training:
        raise ModelError(
            f"{type(module).__name__} is in training mode", hint="call .eval() on it first"
        )
    start_s = time.perf_counter()
    ready = cast(Table6Detector, fold_module(detector, probe_shape=_PROBE)) if fold else detector
    spec = TensorSpec(name=INPUT_NAME, dtype="float32", shape=input_shape)
    proto = normalize(name_by_module(_traced(ready, input_shape), root=_ROOT), (spec,))
    _prove(detector, proto, input_shape)
    data = to_bytes(proto)
    log.info(
        "exported %s: nodes=%d bytes=%d seconds=%.1f",
        type(module).__name__, len(proto.graph.node), len(data), time.perf_counter() - start_s,
    )  # fmt: skip
    return data


class _Answering(nn.Module):
    """A detector and the boxes of its cells, with the grid as constants of one input size."""

    def __init__(self, detector: Table6Detector, height_px: int, width_px: int) -> None:
        super().__init__()
        self.detector = detector
        grid = cell_grid(detector.strides, height_px, width_px)
        self.register_buffer("centres_px", grid.centres_px)
        self.register_buffer("strides_px", grid.strides_px)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 4 + C, N)."""
        grid = CellGrid(
            centres_px=cast(Tensor, self.centres_px), strides_px=cast(Tensor, self.strides_px)
        )
        return answers(self.detector(images), grid)


def _detector(module: nn.Module) -> Table6Detector:
    if not isinstance(module, Table6Detector):
        raise ModelError(
            f"a {type(module).__name__} has no detections to export",
            hint="export a detector of edgekit.builder.zoo, or bring your own ONNX file",
        )
    return module


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 4 or shape[1] != 3 or min(shape) < 1:
        written = "x".join(map(str, shape))
        raise ModelError(
            f"input {INPUT_NAME} cannot be {written}: it holds color images (B, 3, H, W)",
            hint=f"use --input {INPUT_NAME}=1x3x416x640",
        )
    check_image_size(shape[2], shape[3])


def _traced(detector: Table6Detector, shape: tuple[int, ...]) -> onnx.ModelProto:
    """The graph as torch's exporter writes it."""
    with _quiet():
        try:
            program = torch.onnx.export(
                _Answering(detector, shape[2], shape[3]).eval(),
                (torch.zeros(shape),),
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                opset_version=_EXPORTED_OPSET,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # the exporter raises errors of many libraries
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
            raise ModelError(
                f"torch {torch.__version__} cannot export this network: {first}",
                hint="install the versions of the extra: pip install 'edgekit[builder]'",
            ) from error
    assert program is not None, "the exporter returns a program when it is given no file"
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, warnings and log lines to ourselves."""
    noisy = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    ]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)


def _prove(detector: Table6Detector, proto: onnx.ModelProto, shape: tuple[int, ...]) -> None:
    """Raises: ModelError unless ONNX Runtime gives what the trained network gives in float64."""
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = in_float64(detector).decoded(images.double()).numpy()
    outputs = run_proto(proto, {INPUT_NAME: images.numpy()}, optimization="extended")
    got = outputs[OUTPUT_NAME].astype(np.float64)
    # Boxes are in pixels, probabilities range over 0..1: each part is held to its own range.
    boxes = difference(want[:, :4], got[:, :4]).relative_error
    kinds = float(np.abs(want[:, 4:] - got[:, 4:]).max())
    for part, error in (("boxes", boxes), ("classes", kinds)):
        if not error <= MAX_RELATIVE_ERROR:
            raise ModelError(
                f"the exported {part} differ by {error:.1e} of their range from the trained "
                f"network's, limit {MAX_RELATIVE_ERROR:.0e}",
                hint="report this model, with the versions of torch and onnxscript",
            )
        log.debug("export equals torch: part=%s relative_error=%.1e", part, error)
