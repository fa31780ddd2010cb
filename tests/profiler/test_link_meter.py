"""The watched link of an agent, over real sockets: who is measured, and how it ends."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgekit.fleet.certificates import FleetAuthority
from edgekit.profiler.link_meter import WatchedLink
from edgekit.spec.messages import LinkTelemetry
from edgekit.transport.probe_responder import ProbeResponder
from edgekit.transport.tls import tls_contexts

pytestmark = pytest.mark.integration


@pytest.fixture
def meter() -> Iterator[WatchedLink]:
    made = WatchedLink(name="here", period_s=0.1)
    yield made
    made.unwatch()


@pytest.fixture
def there() -> Iterator[ProbeResponder]:
    made = ProbeResponder("127.0.0.1", 0, name="there")
    yield made
    made.close()


def watch(meter: WatchedLink, target: str, responder: ProbeResponder) -> None:
    meter.watch(target, *responder.address, carried_bytes=lambda: 0)


def wait_for(meter: WatchedLink, is_so: Callable[[LinkTelemetry], bool]) -> LinkTelemetry:
    for _ in range(1000):
        known = meter.latest()
        if known is not None and is_so(known):
            return known
        time.sleep(0.02)
    raise AssertionError(f"it never came true: {meter.latest()}")


def test_a_link_is_measured_as_soon_as_it_is_watched(
    meter: WatchedLink, there: ProbeResponder
) -> None:
    """Round trips at least; on a loopback no sender is as fast as the link."""
    assert meter.latest() is None
    watch(meter, "there", there)
    known = wait_for(meter, lambda one: one.rtt_p50_s is not None)
    assert known.target == "there" and known.loss == 0.0 and known.age_s is not None
    meter.unwatch()
    assert meter.latest() is None


def test_a_device_that_came_back_elsewhere_is_the_same_link(
    meter: WatchedLink, there: ProbeResponder
) -> None:
    """It died, which is said, and what was known is kept; its next life has another port."""
    watch(meter, "there", there)
    wait_for(meter, lambda one: one.rtt_p50_s is not None)
    there.close()
    lost = wait_for(meter, lambda one: bool(one.problem))
    assert lost.rtt_p50_s is not None
    again = ProbeResponder("127.0.0.1", 0, name="there")
    try:
        watch(meter, "there", again)
        wait_for(meter, lambda one: not one.problem)
        assert again.counters.sessions > 0
    finally:
        again.close()


def test_an_address_that_now_belongs_to_another_device_is_not_measured(
    meter: WatchedLink, there: ProbeResponder
) -> None:
    """Its numbers would be those of another link."""
    watch(meter, "edge-b", there)
    known = wait_for(meter, lambda one: bool(one.problem))
    assert "is there, not edge-b" in known.problem
    assert known.rtt_p50_s is None and known.target == "edge-b"


def test_another_device_is_another_link(meter: WatchedLink, there: ProbeResponder) -> None:
    """Nothing of the last one is left over."""
    watch(meter, "there", there)
    wait_for(meter, lambda one: one.rtt_p50_s is not None)
    there.close()
    watch(meter, "edge-c", there)
    known = wait_for(meter, lambda one: bool(one.problem))
    assert known.target == "edge-c" and known.rtt_p50_s is None


def test_with_certificates_only_devices_of_the_fleet_are_answered_and_measured(
    tmp_path: Path,
) -> None:
    """The same certificates as the hop: a stranger learns nothing, and is said to be one."""
    authority = FleetAuthority("f")
    here, there = (authority.enrol(name, tmp_path / name) for name in ("here", "there"))
    contexts = [tls_contexts(one.certificate, one.key, one.authority) for one in (here, there)]
    responder = ProbeResponder("127.0.0.1", 0, name="there", tls=contexts[1][0])
    known_to_us = WatchedLink(name="here", period_s=0.1, tls=contexts[0][1])
    stranger = WatchedLink(name="here", period_s=0.1)
    liar = WatchedLink(name="there-too", period_s=0.1, tls=contexts[0][1])
    try:
        watch(known_to_us, "there", responder)
        wait_for(known_to_us, lambda one: one.rtt_p50_s is not None)
        for other in (stranger, liar):
            watch(other, "there", responder)
            known = wait_for(other, lambda one: bool(one.problem))
            assert known.rtt_p50_s is None
    finally:
        for meter in (known_to_us, stranger, liar):
            meter.unwatch()
        responder.close()
