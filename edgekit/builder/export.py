"""A network of the zoo becomes ONNX: traced, named, simplified, and compared before it is given.

In:  a torch module in evaluation mode, or the .pt file of one, and an input shape.  Out: the bytes
of an ONNX file: IR 8, opset 17, input ``images``, and as output either ``output0`` of a detector in
the Ultralytics v8 layout (1, 4 + classes, cells) or ``logits`` of a classifier (B, classes); the
same weights give the same bytes.
Folded or with every branch live; in the second form the blocks can be folded later, in the graph.
"""

import contextlib
import io
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import onnx
import torch
from torch import Tensor, nn

from edgekit.builder.checkpoint import load_checkpoint
from edgekit.builder.compare import MAX_RELATIVE_ERROR
from edgekit.builder.export_names import name_by_module
from edgekit.builder.fold.torch_front import (
    float32_limit,
    fold_module,
    in_float32,
    in_float64,
    refuse_training,
    relative_error,
)
from edgekit.builder.normalize import normalize
from edgekit.builder.probe import run_proto, to_bytes
from edgekit.builder.simplify import simplify_model
from edgekit.builder.zoo.blocks import BranchedConv, FoldedConv
from edgekit.builder.zoo.cells import CellGrid, answers, cell_grid
from edgekit.builder.zoo.detector import Detector
from edgekit.builder.zoo.table6 import check_image_size
from edgekit.errors import ModelError
from edgekit.spec.tensors import TensorSpec

log = logging.getLogger(__name__)

INPUT_NAME, OUTPUT_NAME, LOGITS_NAME = "images", "output0", "logits"
_ROOT = "network"
_EXPORTED_OPSET = 18
"""The lowest that torch's exporter writes; ``normalize`` brings it down to 17, which every ONNX
Runtime loads. (Asked for 17, the exporter does the same with more noise.)"""
_PROBE = (2, 3, 96, 160)
"""Small: for the raw outputs of a folded detector. The export is compared at full size."""


def export_onnx_bytes(
    path: Path, input_shape: tuple[int, ...] | None = None, *, fold: bool = True
) -> bytes:
    """The ONNX form of the checkpoint at ``path``.

    Shapes: ``input_shape`` (B, C, H, W); without it, the one in the checkpoint's configuration.
    Raises: ConfigError if there is no such file; ModelError if it is damaged, takes another input,
    or an output moves by more than 1e-5 of its range.
    """
    module = load_checkpoint(path)
    own_shape = cast(tuple[int, ...], getattr(module, "config").input_shape)  # noqa: B009
    return export_module(module, input_shape or own_shape, fold=fold)


def export_module(module: nn.Module, input_shape: tuple[int, ...], *, fold: bool = True) -> bytes:
    """The ONNX form of a network in evaluation mode; with ``fold=False``, all branches live.

    ``module`` is a detector of the zoo, or any network that gives logits (B, classes), also one
    that ``fold_module`` has folded in part.
    Shapes: ``input_shape`` (B, C, H, W); for a detector H and W are multiples of 32.
    Raises: ModelError as export_onnx_bytes; also for a module in training mode or with another
    output.
    """
    _check_shape(module, input_shape)
    refuse_training(module)
    start_s = time.perf_counter()
    trained = _with_answers(module, input_shape)
    want = _trained_answers(trained, input_shape)
    ready = trained
    if fold:
        is_detector = isinstance(module, Detector)
        folded = fold_module(module, probe_shape=_PROBE if is_detector else None)
        ready = _with_answers(folded, input_shape)
    spec = TensorSpec(name=INPUT_NAME, dtype="float32", shape=input_shape)
    traced = _traced(ready, input_shape)
    named = name_by_module(traced, root=_ROOT, sums=_summing_paths(ready.network))
    proto, tool = simplify_model(normalize(named, (spec,)))
    _prove(trained, want, proto, input_shape)
    data = to_bytes(proto)
    log.info(
        "exported %s: nodes=%d bytes=%d simplifier=%s seconds=%.1f", type(module).__name__,
        len(proto.graph.node), len(data), tool, time.perf_counter() - start_s,
    )  # fmt: skip
    return data


