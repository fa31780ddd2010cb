"""The page says what is wrong: the cause, in one sentence, with what to try."""

import pytest
from canned import CONNECTED, FLEET, PLAN, counts, healthy_view, report, status, telemetry, tell

from edgekit.dashboard.alerts import Alert, Link, find_alerts, say_duration
from edgekit.dashboard.state import FleetView


def _alerts(view: FleetView, now_s: float = 10.0, link: Link = CONNECTED) -> tuple[Alert, ...]:
    return find_alerts(view, PLAN, link, now_s)


def _only(view: FleetView, now_s: float = 10.0, link: Link = CONNECTED) -> Alert:
    alerts = _alerts(view, now_s, link)
    assert len(alerts) == 1, alerts
    return alerts[0]


def test_a_healthy_fleet_has_no_alert() -> None:
    """Nobody reads a page that always cries."""
    assert _alerts(healthy_view()) == ()


def test_a_killed_agent_is_named_with_its_time_and_the_command_to_start_it() -> None:
    """The broker publishes the last will; the page says it in one sentence."""
    view = healthy_view()
    tell(view, status("edge-b", "offline", problem="edge-b vanished without a good-bye"), 10.0)
    tell(
        view,
        telemetry(sequence=2, hop_state="peer closed", problems=("hop to edge-b: peer closed",)),
        12.5,
    )
    alert = _only(view, 13.0)
    assert alert.tone == "red" and alert.subject == "edge-b"
    assert alert.what.startswith("edge-b is offline for 3 s (vanished without a good-bye)")
    assert "shard 2 of 2" in alert.sentence
    assert "edgekit agent --config" in alert.sentence and "\n" not in alert.sentence


def test_a_stopped_agent_is_told_apart_from_a_killed_one() -> None:
    """A clean good-bye has no problem in it."""
    view = healthy_view()
    tell(view, status("edge-b", "offline"), 10.0)
    assert "its agent was stopped" in _only(view, 11.0).what


def test_a_device_that_was_gone_when_we_came_gets_no_invented_time() -> None:
    """Retained: nobody knows since when."""
    view = FleetView(FLEET)
    tell(view, status("edge-a", "offline"), 1.0)
    tell(view, status("edge-b", "offline"), 1.0)
    assert all(" for " not in alert.what for alert in _alerts(view))


def test_a_device_outside_the_plan_may_go() -> None:
    """It takes no part in any answer."""
    view = healthy_view()
    tell(view, status("laptop", "serving"), 1.0)
    tell(view, status("laptop", "offline"), 2.0)
    assert _alerts(view) == ()


def test_a_device_of_the_plan_that_was_never_heard_is_missed() -> None:
    """After a moment in which retained messages arrive."""
    view = FleetView(FLEET)
    tell(view, status("edge-a"), 1.0)
    tell(view, telemetry("edge-a"), 10.0)
    assert "edge-b belongs to the plan" in _only(view).what
    just_connected = Link(url="mqtt://b", state="connected", since_s=9.5)
    assert _alerts(view, 10.0, just_connected) == ()


@pytest.mark.parametrize(("silence_s", "tone"), [(1.4, None), (1.7, "amber"), (6.0, "red")])
def test_silence_is_noticed_although_the_status_says_serving(silence_s: float, tone: str) -> None:
    """A frozen process keeps its connection for a while."""
    view = healthy_view()
    now_s = 10.0 + silence_s
    tell(view, telemetry(sequence=2, hop_state="connected"), now_s)
    tell(view, report(200), now_s)
    tones = [alert.tone for alert in _alerts(view, now_s) if alert.subject == "edge-b"]
    assert tones == ([tone] if tone else [])


def test_a_lost_broker_is_the_only_alert() -> None:
    """Everybody is silent then; the cause is ours."""
    link = Link(url="mqtt://broker:1883", state="connection refused", since_s=12.0)
    alert = _only(healthy_view(), 99.0, link)
    assert alert.subject == "broker" and "mqtt://broker:1883 for 87 s" in alert.what
    assert "connection refused" in alert.what


def test_after_the_broker_is_back_devices_get_time_to_speak() -> None:
    """Their last words are old because ours was the broken connection."""
    assert _alerts(healthy_view(), 99.0, Link(url="b", state="connected", since_s=98.5)) == ()


def test_a_broken_hop_between_living_devices_is_told_once() -> None:
    """The same words come as hop state and as problem."""
    view = healthy_view()
    said = "connection refused by 10.0.0.7:40000"
    tell(
        view,
        telemetry(sequence=2, hop_state=said, problems=(f"hop to edge-b: {said}",)),
        10.0,
    )
    alert = _only(view)
    assert alert.tone == "red" and "edge-a → edge-b is down: connection refused" in alert.what


def test_problems_are_passed_on_in_the_words_of_the_device() -> None:
    """It knows best."""
    view = healthy_view()
    tell(
        view,
        telemetry(sequence=2, hop_state="connected", problems=("source: /dev/video0 is busy",)),
        10.0,
    )
    alert = _only(view)
    assert alert.tone == "amber" and alert.what == "edge-a: source: /dev/video0 is busy"


def test_a_failed_device_is_red() -> None:
    """It serves nothing."""
    view = healthy_view()
    tell(view, status("edge-b", "failed", problem="shard-1.onnx: unknown operator Foo"), 10.0)
    alert = _only(view)
    assert alert.tone == "red" and "unknown operator Foo" in alert.what


def test_answers_that_stay_away_are_noticed() -> None:
    """All say they are well, and nothing comes out."""
    view = healthy_view()
    for second in range(11, 16):
        tell(view, telemetry("edge-b", sequence=second), second)
        stream = counts(103, 100, {"superseded": 3})
        tell(view, telemetry(sequence=second, hop_state="connected", stream=stream), second)
    alert = _only(view, 15.0)
    assert alert.tone == "amber" and "no answer for 5 s" in alert.what


def test_degraded_answers_are_said() -> None:
    """They look like answers."""
    view = healthy_view()
    base = report(500)
    fields = {name: getattr(base, name) for name in base.__struct_fields__}
    tell(view, type(base)(**{**fields, "degraded": True}), 10.0)
    assert "a part of the model only" in _only(view).what


def test_long_winded_devices_are_cut_short() -> None:
    """A page of one alert is no page."""
    view = healthy_view()
    tell(view, telemetry(sequence=2, hop_state="x" * 5000, problems=("y" * 5000,)), 10.0)
    assert all(len(alert.what) < 400 for alert in _alerts(view))


def test_a_source_that_has_ended_needs_no_answers() -> None:
    """A clip is over when it is over."""
    view = healthy_view()
    tell(view, telemetry("edge-b", sequence=2), 60.0)
    stream = counts(103, 101, {"superseded": 2}, ended=True)
    tell(view, telemetry(sequence=2, hop_state="connected", stream=stream), 60.0)
    assert _alerts(view, 60.0) == ()


def test_red_comes_before_amber() -> None:
    """The first line is the one people read."""
    view = healthy_view()
    tell(view, telemetry(sequence=2, hop_state="connected", problems=("recording: disk full",)), 10)
    tell(view, status("edge-b", "offline"), 10.0)
    assert [alert.tone for alert in _alerts(view)] == ["red", "amber"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0 s"), (3.9, "3 s"), (240, "4 min"), (7200, "2 h"), (1e300, "277777 h")],
)
def test_durations_are_short(seconds: float, said: str) -> None:
    """Read at a glance."""
    assert say_duration(seconds) == said
