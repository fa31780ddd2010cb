"""What the board says is told; what it does not say stays empty; a bad board is refused."""

from pathlib import Path

import pytest

from edgekit.errors import DeviceError
from edgekit.profiler.conditions import (
    Board,
    after,
    complaints,
    measure_scatter,
    notes,
    observe,
    refuse_bad,
    scatter_of,
)
from edgekit.spec.profile import Conditions


class FakeBoard(Board):
    """A board whose tools answer from a table."""

    def output(self, *command: str) -> str:
        return ANSWERS.get(command[0], "")


ANSWERS: dict[str, str] = {}


@pytest.fixture
def board(tmp_path: Path) -> FakeBoard:
    ANSWERS.clear()
    for path, text in {
        "proc/loadavg": "1.25 0.8 0.5 1/200 4711",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "ondemand\n",
        "sys/class/thermal/thermal_zone0/temp": "48312\n",
        "sys/class/thermal/thermal_zone1/temp": "51000\n",
        "sys/class/thermal/thermal_zone2/temp": "-256000\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return FakeBoard(root=tmp_path)


def test_load_governor_and_the_hottest_zone_are_read(board: FakeBoard) -> None:
    """A zone at -256 degrees is a sensor that is not there."""
    found = observe(board)
    assert (found.load_1min, found.governor) == (1.25, "ondemand")
    assert found.temperature_before_celsius == 51.0


def test_a_board_that_says_nothing_gives_empty_conditions(tmp_path: Path) -> None:
    """Containers and foreign systems have none of these files."""
    ANSWERS.clear()
    assert observe(FakeBoard(root=tmp_path)) == Conditions()


def test_throttle_bits_become_words(board: FakeBoard) -> None:
    """0x50005: under-voltage and throttled, now and since the boot."""
    ANSWERS["vcgencmd"] = "throttled=0x50005"
    found = observe(board).throttle_flags
    assert found == "under-voltage, throttled, under-voltage since boot, throttled since boot"


def test_the_power_mode_of_a_jetson_is_its_name(board: FakeBoard) -> None:
    """The second line of nvpmodel is a number that means nothing elsewhere."""
    ANSWERS["nvpmodel"] = "NV Power Mode: MAXN\n0"
    assert observe(board).power_mode == "MAXN"


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        (Conditions(load_1min=1.0), "load 1.00 on 2 processors"),
        (Conditions(throttle_flags="throttled"), "throttling: throttled"),
        (Conditions(temperature_before_celsius=91.0), "91 degrees"),
        (Conditions(governor="powersave"), "powersave"),
    ],
)
def test_a_bad_board_is_refused_with_the_reason(conditions: Conditions, reason: str) -> None:
    """And with --anyway as the way out."""
    with pytest.raises(DeviceError, match=reason) as caught:
        refuse_bad(conditions, processor_count=2)
    assert "--anyway" in caught.value.hint


def test_a_quiet_board_that_was_once_throttled_is_taken() -> None:
    """What happened since the boot does not slow it now."""
    calm = Conditions(load_1min=0.2, throttle_flags="throttled since boot", governor="ondemand")
    assert complaints(calm, processor_count=2) == ()


def test_throttling_during_the_measurement_is_kept(board: FakeBoard) -> None:
    """The profile must say so, though it began well."""
    before = observe(board)
    ANSWERS["vcgencmd"] = "throttled=0x4"
    found = after(before, board)
    assert found.throttle_flags == "throttled"
    assert found.temperature_after_celsius == 51.0


def test_a_shared_processor_is_a_note_and_no_refusal() -> None:
    """The times are good: they are those of undisturbed runs."""
    shared, own = Conditions(scatter=2.0), Conditions(scatter=1.05)
    assert notes(shared) == (
        "shared processor: runs scatter by 2.0x; times are those of undisturbed runs",
    )
    assert complaints(shared, processor_count=2) == notes(own) == notes(Conditions()) == ()


def test_scatter_is_how_far_equal_pieces_lie_apart() -> None:
    """Every third piece twice as slow: p90 / p10 is two; one lost in a thousand is none."""
    assert scatter_of([1e-3, 1e-3, 2e-3] * 100) == 2.0
    assert scatter_of([1e-3] * 999 + [1.0]) == 1.0
    with pytest.raises(ValueError, match="no times"):
        scatter_of([])


def test_scatter_of_this_machine_is_at_least_one() -> None:
    """Short, and bounded by time and not by pieces."""
    assert measure_scatter(duration_s=0.02) >= 1.0
