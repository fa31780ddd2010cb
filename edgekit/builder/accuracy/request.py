"""What an accuracy measurement is asked for, and which sub-models and cuts that means.

In:  a LoadedModel and options.  Out: frozen values.  Pure.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgekit.builder.load import LoadedModel
from edgekit.builder.quantize.frames import CalibrationFrames, Picture
from edgekit.builder.quantize.score import ClassSet, DetectionSet
from edgekit.planner.candidates import candidate_cuts
from edgekit.planner.cuts import names_in, resolve_cut
from edgekit.planner.dag import Dag, bits
from edgekit.planner.scenario import Variant
from edgekit.spec.card import ModelCard
from edgekit.spec.profile import Precision
from edgekit.spec.workload import Workload

Recode = Callable[[Picture], Picture]
Range = tuple[tuple[str, ...], tuple[str, ...]]
"""Cuts (tensor names) that a sub-model begins after and ends at; empty for the model's ends."""
DEFAULT_CUTS = 6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AccuracyRequest:
    """What was asked."""

    loaded: LoadedModel
    card: ModelCard | None
    """Of a detector; None for a classifier."""
    calibration: CalibrationFrames
    held_out: DetectionSet | ClassSet
    evaluation: str
    target: str
    calibrators: tuple[str, ...]
    variants: tuple[Variant, ...]
    """Strategies to measure, everything folded first."""
    cuts: tuple[tuple[str, ...], ...]
    codecs: tuple[str, ...]
    precisions: tuple[Precision, ...]
    frames: Mapping[str, Recode]
    """Frame codecs by name."""
    machine: str
    versions: Mapping[str, str]


def chosen_cuts(
    variants: Sequence[Variant], given: Sequence[str], count: int
) -> tuple[tuple[str, ...], ...]:
    """The cuts ``given``, or about ``count`` that are spread over the model's work and thin.

    Raises: PlanError for a cut that is not legal.
    """
    workload = variants[0].workload
    if given:
        cuts = [resolve_cut(workload, names_in(workload, text)) for text in given]
        return tuple(cut.names for cut in sorted(cuts, key=lambda cut: cut.op_count_before))
    if count < 1:
        return ()
    return tuple(cut.names for cut in candidate_cuts(variants, count)[0])


def ranges_between(workload: Workload, cuts: Sequence[tuple[str, ...]]) -> list[Range]:
    """The whole model; up to each cut; from each cut; between neighbours where that is a shard."""
    dag = Dag(workload)
    above = [dag.closure(dag.mask_of(list(names))) for names in cuts]
    between = [
        (one, other)
        for (one, first), (other, second) in pairwise(zip(cuts, above, strict=True))
        if not first & ~second
    ]
    first: Range = ((), ())
    return [first, *(((), one) for one in cuts), *((one, ()) for one in cuts), *between]


def operators_of(workload: Workload, part: Range) -> tuple[list[str], float]:
    """Names of a sub-model's operators, and its share of the work.

    Raises: PlanError if it begins or ends at what is no legal cut of ``workload``.
    """
    dag = Dag(workload)
    after, until = part
    begin = dag.ops_before(resolve_cut(workload, after)) if after else 0
    end = dag.ops_before(resolve_cut(workload, until)) if until else dag.all_ops
    chosen = list(bits(end & ~begin))
    share = sum(workload.ops[op].work_flop for op in chosen) / max(1, workload.work_flop)
    return [workload.ops[op].name for op in chosen], share
