"""The log of a USB meter: any order of columns, matched by the wall clock, never guessed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import ConfigError
from edgekit.profiler.energy_csv import CsvMeter, Sample, mean_power_w, parse_power_csv


def clock(*times_s: float) -> Callable[[], float]:
    times = iter(times_s)
    return lambda: next(times)


@pytest.mark.parametrize(
    "text",
    [
        "time,W\n100,2.5\n101,3.5\n",
        "V,A,time\n5,0.5,100\n5,0.7,101\n",
        "\ufefftimestamp, Power (W), note\n100, 2.5, x\n101, 3.5, y\n",
        "Time;W\n".replace(";", ",")
        + "1970-01-01T00:01:41+00:00,3.5\n1970-01-01T00:01:40Z,2.5\n\n",
    ],
)
def test_columns_come_in_any_order_and_rows_by_time(text: str) -> None:
    """What loggers write differs; the numbers do not."""
    found = parse_power_csv(text.removeprefix("\ufeff"), origin="log")
    assert [(one.time_s, round(one.power_w, 9)) for one in found] == [(100.0, 2.5), (101.0, 3.5)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("time,temperature\n1,2\n", "columns are time, temperature"),
        ("W\n1\n", "columns are w"),
        ("time,V\n1,5\n", "columns are time, v"),
        ("time,W\n1,2\nnoon,3\n", "row 3"),
        ("time,W\n1\n", "row 2"),
        ("time,W\n1,nan\n", "finite"),
    ],
)
def test_a_file_that_cannot_be_read_names_the_row(text: str, words: str) -> None:
    """The rest of a long log is still there to be mended."""
    with pytest.raises(ConfigError, match=words) as caught:
        parse_power_csv(text, origin="usb.csv")
    assert "usb.csv" in str(caught.value)


def test_a_line_that_is_still_being_written_is_left_out() -> None:
    """The logger runs while we read: 2 of 25.5 W would be a wrong number."""
    assert parse_power_csv("time,W\n1,20\n2,2", origin="log") == (Sample(1.0, 20.0),)
    assert parse_power_csv("", origin="log") == ()


def test_only_the_window_of_the_work_counts(tmp_path: Path) -> None:
    """Straight lines between samples, each for the time it lasts."""
    path = tmp_path / "usb.csv"
    path.write_text("time,W\n90,99\n100,2\n101,4\n104,4\n110,99\n")
    meter = CsvMeter(path=path, clock_s=clock(100.0, 104.0))
    assert meter.power_during(lambda: None) == pytest.approx((3 + 12) / 4)
    assert meter.name == "CSV usb.csv"


def test_samples_that_come_late_are_waited_for(tmp_path: Path) -> None:
    """A logger writes in blocks."""
    path = tmp_path / "usb.csv"
    path.write_text("time,W\n")
    meter = CsvMeter(path=path, clock_s=clock(0.0, 2.0), late_s=5.0)

    def work() -> None:
        path.write_text("time,W\n0,3\n1,3\n2,3\n")

    assert meter.power_during(work) == pytest.approx(3.0)


@pytest.mark.parametrize(
    "rows", ["", "1,5\n2,5\n", "100,5\n", "100,5\n101,5\n", "100,5\n100,5\n", "9e99,5\n"]
)
def test_a_log_of_another_time_is_refused_with_both_times(rows: str, tmp_path: Path) -> None:
    """Clocks that differ, or a logger that stopped: one sample, or half a window, is no mean."""
    path = tmp_path / "usb.csv"
    path.write_text(f"time,W\n{rows}")
    meter = CsvMeter(path=path, clock_s=clock(100.0, 110.0), late_s=0.0)
    with pytest.raises(ConfigError, match="samples between") as caught:
        meter.power_during(lambda: None)
    assert "clocks" in caught.value.hint


def test_a_file_that_vanishes_is_a_clear_error(tmp_path: Path) -> None:
    """Not a traceback after minutes of measuring."""
    meter = CsvMeter(path=tmp_path / "gone.csv", late_s=0.0)
    with pytest.raises(ConfigError, match=r"cannot read .*gone\.csv"):
        meter.power_during(lambda: None)


@given(st.text(max_size=200))
def test_any_text_is_samples_or_a_clear_error(text: str) -> None:
    """Whatever is given as --power-csv."""
    try:
        parse_power_csv("time,W\n" + text, origin="log")
    except ConfigError as error:
        assert "log" in str(error)


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.floats(0, 1000)), min_size=2, max_size=20,
        unique_by=lambda pair: round(pair[0], 3),
    )
)  # fmt: skip
def test_a_mean_lies_between_the_samples(pairs: list[tuple[float, float]]) -> None:
    """However unevenly they come."""
    samples = [Sample(*pair) for pair in sorted(pairs)]
    began_s, ended_s = samples[0].time_s, samples[-1].time_s
    powers = [one.power_w for one in samples]
    found = mean_power_w(samples, began_s, ended_s, origin="log")
    assert min(powers) - 1e-6 <= found <= max(powers) + 1e-6
