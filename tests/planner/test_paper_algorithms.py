"""The paper's own planner: its latency formula, its descent, its grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import PlanError
from edgekit.planner.cuts import legal_cuts
from edgekit.planner.paper_algorithms import Curve, MemoryRoofs, curve_of, decide, descend, total_s
from tests.graphs import random_workloads, workload

ROOFS = MemoryRoofs(near_bytes_per_s=1e9, far_bytes_per_s=4e9, link_bytes_per_s=1e7)
CHAIN = workload(
    [("Gelu", [f"t{i - 1}" if i else "image"], [f"t{i}"]) for i in range(4)],
    outputs=["t3"],
    flop={"t0": 100, "t1": 200, "t2": 300, "t3": 400},
    elements={"image": 10, "t0": 20, "t1": 5, "t2": 40, "t3": 1},
)


def curve(*, nbytes: tuple[float, ...] = (4e6, 1e6, 2e6), traffic_bytes: int = 10**7) -> Curve:
    return Curve(
        work=np.array([0.2, 0.5, 0.8]),
        traffic=np.array([0.4, 0.7, 0.9]),
        nbytes=np.array(nbytes),
        work_flop=10**9,
        traffic_bytes=traffic_bytes,
    )


def test_a_curve_counts_work_traffic_and_bytes_above_each_cut() -> None:
    """By hand: traffic is what is read and written, 4 bytes an element, no weights here."""
    found = curve_of(CHAIN, legal_cuts(CHAIN).cuts)
    assert found.work.tolist() == [0.1, 0.3, 0.6]
    total = 4 * (30 + 25 + 45 + 41)
    assert found.traffic_bytes == total
    assert found.traffic.tolist() == [4 * 30 / total, 4 * 55 / total, 4 * 100 / total]
    assert found.nbytes.tolist() == [80, 20, 160]


@settings(max_examples=40, deadline=None)
@given(random_workloads(max_ops=8))
def test_both_intensities_are_those_of_the_sub_models(model: object) -> None:
    """I_1 = (lambda_C / lambda_M) I_0 is nothing but work over traffic of the first sub-model."""
    cuts = legal_cuts(model, max_tensors=1).cuts  # type: ignore[arg-type]
    if not cuts:
        return
    found = curve_of(model, cuts)  # type: ignore[arg-type]
    above, below = found.intensities
    work = found.work * found.work_flop
    traffic = found.traffic * found.traffic_bytes
    assert above * traffic == pytest.approx(work)
    assert below * (found.traffic_bytes - traffic) == pytest.approx(found.work_flop - work)


def test_the_paper_sees_memory_roofs_only() -> None:
    """Its T = lambda N / (I beta) is the sub-model's bytes over the device's bandwidth."""
    one = curve()
    want = 0.7 * 1e7 / 1e9 + 0.3 * 1e7 / 4e9 + 1e6 / 1e7
    assert total_s(0.5, one, one, ROOFS) == pytest.approx(want)


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_descent_finds_the_bottom_of_a_bowl(bottom: float, start: float) -> None:
    """With one minimum, wherever it starts."""
    assert descend(lambda share: (share - bottom) ** 2, start) == pytest.approx(bottom, abs=2e-3)


def test_descent_stays_in_the_nearest_valley() -> None:
    """It is a gradient descent: a better valley behind a hill is not seen."""

    def hills(share: float) -> float:
        return min((share - 0.1) ** 2, (share - 0.9) ** 2 - 0.01)

    assert descend(hills, 0.05) == pytest.approx(0.1, abs=5e-3)


def test_the_decision_is_snapped_to_the_nearest_cut() -> None:
    """With a slow link and one thin cut, that cut; lambda itself may lie between cuts."""
    decision = decide({"S3": curve()}, {"S3": 0.0}, ROOFS, lambda1_s_per_pp=0.0)
    assert decision.cut == 1
    assert decision.work_share == pytest.approx(0.5, abs=5e-3)


def test_the_grid_over_strategies_weighs_accuracy_by_lambda_1() -> None:
    """The strategy of less traffic, until its accuracy costs more seconds than it saves."""
    curves = {"S3": curve(), "S3+Ss": curve(traffic_bytes=2 * 10**7)}
    drops_pp = {"S3": 1.0, "S3+Ss": 0.0}
    free = decide(curves, drops_pp, ROOFS, lambda1_s_per_pp=0.0)
    dear = decide(curves, drops_pp, ROOFS, lambda1_s_per_pp=10.0)
    assert free.strategies == ("S3", "S3")
    assert dear.strategies == ("S3+Ss", "S3+Ss")


def test_a_model_without_cuts_is_refused() -> None:
    """There is nothing for two devices to share."""
    with pytest.raises(PlanError, match="nothing to cut"):
        curve_of(CHAIN, [])
