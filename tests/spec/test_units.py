"""Text becomes SI numbers in one place, and nonsense becomes an error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import ConfigError
from edgekit.units import (
    format_bytes,
    format_count,
    format_duration,
    parse_bandwidth,
    parse_duration,
    parse_rate,
    parse_shape,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [
        ("100 Mbit/s", 12.5e6),
        ("107.4Mbit/s", 13.425e6),
        ("25.6 GB/s", 25.6e9),
        ("11.9 MB/s", 11.9e6),
        ("1 Gbps", 125e6),
        ("8 bit/s", 1.0),
    ],
)
def test_bandwidths_are_read_in_bits_and_bytes(text: str, bytes_per_s: float) -> None:
    """Bits and bytes of one link, mixed up, are off by eight."""
    assert parse_bandwidth(text) == pytest.approx(bytes_per_s)


def test_durations_sizes_and_shapes_are_read() -> None:
    """The other quantities of fleet files and flags."""
    assert parse_duration("13ms") == pytest.approx(0.013)
    assert parse_duration("1.5 s") == 1.5
    assert parse_size("512 MiB") == 512 * 2**20
    assert parse_size("4 GB") == 4_000_000_000
    assert parse_shape("1x3x416x416") == (1, 3, 416, 416)
    assert parse_rate("472 Gflop/s") == 472e9
    assert parse_rate("21 Top/s") == 21e12


@pytest.mark.parametrize(
    "text", ["", "fast", "100", "100 Mbit", "-1 Mbit/s", "1 Zbit/s", "1e", "1e999 GB/s"]
)
def test_a_bandwidth_without_a_known_unit_is_refused_with_an_example(text: str) -> None:
    """A bare number would be read in the wrong unit by half of its readers."""
    with pytest.raises(ConfigError, match="100 Mbit/s"):
        parse_bandwidth(text)


@pytest.mark.parametrize("text", ["", "1x", "0x3", "axb", "1x-3"])
def test_a_bad_shape_is_refused_with_an_example(text: str) -> None:
    """It comes from the command line."""
    with pytest.raises(ConfigError, match="1x3x416x416"):
        parse_shape(text)


@given(st.text(max_size=20))
def test_no_text_crashes_a_parser(text: str) -> None:
    """Only ConfigError may come out."""
    for parse in (parse_bandwidth, parse_duration, parse_rate, parse_size, parse_shape):
        try:
            parse(text)
        except ConfigError as error:
            assert error.hint


def test_numbers_are_printed_for_people() -> None:
    """Two digits after a page of zeros help nobody."""
    assert format_bytes(519_200) == "519.2 kB"
    assert format_count(243e6, "flop") == "243.0 Mflop"
    assert format_duration(0.0123) == "12.3 ms"
