"""What the page shows at one moment."""

import pytest
from canned import (
    CONNECTED,
    DEPLOYMENT,
    FLEET,
    PLAN,
    TOPICS,
    announce,
    counts,
    healthy_view,
    report,
    status,
    telemetry,
    tell,
)
from fake_fleet import CROSSING, IMAGE, OUTPUT
from hypothesis import given
from hypothesis import strategies as st

from edgekit.dashboard.alerts import Link
from edgekit.dashboard.page.words import say_count, say_ms
from edgekit.dashboard.snapshot import Snapshot, current_deployment, take_snapshot
from edgekit.dashboard.state import FleetView
from edgekit.spec.messages import HopTime, StageTime
from edgekit.spec.plan import Cut, Placement, Plan


def _snapshot(view: FleetView, now_s: float = 10.0, link: Link = CONNECTED) -> Snapshot:
    return take_snapshot(view, link, now_s)


def test_a_healthy_fleet_is_live_in_one_sentence() -> None:
    """Green, with the rate."""
    snapshot = _snapshot(healthy_view())
    assert (snapshot.tone, snapshot.word) == ("green", "Live")
    assert snapshot.sentence == "2 devices serve yard.onnx with 20.0 answers/s"


def test_the_stream_shows_rate_latency_age_and_accounts() -> None:
    """The big numbers."""
    stream = _snapshot(healthy_view()).stream("main")
    assert stream is not None and stream.latency_ms is not None and stream.age_s is not None
    assert stream.answers_per_s == pytest.approx(20.0, rel=0.02)
    assert stream.latency_ms.p50 == 50.0 and stream.age_s == pytest.approx(0.1)
    accounts = stream.accounts
    assert (accounts.captured_count, accounts.answered_count) == (103, 100)
    assert accounts.dropped == {"superseded": 2} and accounts.in_flight_count == 1


def test_the_timeline_follows_the_frame() -> None:
    """Stage, hop, stage, and what neither accounts for; together the latency."""
    stream = _snapshot(healthy_view()).stream("main")
    assert stream is not None and stream.timeline is not None
    parts = stream.timeline.parts
    assert [part.kind for part in parts] == ["stage", "hop", "stage", "rest"]
    assert [part.title for part in parts] == ["edge-a", "edge-a → edge-b", "edge-b", "waiting"]
    assert [part.ms for part in parts] == [20.0, 5.0, 15.0, 10.0]
    assert [part.color for part in parts[:3]] == [0, 0, 1]
    assert parts[0].detail == "shard 1 of 2" and parts[1].detail == "519.2 kB"
    assert stream.timeline.total_ms == pytest.approx(50.0)
    assert stream.timeline.slowest is parts[0]


def test_the_strip_is_as_long_as_the_work_and_names_what_crosses() -> None:
    """Segments by share; the cut with its tensors and bytes."""
    strip = _snapshot(healthy_view()).strip
    assert strip is not None
    assert [shard.device for shard in strip.shards] == ["edge-a", "edge-b"]
    assert strip.shards[0].share == pytest.approx(64 / 108)
    assert sum(shard.share for shard in strip.shards) == pytest.approx(1.0)
    (cut,) = strip.cuts
    assert cut.at_share == pytest.approx(64 / 108) and cut.crossing == "519.2 kB"
    assert cut.tensors == tuple(map(str, CROSSING))
    assert strip.rule == "auto" and strip.deployment == DEPLOYMENT


def test_an_unsplit_model_has_no_cut() -> None:
    """One device runs it all."""
    view = FleetView(FLEET)
    announce(view, _plan("edge-a"))
    strip = _snapshot(view).strip
    assert strip is not None and strip.cuts == () and strip.shards[0].share == 1.0


def test_a_model_without_counted_work_is_drawn_in_equal_parts() -> None:
    """No division by zero."""
    view = FleetView(FLEET)
    announce(view, _plan("a", "b", "c", work_flop=0))
    strip = _snapshot(view).strip
    assert strip is not None and [shard.share for shard in strip.shards] == [1 / 3] * 3


def test_segments_of_devices_that_do_not_serve_are_dim() -> None:
    """One look tells which half is missing."""
    view = healthy_view()
    tell(view, status("edge-b", "offline"), 10.0)
    strip = _snapshot(view).strip
    assert strip is not None and [shard.is_serving for shard in strip.shards] == [True, False]


def test_devices_come_in_the_order_of_the_plan_then_by_name() -> None:
    """As the frame visits them."""
    view = healthy_view()
    tell(view, status("camera-9", "idle"), 9.5)
    tell(view, status("aaa", "offline"), 9.5)
    rows = _snapshot(view).devices
    assert [row.name for row in rows] == ["edge-a", "edge-b", "aaa", "camera-9"]
    assert [row.tone for row in rows] == ["green", "green", "grey", "green"]
    assert rows[0].role == "shard 1 of 2" and rows[2].role == "no shard"


def test_a_device_row_gives_version_memory_and_load() -> None:
    """What an operator looks for first."""
    view = healthy_view()
    tell(view, telemetry("edge-b", sequence=2, rss_bytes=84_000_000, utilization=0.36), 10.0)
    facts = dict(_snapshot(view).devices[1].facts)
    assert facts == {"agent": "0.1.0", "memory": "84.0 MB", "busy": "36 %"}


