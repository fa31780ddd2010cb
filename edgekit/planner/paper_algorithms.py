"""The paper's own planner, Algorithms 1 to 3 as written: one cut, two devices, a sum of times.

In:  cuts along a model with the work, traffic and bytes at each, and two memory roofs.  Out: the
cut and the two strategies that it decides for.  Pure; what the decision is worth, others price.
It knows memory roofs only and one scalar lambda, the share of work on the first device; between
cuts, traffic and bytes are interpolated, as a gradient needs, and the result is snapped to the
nearest legal cut. The paper gives no value for the utilisations mu, so they are 1, and no step
size: here a step is a tenth of the model at first, and a descent starts at each of five places.
Source: arXiv 2411.00838, Algorithms 1-3.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.errors import PlanError
from edgekit.planner.dag import Dag, bits
from edgekit.planner.kernel_groups import inner_names
from edgekit.spec.plan import Cut
from edgekit.spec.tensors import Array
from edgekit.spec.workload import Workload

_STARTS = (0.1, 0.3, 0.5, 0.7, 0.9)
_FIRST_STEP, _STEP_COUNT = 0.1, 40
_PROBE = 1e-3
"""Half the distance in lambda over which the slope is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What lies above each cut of a model under one strategy, in the paper's notation."""

    work: Array
    """lambda_C: share of the work above each cut, shape (cuts,), ascending."""
    traffic: Array
    """lambda_M: share of the memory traffic above each cut, shape (cuts,)."""
    nbytes: Array
    """N_e: bytes that cross, shape (cuts,)."""
    work_flop: int
    traffic_bytes: int

    @property
    def intensity_flop_per_byte(self) -> float:
        """I_0, of the whole model."""
        return self.work_flop / self.traffic_bytes

    @property
    def intensities(self) -> tuple[Array, Array]:
        """I_1 and I_2 [flop/byte] of what lies above and below each cut, shape (cuts,) each."""
        whole = self.intensity_flop_per_byte
        above = self.work / np.maximum(self.traffic, 1e-12)
        below = (1 - self.work) / np.maximum(1 - self.traffic, 1e-12)
        return above * whole, below * whole


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperDecision:
    """What Algorithm 3 returns."""

    cut: int
    """Index into the cuts of the curves."""
    strategies: tuple[str, str]
    work_share: float
    """lambda where the descent ended, before it was snapped to a cut."""
    loss_s: float


def curve_of(workload: Workload, cuts: Sequence[Cut]) -> Curve:
    """Work, traffic and bytes at ``cuts``, which are in order of work.

    Traffic is that of tensors which reach memory: what a merged kernel keeps inside costs none.
    Raises: PlanError if the model does no work, or there is no cut.
    """
    dag = Dag(workload)
    inside = inner_names(dag)
    traffic = [
        op.weight_bytes
        + sum(workload.tensor[name].nbytes for name in (*op.inputs, *op.outputs)
              if name not in inside)
        for op in workload.ops
    ]  # fmt: skip
    if not cuts or not workload.work_flop:
        raise PlanError("there is nothing to cut in two", hint="run the model on one device")
    above = [dag.closure(dag.mask_of(cut.names)) for cut in cuts]
    total_bytes = max(1, sum(traffic))
    return Curve(
        work=np.array([dag.work_flop(ops) / workload.work_flop for ops in above]),
        traffic=np.array([sum(traffic[op] for op in bits(ops)) / total_bytes for ops in above]),
        nbytes=np.array([float(cut.nbytes) for cut in cuts]),
        work_flop=workload.work_flop,
        traffic_bytes=total_bytes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRoofs:
    """All that the paper's latency formula knows of the hardware."""

    near_bytes_per_s: float
    """beta_1."""
    far_bytes_per_s: float
    """beta_2."""
    link_bytes_per_s: float
    """beta_s."""


def total_s(share: float, first: Curve, second: Curve, roofs: MemoryRoofs) -> float:
    """T_total at lambda = ``share``: lambda N/(mu_1 I_1 beta_1) + ... + N_e/beta_s, with mu = 1.

    With I_1 = (lambda_C / lambda_M) I_0 and lambda = lambda_C the work cancels: the first term is
    lambda_M M / beta_1, M the traffic of the whole model. It is computed like that, so that it has
    a value at the ends. ``first`` and ``second`` are the curves of the two sub-models' strategies.
    Returns: seconds.  Source: arXiv 2411.00838, Algorithm 1.
    """
    traffic_1 = np.interp(share, first.work, first.traffic) * first.traffic_bytes
    traffic_2 = (1 - np.interp(share, second.work, second.traffic)) * second.traffic_bytes
    nbytes = np.interp(share, first.work, first.nbytes)
    return float(
        traffic_1 / roofs.near_bytes_per_s
        + traffic_2 / roofs.far_bytes_per_s
        + nbytes / roofs.link_bytes_per_s
    )


def descend(loss_s: Callable[[float], float], start: float) -> float:
    """Algorithm 1: gradient descent on lambda from ``start``. Returns: the best lambda seen.

    The slope gives the direction; the step, at first a tenth of the model, halves at every turn.
    """
    share = best = start
    least_s, step, heading = loss_s(start), _FIRST_STEP, 0.0
    for _ in range(_STEP_COUNT):
        slope = loss_s(share + _PROBE) - loss_s(share - _PROBE)
        step *= 0.5 if slope * heading < 0 else 1.0
        heading = slope
        share = min(1.0, max(0.0, share - math.copysign(step, slope)))
        if (here_s := loss_s(share)) < least_s:
            best, least_s = share, here_s
    return best


def decide(
    curves: Mapping[str, Curve],
    drops_pp: Mapping[str, float],
    roofs: MemoryRoofs,
    *,
    lambda1_s_per_pp: float,
) -> PaperDecision:
    """Algorithm 3: the grid over lambda, theta_1 and theta_2, with least L.

    L = T_total + lambda_1 dA_total, and dA_total = lambda dA_1 + (1 - lambda) dA_2 (Algorithm 2).
    ``curves`` and ``drops_pp`` are by strategy; the first strategy wins ties.
    Raises: PlanError if there is no strategy.
    """
    found = []
    for one, other in itertools.product(curves, repeat=2):

        def loss_s(share: float, one: str = one, other: str = other) -> float:
            drop_pp = share * drops_pp[one] + (1 - share) * drops_pp[other]
            return total_s(share, curves[one], curves[other], roofs) + lambda1_s_per_pp * drop_pp

        share = min((descend(loss_s, start) for start in _STARTS), key=loss_s)
        found.append(
            PaperDecision(
                cut=int(np.argmin(np.abs(curves[one].work - share))),
                strategies=(one, other),
                work_share=share,
                loss_s=loss_s(share),
            )
        )
    if not found:
        raise PlanError("there is no strategy to choose from", hint="load the model again")
    return min(found, key=lambda decision: decision.loss_s)
