"""Low-rank strategy: factorise the large layers of a model, where that is measured to be faster.

In:  a loaded model, and how much of each layer to keep.  Out: a model with the same inputs and
outputs by name, and a report; the model given is never changed.
For networks without branches, as one more strategy beside folding. It is not exact: the error of
the weights is computed for each layer, that of the outputs measured. A layer is replaced only if
its factors need less work and, timed alone and turn by turn, less time; the whole only if it is
faster too. So the result depends on the machine that measures, unless it is forced.
Source: arXiv 2411.00838 names it as future work; the algebra is cited in ``low_rank``.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from edgekit.builder.compare import differences
from edgekit.builder.fold.low_rank import Budget, Method, cheapest_factors
from edgekit.builder.fold.low_rank_layers import (
    KINDS,
    DenseLayer,
    Operators,
    alone,
    read_layer,
    rewrite,
)
from edgekit.builder.fold.onnx_graph import GraphView, view_of
from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.normalize import remove_unread
from edgekit.builder.probe import seeded_inputs, to_bytes
from edgekit.builder.race import is_faster, race
from edgekit.errors import ModelError, PlanError
from edgekit.runtime.ort import OrtSession
from edgekit.runtime.session import random_inputs
from edgekit.spec.tensors import Array

logger = logging.getLogger(__name__)

MIN_SHARE = 0.01
"""A layer with less of the model's work and less of its weights is not worth a second kernel."""
RANK_STEP = 8
"""Runtimes pad channels to the width of their vectors: ranks in between cost time and keep less."""
_LAYER_BUDGET_S, _MODEL_BUDGET_S = 0.3, 2.0

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """What was found for one layer. Errors are relative; times are of the layer alone."""

    name: str
    op_type: str
    before_flop: int
    after_flop: int
    is_factorised: bool
    why: str
    method: Method | None = None
    ranks: tuple[int, ...] = ()
    weight_error: float = 0.0
    before_s: float | None = None
    after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRankReport:
    """What the factorisation of a model gave, all measured here."""

    layers: tuple[LayerReport, ...]
    before_s: float
    after_s: float
    output_errors: Mapping[str, float]
    """By output: max |factorised - original| / max |original|, the worst of all samples."""

    @property
    def before_flop(self) -> int:
        """Work of all layers of ``layers``."""
        return sum(layer.before_flop for layer in self.layers)

    @property
    def after_flop(self) -> int:
        """The same after the factorisation."""
        return sum(layer.after_flop for layer in self.layers)

    @property
    def worst_error(self) -> float:
        """The largest of ``output_errors``."""
        return max(self.output_errors.values())


def low_rank_model(
    model: LoadedModel | onnx.ModelProto,
    *,
    energy: float | None = None,
    rank: int | None = None,
    force: bool = False,
    max_output_error: float | None = None,
    samples: Sequence[dict[str, Array]] = (),
    threads: int = 1,
    progress: Progress | None = None,
) -> tuple[onnx.ModelProto, LowRankReport]:
    """Factorise the large dense layers (Conv, Gemm, MatMul by a constant) of ``model``.

    energy: share of each layer's squared weights to keep, 0 < energy <= 1; or
    rank: the width between the factors, the same for each layer. Exactly one of the two.
    force: take every factorisation that needs less work, faster or not.
    samples: inputs by name on which outputs are compared; without them, one random input.
    Returns: the new model and what was measured. Names of inputs, outputs and all other tensors
    stay; layers with groups, or whose padding differs between two sides, stay as they are.
    Raises: ConfigError unless one of energy and rank is given; PlanError if no layer gets faster,
    the whole does not, or an output moves by more than ``max_output_error``.
    """
    budget = Budget(energy=energy, rank=rank, multiple=1 if energy is None else RANK_STEP)
    loaded = model if isinstance(model, LoadedModel) else _loaded(model)
    judge = _Judge(loaded=loaded, budget=budget, force=force, threads=threads)
    judge.decide(progress)
    if not judge.chosen:
        raise _nothing_gained(judge.reports)
    factorised = _replaced(loaded.proto, judge.chosen)
    report = _measured(loaded, factorised, tuple(judge.reports), samples, threads)
    if not (force or is_faster(report.after_s, report.before_s)):
        raise PlanError(
            f"with {len(judge.chosen)} factorised layers the model takes "
            f"{report.after_s * 1e3:.2f} ms against {report.before_s * 1e3:.2f} ms before",
            hint="keep less energy, keep the model as it is, or force it",
        )
    if max_output_error is not None and not report.worst_error <= max_output_error:
        raise PlanError(
            f"factorising moves an output by {report.worst_error:.1e} of its range, limit "
            f"{max_output_error:.1e}",
            hint="keep more energy, or train the factorised model further",
        )
    return factorised, report


def _loaded(proto: onnx.ModelProto) -> LoadedModel:
    with TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(to_bytes(proto))
        return load_model(path)


