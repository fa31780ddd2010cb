"""Every device of a fleet gets a profile, or an error that says how to make one."""

from pathlib import Path

import msgspec
import pytest

from edgekit.errors import ConfigError
from edgekit.profiler import fleet_profiles as module
from edgekit.profiler.fleet_profiles import (
    fleet_profiles,
    is_this_machine,
    profile_of_this_machine,
)
from edgekit.profiler.library import FoundProfile, Library
from edgekit.profiler.run import processor_name
from edgekit.runtime.ort import runtime_name
from edgekit.spec.base import save
from edgekit.spec.fleet import Device, Fleet
from edgekit.spec.profile import Ceiling, DeviceProfile, KernelTime

HERE = DeviceProfile(
    name="here",
    source="measured",
    reference="a test",
    processor=processor_name(),
    memory="1 GiB",
    memory_bandwidth="4 GB/s",
    runtime=runtime_name(),
    ceiling=(Ceiling(precision="fp32", compute="10 Gflop/s"),),
    kernel=(KernelTime(key="Relu", sizes=(100,), time_s=1e-5),),
)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This machine is known, whatever the user's own folder holds."""
    found = Library(found=(FoundProfile(profile=HERE, path=tmp_path / "here.toml"),), problems=())
    monkeypatch.setattr(module, "list_profiles", lambda: found)


def fleet(*devices: Device) -> Fleet:
    return Fleet(name="f", device=devices)


def test_a_fleet_without_profiles_is_taken_as_the_demo_runs_it(tmp_path: Path) -> None:
    """The fastest device is this machine, the others are dilated; and that is said."""
    slow, fast = Device(name="camera"), Device(name="gateway", relative_speed=3)
    found = fleet_profiles(fleet(slow, fast), tmp_path)
    assert found.here == {"camera": 3.0, "gateway": 1.0}
    assert found.coding_speed == pytest.approx({"camera": 1 / 3, "gateway": 1.0})
    assert found.profiles["gateway"] == HERE
    assert found.profiles["camera"].ceiling[0].flop_per_s == pytest.approx(10e9 / 3, rel=1e-4)
    (note,) = found.notes
    assert "gateway is this machine" in note and "camera 3 times slower" in note


def test_named_profiles_come_from_the_library_or_from_beside_the_fleet_file(
    tmp_path: Path,
) -> None:
    save(msgspec.structs.replace(HERE, name="mine", processor="another"), tmp_path / "mine.toml")
    devices = (
        Device(name="camera", profile="raspberry-pi-4"),
        Device(name="gateway", profile="mine.toml"),
    )
    found = fleet_profiles(fleet(*devices), tmp_path)
    assert found.profiles["camera"].name == "raspberry-pi-4"
    assert found.profiles["gateway"].name == "mine"
    assert not found.here
    # 48 Gflop/s of four cores, beside 10 of one core here.
    assert found.coding_speed == pytest.approx({"camera": 1.2, "gateway": 1.0})
    assert "camera 1.2" in found.notes[0]


def test_a_profile_of_this_machine_makes_the_device_this_machine(tmp_path: Path) -> None:
    """Then its shards can be timed here."""
    save(HERE, tmp_path / "mine.toml")
    found = fleet_profiles(fleet(Device(name="laptop", profile="mine.toml")), tmp_path)
    assert found.here == {"laptop": 1.0}


def test_a_profile_of_another_runtime_is_called_stale(tmp_path: Path) -> None:
    save(msgspec.structs.replace(HERE, runtime="onnxruntime 0.1"), tmp_path / "old.toml")
    found = fleet_profiles(fleet(Device(name="laptop", profile="old.toml")), tmp_path)
    assert not found.here
    assert "laptop: measured with onnxruntime 0.1" in found.notes[0]


def test_a_device_without_a_profile_among_others_is_refused_with_the_remedy(
    tmp_path: Path,
) -> None:
    """Its speed relative to a datasheet would be anybody's guess."""
    devices = Device(name="camera", profile="raspberry-pi-4"), Device(name="gateway")
    with pytest.raises(ConfigError, match="'gateway' has no profile") as caught:
        fleet_profiles(fleet(*devices), tmp_path)
    assert "edgekit fleet profile gateway" in caught.value.hint


def test_a_misspelt_profile_names_the_device_and_what_is_near(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device 'camera'") as caught:
        fleet_profiles(fleet(Device(name="camera", profile="raspbery-pi-4")), tmp_path)
    assert "raspberry-pi-4" in caught.value.hint


def test_a_device_that_only_films_needs_no_profile(tmp_path: Path) -> None:
    camera = Device(name="camera", can_run=False)
    found = fleet_profiles(fleet(camera, Device(name="g", profile="raspberry-pi-4")), tmp_path)
    assert list(found.profiles) == ["g"]


def test_this_machine_is_told_by_processor_and_runtime() -> None:
    """A datasheet never is a machine."""
    assert is_this_machine(HERE)
    assert not is_this_machine(msgspec.structs.replace(HERE, processor="another"))
    assert not is_this_machine(msgspec.structs.replace(HERE, runtime="onnxruntime 0.1"))


def test_the_newest_profile_with_kernel_times_wins() -> None:
    old = msgspec.structs.replace(HERE, name="old", date="2025-01-01")
    new = msgspec.structs.replace(HERE, name="new", date="2026-01-01")
    bare = msgspec.structs.replace(HERE, name="bare", date="2026-02-01", kernel=())
    found = tuple(FoundProfile(profile=one, path=Path(one.name)) for one in (new, old, bare))
    assert profile_of_this_machine(Library(found=found, problems=())) == new
    assert profile_of_this_machine(Library(found=(), problems=())) is None


@pytest.mark.integration
def test_an_unknown_machine_is_measured_in_seconds_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So that a fresh checkout can plan its own sample."""
    monkeypatch.setattr(module, "list_profiles", lambda: Library(found=(), problems=()))
    found = fleet_profiles(fleet(Device(name="camera")), tmp_path)
    profile = found.profiles["camera"]
    assert profile.source == "measured" and profile.ceiling[0].flop_per_s > 1e8
    assert "edgekit profile --quick" in found.notes[0]
