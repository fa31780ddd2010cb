"""The fold takes in anything that may come from a broker and never falls over."""

import pytest
from canned import (
    DEPLOYMENT,
    FLEET,
    JPEG,
    TOPICS,
    announce,
    counts,
    edited,
    healthy_view,
    preview,
    report,
    status,
    telemetry,
    tell,
)
from hypothesis import given
from hypothesis import strategies as st

from edgekit.dashboard.state import FleetView
from edgekit.spec.base import to_json


def test_the_last_word_of_every_device_is_kept() -> None:
    """Status and telemetry side by side."""
    view = FleetView(FLEET)
    tell(view, status("edge-a", "idle"), 1.0)
    tell(view, status("edge-a", "serving"), 2.0)
    tell(view, telemetry("edge-a", stream=counts(3, 2, {}, 1)), 3.0)
    device = view.devices["edge-a"]
    assert device.status is not None and device.status.state == "serving"
    assert device.state_since_s == 2.0 and device.telemetry_heard_s == 3.0
    assert view.streams["main"].accounts.total().captured_count == 3


def test_a_state_that_was_retained_has_no_known_beginning() -> None:
    """The page must not say "offline for 2 s" of a device that has been gone for a week."""
    view = FleetView(FLEET)
    tell(view, status("edge-a", "offline"), 5.0)
    assert view.devices["edge-a"].is_offline and view.devices["edge-a"].state_since_s is None


def test_telemetry_of_a_run_that_is_over_is_ignored() -> None:
    """A message that was queued somewhere must not bring a dead run back."""
    view = FleetView(FLEET)
    tell(view, telemetry(run="old", sequence=7, stream=counts(50, 47, {}, 3)), 1.0)
    tell(view, telemetry(run="new", sequence=1, stream=counts(2, 1, {}, 1)), 2.0)
    tell(view, telemetry(run="old", sequence=8, stream=counts(60, 57, {}, 3)), 3.0)
    said = view.devices["edge-a"].telemetry
    assert said is not None and said.run == "new"
    assert view.streams["main"].accounts.total().captured_count == 52


def test_a_cleared_status_removes_the_device() -> None:
    """An empty retained message is how a device leaves the fleet."""
    view = FleetView(FLEET)
    tell(view, status(), 1.0)
    view.apply(TOPICS.status("edge-a"), b"", 2.0)
    assert view.devices == {} and view.malformed_count == 0


def test_a_withdrawn_deployment_is_forgotten() -> None:
    """`edgekit demo` clears its bundle when it ends."""
    view = FleetView(FLEET)
    assert announce(view) == DEPLOYMENT and DEPLOYMENT in view.deployments
    view.apply(TOPICS.deployment(DEPLOYMENT), b"", 1.0)
    assert view.deployments == {}


def test_pictures_are_numbered_by_the_viewer() -> None:
    """Frame numbers begin again when the source does; serial numbers do not."""
    view = FleetView(FLEET)
    for frame in (7, 0):
        tell(view, preview(frame), 1.0)
    stream = view.streams["main"]
    assert stream.preview_serial == 2 and stream.preview_payload == to_json(preview(0), indent=0)


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"null", b'{"device": "edge-a"}', b"\xff"])
@pytest.mark.parametrize(
    "topic", [TOPICS.telemetry("edge-a"), TOPICS.detections("main"), TOPICS.preview("main")]
)
def test_what_cannot_be_read_is_counted_and_named(topic: str, payload: bytes) -> None:
    """Never silent, never fatal."""
    view = FleetView(FLEET)
    view.apply(topic, payload, 1.0)
    assert view.malformed_count == 1 and view.malformed_last.count(topic) == 1
    assert len(view.malformed_last) <= 300


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (TOPICS.status("edge-b"), to_json(status("edge-a"))),
        (TOPICS.telemetry("edge-b"), to_json(telemetry("edge-a"))),
        (TOPICS.detections("other"), to_json(report(), indent=0)),
        (TOPICS.preview("other"), to_json(preview())),
    ],
)
def test_nobody_may_speak_for_another(topic: str, payload: bytes) -> None:
    """Access rules of the broker are by topic; the words inside must agree with it."""
    view = FleetView(FLEET)
    view.apply(topic, payload, 1.0)
    assert view.malformed_count == 1 and "speaks of" in view.malformed_last
    assert view.devices == {} and view.streams == {}


def test_accounts_that_do_not_add_up_are_refused() -> None:
    """They would break the promise for the whole stream."""
    view = FleetView(FLEET)
    tell(view, telemetry(stream=counts(10, 5, {}, 1)), 1.0)
    assert view.malformed_count == 1 and "do not add up" in view.malformed_last
    assert view.streams == {}


@pytest.mark.parametrize(
    "bad",
    [
        preview(jpeg=b""),
        preview(jpeg=b"<svg onload=alert(1)>"),
        preview(width_px=0),
        preview(height_px=-1),
        preview(width_px=10**9),
    ],
)
def test_a_preview_that_is_no_picture_reaches_no_browser(bad) -> None:
    """What is passed on to browsers must be what it says."""
    view = FleetView(FLEET)
    tell(view, bad, 1.0)
    assert view.malformed_count == 1 and view.streams == {}


def test_other_fleets_and_other_topics_are_not_ours() -> None:
    """They are neither shown nor counted as errors."""
    view = FleetView(FLEET)
    for topic in (
        "edgekit/other/device/a/status",
        "edgekit/yard/blob/x/0",
        "x",
        "",
        "edgekit/yard",
    ):
        view.apply(topic, b"garbage", 1.0)
    assert view.malformed_count == 0 and view.devices == {}


def test_a_flood_of_invented_names_is_refused() -> None:
    """Memory is bounded, and the refusals are counted."""
    view = FleetView(FLEET)
    for index in range(300):
        tell(view, status(f"ghost-{index}"), 1.0)
        tell(view, report(stream=f"ghost-{index}"), 1.0)
    assert len(view.devices) == 256 and len(view.streams) == 64
    assert view.malformed_count == 300 - 256 + 300 - 64


@given(
    st.sampled_from(
        (
            TOPICS.status("edge-a"),
            TOPICS.telemetry("edge-a"),
            TOPICS.detections("main"),
            TOPICS.preview("main"),
            TOPICS.deployment(DEPLOYMENT),
        )
    ),
    st.one_of(
        st.binary(max_size=60),
        st.builds(lambda cut: to_json(telemetry(stream=counts(3, 3)))[:cut], st.integers(0, 400)),
        st.builds(
            lambda name, value: edited(telemetry(stream=counts(3, 3)), **{name: value}),
            st.sampled_from(["run", "sequence", "epoch", "stage_ms", "rss_bytes", "hop", "stream"]),
            st.one_of(st.none(), st.integers(), st.floats(), st.text(), st.lists(st.integers())),
        ),
    ),
)
def test_no_payload_ends_the_view(topic: str, payload: bytes) -> None:
    """Fuzz: after anything at all, the next good message is taken in."""
    view = healthy_view()
    view.apply(topic, payload, 11.0)
    tell(view, report(1000), 12.0)
    last = view.streams["main"].answers.last
    assert last is not None and last.frame == 1000
    assert JPEG.startswith(b"\xff\xd8")
