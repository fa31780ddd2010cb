"""What other planners would decide, priced on the same cost model as ours.

In:  a CostTable and a Goal.  Out: one PolicyResult per policy.  Pure.
A policy looks at what its authors look at and at nothing else; its decision is then priced like any
other plan. As published, they send activations raw, run the model folded whole in fp32 (only the
paper's chooses strategies), and use two devices: ``two_devices.pair_of``. Where a policy leaves
several plans open it gets the best of them by its own measure.
"""

from collections.abc import Callable

import numpy as np

from edgekit.errors import PlanError
from edgekit.planner.cost_table import CostTable
from edgekit.planner.paper_algorithms import MemoryRoofs, decide
from edgekit.planner.pricing import price_pipeline, violations
from edgekit.planner.two_devices import (
    by_strength,
    curves,
    fastest,
    fp32_drop_pp,
    link_bytes_per_s,
    middle_cut,
    pair_of,
    reference_curve,
    roofs,
    single_cuts,
    split_steps,
    whole_step,
)
from edgekit.spec.planning import Candidate, Goal, PolicyResult

Policy = Callable[[CostTable, Goal], Candidate]


def compare(table: CostTable, goal: Goal) -> tuple[PolicyResult, ...]:
    """What each policy would do. One without a plan says why; one that breaks limits, which."""
    return tuple(policy_result(name, policy, table, goal) for name, policy in POLICIES.items())


def policy_result(name: str, policy: Policy, table: CostTable, goal: Goal) -> PolicyResult:
    """What one policy would do."""
    try:
        candidate = policy(table, goal)
    except PlanError as error:
        return PolicyResult(policy=name, candidate=None, note=error.what)
    broken = ", ".join(one.limit for one in violations(table, goal, candidate))
    note = f"breaks {broken}" if broken else ""
    return PolicyResult(policy=name, candidate=candidate, note=note)


def edge_only(table: CostTable, goal: Goal) -> Candidate:
    """The whole model on the strongest device; the frame gets there raw or coded."""
    steps = [whole_step(table, by_strength(table)[0])]
    codecs = [one.codec for one in table.scenario.frame_costs]
    return fastest(table, goal, [(steps, codec) for codec in codecs])


def jpeg_to_server(table: CostTable, goal: Goal) -> Candidate:
    """The frame as JPEG to the strongest device but the source, which runs the whole model."""
    codecs = [one.codec for one in table.scenario.frames if one.codec.startswith("jpeg")]
    source = table.scenario.fleet.source_name
    servers = [name for name in by_strength(table) if name != source]
    if not codecs or not servers:
        raise PlanError("there is no server, or no JPEG size of a frame", hint="give a frame")
    return fastest(table, goal, [([whole_step(table, servers[0])], codec) for codec in codecs])


def neurosurgeon(table: CostTable, goal: Goal) -> Candidate:
    """Least latency over one cut at one tensor, both ends of the model included.

    Source: Kang et al., "Neurosurgeon", ASPLOS 2017.
    """
    pair = pair_of(table)
    splits = [split_steps(table, pair, cut) for cut in (None, *single_cuts(table))]
    return fastest(table, goal, [(one, None) for one in (*splits, [whole_step(table, pair[0])])])


def mpms(table: CostTable, goal: Goal) -> Candidate:
    """Least latency over one cut of any kind, and over which device helps the first.

    Source: Yan, Bi, Zhang, "Optimal model placement and online model splitting for device-edge
    co-inference", IEEE Transactions on Wireless Communications 21, 2022.
    """
    near, _ = pair_of(table)
    helpers = [name for name in by_strength(table) if name != near]
    cuts = (None, *range(len(table.cuts)))
    splits = [split_steps(table, (near, far), cut) for far in helpers for cut in cuts]
    return fastest(table, goal, [(one, None) for one in (*splits, [whole_step(table, near)])])


def sidd(table: CostTable, goal: Goal) -> Candidate:
    """A split at one tensor, fixed in the middle of the work.

    SIDD's super-resolution is left out: it changes what the model computes, and what crosses.
    """
    cut = middle_cut(table)
    return price_pipeline(table, goal, split_steps(table, pair_of(table), cut))


def roofsplit(table: CostTable, goal: Goal) -> Candidate:
    """Highest throughput on the rooflines and the link, over cuts that keep the roofline rule.

    The rule: both sub-models lie right of their devices' ridges. If none does, any cut will do.
    Source: Huang et al., "RoofSplit", Future Generation Computer Systems 140, 2023; the rule as
    arXiv 2411.00838 gives it.
    """
    pair, curve = pair_of(table), reference_curve(table)
    slowest_s = curve.nbytes / link_bytes_per_s(table, pair)
    is_right = np.ones(len(curve.nbytes), bool)
    shares = (curve.work, 1 - curve.work)
    for device, share, intensity in zip(pair, shares, curve.intensities, strict=True):
        compute, memory = roofs(table, device)
        is_right &= intensity >= compute / memory
        attained = np.minimum(compute, memory * np.maximum(intensity, 1e-12))
        slowest_s = np.maximum(slowest_s, share * curve.work_flop / attained)
    allowed = is_right | (not is_right.any())
    best = int(np.argmin(np.where(allowed, slowest_s, np.inf)))
    return price_pipeline(table, goal, split_steps(table, pair, single_cuts(table)[best]))


def paper_algorithms(table: CostTable, goal: Goal) -> Candidate:
    """Algorithms 1-3 of arXiv 2411.00838 as written: see ``planner.paper_algorithms``."""
    pair, by_strategy = pair_of(table), curves(table)
    decision = decide(
        by_strategy,
        {name: fp32_drop_pp(table, name) for name in by_strategy},
        MemoryRoofs(
            near_bytes_per_s=roofs(table, pair[0])[1],
            far_bytes_per_s=roofs(table, pair[1])[1],
            link_bytes_per_s=link_bytes_per_s(table, pair),
        ),
        lambda1_s_per_pp=goal.lambda1_s_per_pp,
    )
    cut = single_cuts(table)[decision.cut]
    return price_pipeline(table, goal, split_steps(table, pair, cut, decision.strategies))


POLICIES: dict[str, Policy] = {
    "edge-only": edge_only,
    "jpeg-to-server": jpeg_to_server,
    "neurosurgeon": neurosurgeon,
    "roofsplit": roofsplit,
    "mpms": mpms,
    "sidd": sidd,
    "paper-algorithms-1-3": paper_algorithms,
}
