"""Every profile in device_profiles/ is sound, and no datasheet number is a slip of the pen."""

import itertools
from pathlib import Path

import pytest

from edgekit.profiler.library import FoundProfile, list_profiles

FOLDER = Path(__file__).parents[2] / "device_profiles"
LIBRARY = list_profiles(folders=[FOLDER])
PAPER = {
    # arXiv 2411.00838: name -> (precision, flop/s, bytes/s)
    "jetson-nano": ("fp16", 472e9, 25.6e9),
    "jetson-tx1": ("fp16", 1e12, 25.6e9),
    "jetson-tx2": ("fp16", 1.33e12, 59.7e9),
    "jetson-xavier-nx": ("int8", 21e12, 51.2e9),
    "rtx-4090": ("fp32", 82.6e12, 1018e9),
}
datasheets = pytest.mark.parametrize(
    "found",
    [one for one in LIBRARY.found if one.profile.source == "datasheet"],
    ids=lambda found: found.profile.name,
)


def test_all_shipped_profiles_load() -> None:
    """Name = file name, units, ranges: one broken file would show here."""
    assert LIBRARY.problems == ()
    names = {one.profile.name for one in LIBRARY.found}
    assert names == {path.stem for path in FOLDER.iterdir()}
    raspberries = {f"raspberry-pi-{which}" for which in ("3b-plus", "4", "5", "zero-2w")}
    assert names >= {*PAPER, *raspberries, "jetson-orin-nano", "jetson-agx-orin", "h200"}


@datasheets
def test_a_datasheet_says_what_it_is(found: FoundProfile) -> None:
    """The document by name, that these are peaks, and no address that will be gone next year."""
    profile = found.profile
    assert profile.date
    assert profile.processor
    assert "eaks, not what a runtime attains" in profile.note
    assert "Datasheet peaks: nothing in this file was measured" in found.path.read_text()
    assert "://" not in found.path.read_text()
    assert "www." not in found.path.read_text()
    assert profile.launch_overhead_s == profile.session_overhead_s == 0


@datasheets
def test_peaks_are_of_a_plausible_machine(found: FoundProfile) -> None:
    """A slipped prefix moves a ridge point by a thousand."""
    profile = found.profile
    assert 512 * 2**20 <= profile.memory_bytes <= 141e9
    assert 1e9 <= profile.memory_bytes_per_s <= 5e12
    for one in profile.ceiling:
        assert 1 < profile.ridge_flop_per_byte(one) < 700
        assert one.compute.endswith("op/s")
        assert one.compute.endswith("flop/s") == (one.precision != "int8")
    assert {one.provider for one in profile.ceiling} <= {"cpu", "gpu"}


@datasheets
def test_narrower_numbers_are_not_slower(found: FoundProfile) -> None:
    """On one processor: fp32 <= fp16 <= int8, each by at most the tensor cores' factor."""
    for provider in ("cpu", "gpu"):
        known = [found.profile.roof(width, provider) for width in ("fp32", "fp16", "int8")]
        rates = [one.flop_per_s for one in known if one]
        assert rates == sorted(rates)
        assert all(fast <= 16 * slow for slow, fast in itertools.pairwise(rates))


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_numbers_are_the_papers(name: str) -> None:
    """Rooflines are compared with those that it prints."""
    precision, flop_per_s, bytes_per_s = PAPER[name]
    (profile,) = (one.profile for one in LIBRARY.found if one.profile.name == name)
    roof = profile.roof(precision, "gpu")  # type: ignore[arg-type]
    assert roof is not None
    assert roof.flop_per_s == flop_per_s
    assert profile.memory_bytes_per_s == bytes_per_s
    assert "2411.00838" in profile.reference
