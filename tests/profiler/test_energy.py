"""Power idle and busy, by whatever meter there is; and never without one."""

import time
from pathlib import Path

import pytest

from edgekit.errors import DeviceError
from edgekit.profiler.energy import ScriptedMeter, find_meter, measure_energy


def test_idle_is_measured_before_and_after_busy() -> None:
    """Its mean and the busy power go into the profile, with the meter's name."""
    calls: list[float] = []
    found = measure_energy(
        ScriptedMeter([2.4, 6.0, 2.6]), lambda: calls.append(0), idle_s=0, busy_s=0.01, settle_s=0
    )
    assert (found.meter, found.idle_w, found.busy_w) == ("scripted", 2.5, 6.0)
    assert calls
    assert found.inference_j(0.1) == pytest.approx(0.35)


def test_the_board_is_at_rest_while_idle_is_measured() -> None:
    """The work runs in the busy window, and before it to warm up."""
    order: list[str] = []

    class Watching(ScriptedMeter):
        def power_during(self, work):  # type: ignore[no-untyped-def]
            order.append("window")
            return super().power_during(work)

    measure_energy(
        Watching([1.0, 2.0, 1.0]),
        lambda: order.append("busy"),
        idle_s=0.01,
        busy_s=0.01,
        settle_s=0.001,
    )
    assert order[0] == "window"
    assert order[1] == "busy"
    assert order[-1] == "window"
    assert order.count("window") == 3


@pytest.mark.parametrize("powers_w", [[4.0, 4.0, 4.0], [4.0, 4.03, 4.0], [3.0, 5.0, 6.0]])
def test_a_meter_that_sees_no_difference_is_refused(powers_w: list[float]) -> None:
    """Then it measures something else, or the board was not idle: its idle windows differ."""
    with pytest.raises(DeviceError, match="no difference to tell"):
        measure_energy(
            ScriptedMeter(powers_w), lambda: time.sleep(0), idle_s=0, busy_s=0, settle_s=0
        )


def test_a_machine_without_a_meter_has_none(tmp_path: Path) -> None:
    """Containers and most boards."""
    assert find_meter(tmp_path) is None
