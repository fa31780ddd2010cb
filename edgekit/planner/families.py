"""The plans that must always be priced, the best of each family, and why the others lose.

In:  an Engine and what was asked.  Out: Candidates and Refusals.  Pure.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from edgekit.errors import PlanError
from edgekit.planner.cost_table import CostTable
from edgekit.planner.pricing import Step, price_pipeline, violations
from edgekit.spec.planning import Binding, Candidate, Goal, Refusal, StagePlan

Rank = Callable[[Candidate], tuple[float, ...]]


def single_devices(
    table: CostTable, goal: Goal, rank: Rank
) -> tuple[list[Candidate], list[Refusal]]:
    """The whole model on each device, frames sent there in the best way; and where that fails."""
    found, refusals = [], []
    source = table.scenario.fleet.source_name
    for device in table.scenario.devices:
        name = device.name
        text = name if name == source else f"frames to {name}"
        if not device.can_run:
            continue
        if not table.options.get(name):
            refusals.append(Refusal(candidate=text, reason="its profile has no usable ceiling"))
            continue
        try:
            priced = _ways(table, goal, name)
        except PlanError as error:
            refusals.append(Refusal(candidate=text, reason=error.what))
            continue
        best = min(priced, key=rank)
        found.append(best)
        refusals += _too_inaccurate(goal, priced, best)
    return found, refusals


def _too_inaccurate(goal: Goal, priced: Sequence[Candidate], best: Candidate) -> list[Refusal]:
    """The quickest way on the same device, if only its accuracy speaks against it."""
    quickest = min(priced, key=lambda one: one.latency.time_s)
    limit, lost = goal.max_accuracy_drop_pp, quickest.accuracy_drop_pp
    if lost <= limit or quickest.latency.time_s >= best.latency.time_s:
        return []
    bound = Binding(limit="max_accuracy_drop_pp", asked=limit, best=lost, unit="pp")
    return [Refusal(candidate=_with_codec(quickest), reason=limit_text(bound))]


def _with_codec(candidate: Candidate) -> str:
    """A label that tells ways to one device apart."""
    frame = [hop.codec for hop in candidate.hops if hop.carries == "frame"]
    return label(candidate) + (f" as {frame[0]}" if frame else "")


def _ways(table: CostTable, goal: Goal, name: str) -> list[Candidate]:
    """Every way to run the whole model on one device. Raises: PlanError without a link."""
    frames: list[str | None] = [None]
    if name != table.scenario.fleet.source_name:
        frames = [frame.codec for frame in table.scenario.frame_costs]
    return [
        price_pipeline(
            table,
            goal,
            [Step(name, None, strategy=option.strategy, precision=option.precision)],
            frame_codec=frame,
        )
        for option in table.options[name]
        for frame in frames
    ]


def neighbours_of(
    table: CostTable, goal: Goal, chosen: Candidate, count: int = 3
) -> list[Candidate]:
    """Plans like ``chosen`` with one cut up to ``count`` places earlier or later."""
    if len(chosen.stages) < 2:
        return []
    index = {name: at for at, name in enumerate(table.cut_names)}
    cuts = [index[",".join(stage.until)] for stage in chosen.stages[:-1]]
    found = []
    for border in range(len(cuts)):
        for direction in (-1, 1):
            moved, at = 0, cuts[border] + direction
            while 0 <= at < len(table.cuts) and moved < count:
                changed = [*cuts[:border], at, *cuts[border + 1 :]]
                candidate = _moved(table, goal, chosen, changed)
                if candidate is not None:
                    found.append(candidate)
                    moved += 1
                at += direction
    return found


def _moved(
    table: CostTable, goal: Goal, chosen: Candidate, cuts: Sequence[int]
) -> Candidate | None:
    """``chosen`` cut elsewhere; None where the cuts do not lie below each other."""
    nodes = [0, *(cut + 1 for cut in cuts), table.node_count - 1]
    if not all(table.is_shard[a, b] for a, b in pairwise(nodes)):
        return None
    frame = next((hop.codec for hop in chosen.hops if hop.carries == "frame"), None)
    codecs = [hop.codec for hop in chosen.hops if hop.carries == "activations"]
    steps = [
        Step(stage.device, until, strategy=stage.strategy, precision=stage.precision, codec=codec)
        for stage, until, codec in zip(chosen.stages, [*cuts, None], [*codecs, None], strict=True)
    ]
    try:
        return price_pipeline(table, goal, steps, frame_codec=frame)
    except PlanError:  # no integers can cross there
        return None


def refusal(table: CostTable, goal: Goal, candidate: Candidate, why: str) -> Refusal:
    """Why ``candidate`` was not chosen: the limits it breaks, or else ``why``."""
    broken = violations(table, goal, candidate)
    reason = "; ".join(limit_text(one) for one in broken) or why
    return Refusal(candidate=label(candidate), reason=reason)


def label(candidate: Candidate) -> str:
    """A short name: where the frame goes, and where the model is cut."""
    text = str(candidate)
    return f"frames to {text}" if candidate.family == "frames" else text


def limit_text(one: Binding) -> str:
    """Such as "max_latency_s: 0.12 s, and 0.1 s is the limit"."""
    unit = f" {one.unit}" if one.unit else ""
    return f"{one.limit}: {one.best:.4g}{unit}, and {one.asked:.4g}{unit} is the limit"


def stages_of(candidate: Candidate) -> tuple[StagePlan, ...]:
    """All stages, those of a farm's members too."""
    return candidate.stages + tuple(
        stage for member in candidate.members for stage in member.stages
    )