@dataclass(slots=True, kw_only=True)
class _Judge:
    """Goes through the layers of a model and decides which to factorise."""

    loaded: LoadedModel
    budget: Budget
    force: bool
    threads: int
    reports: list[LayerReport] = field(default_factory=list)
    chosen: dict[str, Operators] = field(default_factory=dict)
    """By the output of the layer."""

    def decide(self, progress: Progress | None) -> None:
        """Fill ``reports`` and ``chosen``, in graph order."""
        view = view_of(self.loaded)
        indices = [
            index
            for index in self.loaded.parts.activation_nodes
            if view.node(index).op_type in KINDS and view.node(index).domain in ("", "ai.onnx")
        ]
        found = [read_layer(view, index) for index in indices]
        layers = [layer for layer in found if isinstance(layer, DenseLayer)]
        all_flop = sum(layer.work_flop([layer.kernel]) for layer in layers)
        weight_count = sum(layer.kernel.weight.size for layer in layers)
        for done, (index, layer) in enumerate(zip(indices, found, strict=True)):
            if progress is not None:
                progress("factorise", done, len(found))
            if isinstance(layer, str):
                self.reports.append(_kept(view.node(index), 0, layer))
                continue
            work_flop = layer.work_flop([layer.kernel])
            share = max(work_flop / all_flop, layer.kernel.weight.size / weight_count)
            if share < MIN_SHARE:
                why = f"holds only {share:.1%} of the work or weights"
                self.reports.append(_kept(layer.node, work_flop, why))
            else:
                self.reports.append(self._try(view, layer, work_flop))

    def _try(self, view: GraphView, layer: DenseLayer, work_flop: int) -> LayerReport:
        try:
            factors = cheapest_factors(layer.kernel, self.budget, layer.size)
        except ModelError as error:
            return _kept(layer.node, work_flop, error.what)
        after_flop = layer.work_flop(factors.kernels)
        report = LayerReport(
            name=layer.node.name,
            op_type=layer.node.op_type,
            before_flop=work_flop,
            after_flop=work_flop,
            is_factorised=False,
            why=f"needs no less work: {after_flop / work_flop:.2f} times",
            method=factors.method,
            ranks=factors.ranks,
            weight_error=factors.relative_error,
        )
        if after_flop >= work_flop:
            return report
        operators = rewrite(layer, factors.kernels)
        if not self.force:
            before_s, after_s = self._race(view, layer, operators)
            report = replace(report, before_s=before_s, after_s=after_s)
            if not is_faster(after_s, before_s):
                return replace(report, why=f"is no faster: {after_s / before_s:.2f} times")
        self.chosen[layer.node.output[0]] = operators
        return replace(
            report, after_flop=after_flop, is_factorised=True, why="needs less work and time"
        )

    def _race(self, view: GraphView, layer: DenseLayer, operators: Operators) -> tuple[float, ...]:
        whole = Operators(nodes=(layer.node,))
        models = [alone(view, layer, one) for one in (whole, operators)]
        with _sessions(models, self.threads) as sessions:
            return race(sessions, random_inputs((layer.source,)), budget_s=_LAYER_BUDGET_S)


def _kept(node: onnx.NodeProto, work_flop: int, why: str) -> LayerReport:
    return LayerReport(
        name=node.name,
        op_type=node.op_type,
        before_flop=work_flop,
        after_flop=work_flop,
        is_factorised=False,
        why=why,
    )


@contextmanager
def _sessions(models: Sequence[onnx.ModelProto], threads: int) -> Iterator[list[OrtSession]]:
    """The models as they run on a device: from files, fully optimised."""
    with TemporaryDirectory(prefix="edgekit-") as folder:
        paths = [Path(folder) / f"{number}.onnx" for number in range(len(models))]
        for path, model in zip(paths, models, strict=True):
            path.write_bytes(to_bytes(model))
        yield [OrtSession(path, threads=threads) for path in paths]


def _replaced(proto: onnx.ModelProto, chosen: Mapping[str, Operators]) -> onnx.ModelProto:
    """A copy of ``proto`` with the chosen layers exchanged in place, so that order is kept."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.node[:]
    for node in proto.graph.node:
        operators = chosen.get(node.output[0])
        copy.graph.node.extend([node] if operators is None else operators.nodes)
    for operators in chosen.values():
        copy.graph.initializer.extend(operators.weights)
    return remove_unread(copy)


def _measured(
    loaded: LoadedModel,
    factorised: onnx.ModelProto,
    layers: tuple[LayerReport, ...],
    samples: Sequence[dict[str, Array]],
    threads: int,
) -> LowRankReport:
    compared = list(samples) or [seeded_inputs(loaded.inputs, 0)]
    errors = {spec.name: 0.0 for spec in loaded.outputs}
    with _sessions([loaded.proto, factorised], threads) as (original, smaller):
        before_s, after_s = race([original, smaller], compared[0], budget_s=_MODEL_BUDGET_S)
        for sample in compared:
            found = differences(original.run(sample), smaller.run(sample))
            errors = {name: max(errors[name], one.relative_error) for name, one in found.items()}
    logger.info("%s: %.2f ms, factorised %.2f ms", loaded.name, before_s * 1e3, after_s * 1e3)
    return LowRankReport(layers=layers, before_s=before_s, after_s=after_s, output_errors=errors)


def _nothing_gained(layers: Sequence[LayerReport]) -> PlanError:
    tried = [layer for layer in layers if layer.ranks]
    best = min(tried, key=lambda layer: (layer.after_s or 0) / (layer.before_s or 1), default=None)
    closest = "" if best is None else f"; the closest, {best.name}, {best.why}"
    return PlanError(
        f"none of {len(layers)} layers is faster as factors of low rank{closest}",
        hint="keep less energy, or keep the model as it is",
    )