class _Answering(nn.Module):
    """A network and its one output; subclasses say which."""

    output_name: str = LOGITS_NAME

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, classes)."""
        return cast(Tensor, self.network(images))


class _Detecting(_Answering):
    """A detector and the boxes of its cells, with the grid as constants of one input size."""

    output_name = OUTPUT_NAME

    def __init__(self, detector: Detector, height_px: int, width_px: int) -> None:
        super().__init__(detector)
        grid = cell_grid(detector.strides, height_px, width_px)
        self.register_buffer("centres_px", grid.centres_px)
        self.register_buffer("strides_px", grid.strides_px)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 4 + C, N)."""
        grid = CellGrid(
            centres_px=cast(Tensor, self.centres_px), strides_px=cast(Tensor, self.strides_px)
        )
        return answers(self.network(images), grid)


def _with_answers(module: nn.Module, shape: tuple[int, ...]) -> _Answering:
    if isinstance(module, Detector):
        return _Detecting(module, shape[2], shape[3]).eval()
    return _Answering(module).eval()


def _summing_paths(network: nn.Module) -> tuple[str, ...]:
    """Modules that add branches, by path."""
    kinds = (BranchedConv, FoldedConv)
    return tuple(name for name, module in network.named_modules() if isinstance(module, kinds))


def _check_shape(module: nn.Module, shape: tuple[int, ...]) -> None:
    own_shape = getattr(getattr(module, "config", None), "input_shape", None)
    channels = own_shape[1] if own_shape else None
    if len(shape) != 4 or min(shape) < 1 or (channels or shape[1]) != shape[1]:
        written = "x".join(map(str, shape))
        raise ModelError(
            f"input {INPUT_NAME} cannot be {written}: it holds images (B, {channels or 'C'}, H, W)",
            hint=f"use --input {INPUT_NAME}=1x{channels or 3}x416x640",
        )
    if isinstance(module, Detector):
        check_image_size(shape[2], shape[3])


def _traced(network: _Answering, shape: tuple[int, ...]) -> onnx.ModelProto:
    """The graph as torch's exporter writes it."""
    with _quiet():
        try:
            program = torch.onnx.export(
                network,
                (torch.zeros(shape),),
                input_names=[INPUT_NAME],
                output_names=[network.output_name],
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


def _images(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _trained_answers(trained: _Answering, shape: tuple[int, ...]) -> Tensor:
    """What the network was trained to say, in float64.

    Raises: ModelError if it cannot run at this shape, or says something else than logits.
    """
    name = type(trained.network).__name__
    try:
        with torch.no_grad():
            want = in_float64(trained)(_images(shape).double())
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise ModelError(
            f"{name} does not run on images {'x'.join(map(str, shape))}: {first}",
            hint="give the input shape it was made for",
        ) from None
    rank = 3 if trained.output_name == OUTPUT_NAME else 2
    if not isinstance(want, Tensor) or want.ndim != rank:
        what = f"a tensor {tuple(want.shape)}" if isinstance(want, Tensor) else type(want).__name__
        raise ModelError(
            f"{name} gives {what}, neither the detections nor the logits that can be exported",
            hint="export a network of edgekit.builder.zoo, or bring your own ONNX file",
        )
    return want


def _prove(
    trained: _Answering, want: Tensor, proto: onnx.ModelProto, shape: tuple[int, ...]
) -> None:
    """Raises: ModelError unless ONNX Runtime gives what the trained network gives in float64."""
    outputs = run_proto(proto, {INPUT_NAME: _images(shape).numpy()}, optimization="extended")
    got = torch.from_numpy(outputs[trained.output_name]).double()
    for part, error in _errors(trained, want, got).items():
        limit = MAX_RELATIVE_ERROR
        if not error <= limit:
            with torch.no_grad():
                own = in_float32(trained)(_images(shape)).double()
            limit = float32_limit(f"{part} of the network", _errors(trained, want, own)[part])
        if not error <= limit:
            raise ModelError(
                f"the exported {part} differ by {error:.1e} of their range from the trained "
                f"network's, limit {limit:.0e}",
                hint="report this model, with the versions of torch and onnxscript",
            )
        log.debug("export equals torch: part=%s relative_error=%.1e", part, error)


def _errors(trained: _Answering, want: Tensor, got: Tensor) -> dict[str, float]:
    """The error of each part by its own range: boxes are in px, probabilities lie in 0..1."""
    if trained.output_name == LOGITS_NAME:
        return {"logits": relative_error(want, got)}
    return {
        "boxes": relative_error(want[:, :4], got[:, :4]),
        "classes": float((want[:, 4:] - got[:, 4:]).abs().max()),
    }
