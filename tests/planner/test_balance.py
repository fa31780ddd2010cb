"""Choosing cuts: the automatic rule against brute force, and the refusals of explicit ones."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import PlanError
from edgekit.planner.balance import choose_cuts, hop_s, stage_s
from edgekit.planner.cuts import legal_cuts, partition
from edgekit.spec.fleet import Device, Fleet, Link, local_fleet
from edgekit.spec.plan import Cut
from edgekit.spec.workload import Workload
from tests.graphs import random_workloads, workload

CHAIN = workload(
    [("Gelu", [f"t{i - 1}" if i else "image"], [f"t{i}"]) for i in range(8)],
    outputs=["t7"],
    flop={f"t{i}": 10_000_000 for i in range(8)},
    elements={"t3": 5000, "t4": 1000},
)


def slowest_s(model: Workload, fleet: Fleet, cuts: tuple[Cut, ...]) -> float:
    """The definition, without any cleverness."""
    shards = partition(model, cuts)
    times = [
        stage_s(sum(model.ops[op].work_flop for op in ops), device.relative_speed)
        for ops, device in zip(shards, fleet.device, strict=True)
    ]
    return max([*times, *(hop_s(fleet, border, cut.nbytes) for border, cut in enumerate(cuts))])


def all_chains(model: Workload, borders: int) -> list[tuple[Cut, ...]]:
    chains = []
    for cuts in itertools.permutations(legal_cuts(model).cuts, borders):
        try:
            partition(model, cuts)
        except PlanError:
            continue
        chains.append(cuts)
    return chains


@settings(max_examples=60, deadline=None)
@given(
    random_workloads(max_ops=7),
    st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=2, max_size=3),
    st.booleans(),
)
def test_auto_is_within_a_tie_of_the_best_chain_of_cuts(
    model: Workload, speeds: list[float], with_links: bool
) -> None:
    """Against every chain there is: no faster one beyond 1 %, no lighter one among the ties."""
    devices = tuple(Device(name=f"d{i}", relative_speed=speed) for i, speed in enumerate(speeds))
    link = Link(source="d0", target="d1", bandwidth="100 kbit/s", rtt="0 ms")
    fleet = Fleet(name="f", device=devices, link=(link,) if with_links else ())
    chains = all_chains(model, len(devices) - 1)
    if not chains:
        with pytest.raises(PlanError, match="cannot be cut into"):
            choose_cuts(model, fleet, "auto")
        return
    chosen = choose_cuts(model, fleet, "auto")
    best_s = min(slowest_s(model, fleet, cuts) for cuts in chains)
    assert slowest_s(model, fleet, chosen) <= 1.0101 * best_s
    ties = [cuts for cuts in chains if slowest_s(model, fleet, cuts) <= best_s * 1.01]
    assert sum(cut.nbytes for cut in chosen) == min(sum(c.nbytes for c in cuts) for cuts in ties)


def test_auto_gives_a_faster_device_more_work() -> None:
    """Speed 3 against 1: three quarters of the work."""
    fleet = Fleet(
        name="f",
        device=(Device(name="camera"), Device(name="gateway", relative_speed=3.0)),
    )
    (cut,) = choose_cuts(CHAIN, fleet, "auto")
    assert cut.work_flop_before == CHAIN.work_flop // 4


def test_auto_moves_the_cut_away_from_a_slow_hop() -> None:
    """20 kB over 1 Mbit/s would take 160 ms, 4 kB takes 32 ms."""
    slow = Link(source="edge-a", target="edge-b", bandwidth="1 Mbit/s", rtt="1 ms")
    local = local_fleet(2)
    (free,) = choose_cuts(CHAIN, local, "auto")
    fleet = Fleet(name="f", device=local.device, link=(slow,))
    (priced,) = choose_cuts(CHAIN, fleet, "auto")
    assert free.names == ("t3",)
    assert priced.nbytes == 40


def test_auto_never_cuts_inside_a_merged_kernel() -> None:
    """A convolution and the BatchNormalization behind it are one kernel and round as one."""
    model = workload(
        [
            ("Conv", ["image"], ["c"]),
            ("BatchNormalization", ["c"], ["n"]),
            ("Relu", ["n"], ["r"]),
            ("Conv", ["r"], ["end"]),
        ],
        outputs=["end"],
    )
    (cut,) = choose_cuts(model, local_fleet(2), "auto")
    assert cut.names == ("r",)


def test_auto_takes_any_cut_rather_than_none() -> None:
    """A tiny model may have cuts only inside its one kernel."""
    model = workload([("Conv", ["image"], ["c"]), ("Relu", ["c"], ["end"])], outputs=["end"])
    assert choose_cuts(model, local_fleet(2), "auto")[0].names == ("c",)


def test_one_device_needs_no_cut() -> None:
    """Whatever the rule."""
    assert choose_cuts(CHAIN, local_fleet(1), "auto") == ()
    assert choose_cuts(CHAIN, local_fleet(3), "none") == ()


def test_explicit_cuts_are_taken_one_per_border() -> None:
    """In frame order."""
    cuts = choose_cuts(CHAIN, local_fleet(3), ("t1", "t5"))
    assert [cut.names for cut in cuts] == [("t1",), ("t5",)]
    assert choose_cuts(CHAIN, local_fleet(2), "t4")[0].names == ("t4",)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (("t1",), "3 devices have 2 borders between them, but 1 cuts are given"),
        (("t1", "auto"), "mix a rule with tensors"),
        (("t5", "t1"), "does not lie below"),
        (("t1", "nothing"), "no activation 'nothing'"),
        (("t1", ","), "at least one tensor"),
    ],
)
def test_explicit_cuts_that_do_not_fit_are_refused(rule: tuple[str, ...], words: str) -> None:
    """One clear sentence each."""
    with pytest.raises(PlanError, match=words):
        choose_cuts(CHAIN, local_fleet(3), rule)


def test_more_devices_than_operators_are_refused() -> None:
    """Nine devices cannot share eight operators."""
    with pytest.raises(PlanError, match="cannot be cut into 9 shards"):
        choose_cuts(CHAIN, local_fleet(9), "auto")