def test_a_device_that_downloads_says_how_far_it_is() -> None:
    """Minutes on a slow link."""
    view = healthy_view()
    tell(view, status("edge-b", "preparing"), 10.0)
    told = telemetry(
        "edge-b",
        sequence=2,
        state="preparing",
        shard=None,
        download_done_bytes=500,
        download_total_bytes=2000,
    )
    tell(view, told, 10.0)
    snapshot = _snapshot(view)
    assert dict(snapshot.devices[1].facts)["download"] == "25 %"
    assert snapshot.word == "Preparing" and "edge-b" in snapshot.sentence


def test_the_deployment_shown_is_the_one_that_is_served() -> None:
    """Retained announcements of older bundles may still lie on the broker."""
    view = healthy_view()
    announce(view, _plan("edge-a"), now_s=9.9)
    assert len(view.deployments) == 2 and current_deployment(view) == DEPLOYMENT


def test_before_anything_is_served_the_newest_announcement_is_shown() -> None:
    """While devices prepare."""
    view = FleetView(FLEET)
    announce(view, PLAN, now_s=1.0)
    newest = announce(view, _plan("edge-a"), now_s=2.0)
    assert current_deployment(view) == newest


def test_a_plan_that_names_unknown_devices_is_shown_all_the_same() -> None:
    """They appear as never heard."""
    view = FleetView(FLEET)
    announce(view)
    snapshot = _snapshot(view)
    assert [row.state for row in snapshot.devices] == ["never heard", "never heard"]
    assert snapshot.tone == "red"


@pytest.mark.parametrize(
    ("states", "word", "hint"),
    [
        ((), "Waiting", "edgekit agent --config"),
        (("offline",), "Waiting", "edgekit agent --config"),
        (("idle",), "Idle", "edgekit deploy"),
        (("idle", "idle"), "Idle", "2 devices are online"),
    ],
)
def test_a_fleet_that_does_nothing_says_what_to_do(states, word: str, hint: str) -> None:
    """The first minute of a newcomer."""
    view = FleetView(FLEET)
    for index, state in enumerate(states):
        tell(view, status(f"edge-{index}", state), 9.5)
    snapshot = _snapshot(view)
    assert (snapshot.tone, snapshot.word) == ("amber", word) and hint in snapshot.sentence


def test_the_end_of_the_source_is_good_news() -> None:
    """With the number of frames accounted for."""
    view = healthy_view()
    stream = counts(103, 101, {"superseded": 2}, ended=True)
    tell(view, telemetry(sequence=2, hop_state="connected", stream=stream), 10.0)
    snapshot = _snapshot(view)
    assert (snapshot.tone, snapshot.word) == (
        "green",
        "Ended",
    ) and "103 frames" in snapshot.sentence


def test_unreadable_messages_are_shown() -> None:
    """Never silent."""
    view = healthy_view()
    view.apply(TOPICS.status("edge-a"), b"{", 10.0)
    snapshot = _snapshot(view)
    assert snapshot.malformed_count == 1 and "edge-a/status" in snapshot.malformed_last
    assert snapshot.word == "Live"


_ANY = st.floats(allow_nan=False, allow_infinity=False)


@given(ms=_ANY, age_ms=_ANY, share=_ANY, nbytes=st.integers(-(2**63), 2**63 - 1))
def test_no_number_a_device_may_send_breaks_the_page(
    ms: float, age_ms: float, share: float, nbytes: int
) -> None:
    """Everything that is printed can be printed."""
    view = healthy_view()
    hop = HopTime(source="edge-a", target="edge-b", bytes=nbytes, ms=ms)
    stage = StageTime(device="edge-a", shard=nbytes, ms=ms)
    base = report(500, age_ms=age_ms)
    fields = {name: getattr(base, name) for name in base.__struct_fields__}
    tell(view, type(base)(**{**fields, "stages": (stage,), "hops": (hop,)}), 10.0)
    told = telemetry("edge-b", sequence=2, utilization=share, rss_bytes=nbytes, stage_ms=ms)
    tell(view, told, 10.0)
    stream = _snapshot(view).stream("main")
    assert stream is not None and stream.timeline is not None
    assert all(part.ms >= 0 for part in stream.timeline.parts)
    assert all(say_ms(part.ms) for part in stream.timeline.parts)


@pytest.mark.parametrize(
    ("value", "said"), [(4.271, "4.27"), (61.34, "61.3"), (1240.4, "1240"), (1e300, "1000000000")]
)
def test_milliseconds_keep_three_digits(value: float, said: str) -> None:
    """Enough to compare, not more than is known."""
    assert say_ms(value) == said


def test_counts_are_grouped() -> None:
    """A day of frames has seven digits."""
    assert say_count(2_592_000) == "2\u202f592\u202f000"


def _plan(*devices: str, work_flop: int = 1000) -> Plan:
    placements = tuple(
        Placement(
            device=device,
            shard=f"shard-{index}.onnx",
            inputs=(IMAGE,),
            outputs=(OUTPUT,),
            work_flop=work_flop,
            weight_bytes=10,
        )
        for index, device in enumerate(devices)
    )
    cut = Cut(tensors=CROSSING, work_flop_before=0, op_count_before=1)
    return Plan(
        model="other.onnx",
        model_sha256="1" * 64,
        rule="given",
        placements=placements,
        cuts=(cut,) * (len(devices) - 1),
        model_inputs=(IMAGE,),
        model_outputs=(OUTPUT,),
    )
