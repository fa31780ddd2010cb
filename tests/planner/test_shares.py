"""A farm gives its members as many frames as they, and the source, can take."""

import itertools
import random

import pytest

from edgekit.planner.shares import Member, member_rates


def member(interval_s: float, *, source_s: float = 0.0, sending_s: float = 0.0) -> Member:
    return Member(interval_s=interval_s, source_s=source_s, sending_s=sending_s)


def test_members_that_share_nothing_work_at_their_own_rates() -> None:
    """Twice as fast, twice the frames."""
    assert member_rates([member(0.1), member(0.05)]) == [10.0, 20.0]


def test_a_way_out_that_is_too_slow_serves_whom_it_costs_least() -> None:
    """One second of sending: five frames at 0.1 s, which leaves half a second for frames of 0.2."""
    rates = member_rates([member(0.2, sending_s=0.1), member(0.1, sending_s=0.2)])
    assert rates == pytest.approx([5.0, 2.5])


def test_encoding_for_others_takes_time_from_the_sources_own_shard() -> None:
    """The source would lose more frames than it could hand out."""
    own, other = member(0.01, source_s=0.01), member(0.02, source_s=0.02)
    assert member_rates([own, other]) == pytest.approx([100.0, 0.0])


@pytest.mark.parametrize("seed", range(40))
def test_no_other_rates_give_more_frames(seed: int) -> None:
    """Against a grid of rates."""
    rng = random.Random(seed)
    members = [
        member(i, source_s=rng.choice([0, 0.3, 1.0]) * i, sending_s=rng.choice([0, 0.5, 1.0]) * i)
        for i in (rng.uniform(0.01, 0.1) for _ in range(rng.randint(1, 3)))
    ]
    rates = member_rates(members)
    assert fits(members, rates)
    steps = [[share / 12 / one.interval_s for share in range(13)] for one in members]
    grid = max(sum(some) for some in itertools.product(*steps) if fits(members, some))
    assert sum(rates) >= grid * (1 - 1e-9)


def fits(members: list[Member], rates: object) -> bool:
    pairs = list(zip(members, rates, strict=True))  # type: ignore[call-overload]
    return (
        all(-1e-9 <= rate * one.interval_s <= 1 + 1e-9 for one, rate in pairs)
        and sum(one.source_s * rate for one, rate in pairs) <= 1 + 1e-9
        and sum(one.sending_s * rate for one, rate in pairs) <= 1 + 1e-9
    )
