"""Which bandwidth a link profile states when two methods were used."""

import pytest
from link_world import bulk, echoes, train

from edgekit.errors import LinkError
from edgekit.profiler.link_verdict import Way, doubts_about, profile_of

FAST, SLOW = 12e6, 8e6


def stated(way: Way) -> float:
    return profile_of(way, echoes(), source="a", target="b").bandwidth_bytes_per_s


def test_trains_stand_where_both_agree() -> None:
    """They are the finer instrument, and their spread is known."""
    way = Way(trains=tuple(map(train, (11.9e6, 12e6, 12.2e6))), bulks=(bulk(11.5e6),))
    profile = profile_of(way, echoes(), source="a", target="b")
    assert profile.bandwidth_bytes_per_s == pytest.approx(12e6)
    assert profile.spread == pytest.approx(0.3 / 12)
    assert (profile.train_bytes_per_s, profile.bulk_bytes_per_s) == pytest.approx((12e6, 11.5e6))
    assert profile.method == "packet trains"
    assert not doubts_about(way, "a to b")


def test_a_slower_transfer_stands_where_no_computer_was_busy() -> None:
    """Loss and other traffic hit a hop too."""
    way = Way(trains=(train(FAST),) * 3, bulks=(bulk(SLOW, waited_s=0.1),))
    assert stated(way) == SLOW
    assert "loss, other traffic" in doubts_about(way, "a to b")[0]


@pytest.mark.parametrize("busy", [{"waited_s": 0.3}, {"sender_waited_s": 0.3}])
def test_trains_stand_where_a_busy_computer_slowed_the_transfer(busy: dict[str, float]) -> None:
    """A profile is about the link, and either end may have been the slow one."""
    way = Way(trains=(train(FAST),) * 3, bulks=(bulk(SLOW, **busy),))
    assert stated(way) == pytest.approx(FAST)
    assert "busy" in doubts_about(way, "a to b")[0]


def test_a_faster_transfer_stands_because_it_has_crossed() -> None:
    way = Way(trains=(train(SLOW),) * 3, bulks=(bulk(FAST),))
    assert stated(way) == FAST
    assert "what has crossed counts" in doubts_about(way, "a to b")[0]


def test_trains_no_faster_than_their_sender_tell_nothing() -> None:
    """100 packets in 10 ms arrived at that pace: the link may be a hundred times faster."""
    slow_sender = train(14e6, sending_s=0.0103)
    assert not slow_sender.is_conclusive
    way = Way(trains=(slow_sender,) * 5, bulks=(bulk(FAST),) * 3)
    assert stated(way) == FAST
    assert "no sender here is as fast" in doubts_about(way, "a to b")[0]


def test_a_train_that_the_network_held_up_tells_the_links_pace() -> None:
    """Where the slow link begins in the sender's own system, both paces are the same."""
    assert train(14e6, sending_s=0.0103, was_held_up=True).is_conclusive


def test_two_telling_trains_are_too_few() -> None:
    way = Way(trains=(train(FAST), train(FAST), train(0.0)), bulks=(bulk(SLOW),))
    assert stated(way) == SLOW


def test_without_any_bandwidth_there_is_no_profile() -> None:
    with pytest.raises(LinkError, match="no bandwidth") as caught:
        profile_of(Way(trains=(train(0.0),), bulks=(bulk(0.0),)), echoes(), source="a", target="b")
    assert "--duration" in caught.value.hint


def test_round_trips_and_loss_come_from_the_echoes() -> None:
    trips = [0.001] * 97 + [0.002, 0.003, 0.050]
    profile = profile_of(
        Way(bulks=(bulk(FAST),)), echoes(*trips, sent_count=125), source="a", target="b"
    )
    assert profile.rtt_p50_s == pytest.approx(0.001)
    assert profile.rtt_p99_s == pytest.approx(0.003)
    assert profile.loss == pytest.approx(0.2)
    assert (profile.source, profile.target) == ("a", "b")
