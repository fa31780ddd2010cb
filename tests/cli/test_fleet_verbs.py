"""fleet list and fleet profile as an operator meets them, without a fleet."""

import hashlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekit.cli.fleet import command as fleet
from edgekit.cli.fleet_list import as_entry
from edgekit.errors import ConfigError, LinkError
from edgekit.profiler.library import FoundProfile
from edgekit.spec.messages import DeviceStatus
from edgekit.spec.profile import Ceiling, DeviceProfile

NOWHERE = ["--broker", "mqtt://127.0.0.1:1", "--fleet", "f"]


def found(path: Path, source: str = "measured") -> FoundProfile:
    path.write_bytes(b"as it came")
    profile = DeviceProfile(
        name="a", source=source, reference="a test", processor="1x core", memory="1 GiB",
        memory_bandwidth="9 GB/s", launch_overhead="4 us", session_overhead="35 us",
        runtime="onnxruntime 1.0.0", ceiling=(Ceiling(precision="fp32", compute="33 Gflop/s"),),
    )  # type: ignore[arg-type]  # fmt: skip
    return FoundProfile(profile=profile, path=path)


def status(runtime: str = "onnxruntime 1.0.0", **more: str) -> DeviceStatus:
    return DeviceStatus(device="a", state="idle", runtime=runtime, **more)  # type: ignore[arg-type]


def test_a_profile_of_another_runtime_than_the_agent_s_is_stale(tmp_path: Path) -> None:
    """The board was updated since."""
    entry = as_entry(status("onnxruntime 2.0.0"), found(tmp_path / "a.toml"))
    assert entry["stale"] and entry["profile"] == "stale"
    assert "onnxruntime 2.0.0 runs here" in entry["stale_reason"]
    fresh = as_entry(status(), found(tmp_path / "a.toml"))
    assert (fresh["stale"], fresh["profile"]) == (False, "measured")


def test_a_datasheet_is_never_stale(tmp_path: Path) -> None:
    """It was not measured with any runtime."""
    entry = as_entry(status("onnxruntime 2.0.0"), found(tmp_path / "a.toml", "datasheet"))
    assert (entry["stale"], entry["profile"]) == (False, "datasheet")


def test_a_profile_that_the_board_has_replaced_is_not_the_newest(tmp_path: Path) -> None:
    """Somebody else had it measured again."""
    digest = hashlib.sha256(b"as it came").hexdigest()
    one = found(tmp_path / "a.toml")
    assert as_entry(status(profile_sha256=digest), one)["profile"] == "measured"
    assert as_entry(status(profile_sha256="0" * 64), one)["profile"] == "measured, not the newest"
    assert as_entry(status(profile_sha256=digest), None)["profile"] == "measured there, not here"
    assert as_entry(status(), None)["profile"] == "unknown"


def test_an_agent_that_names_no_runtime_makes_nothing_stale(tmp_path: Path) -> None:
    """An old one, or one that vanished: unknown is not different."""
    assert not as_entry(status(""), found(tmp_path / "a.toml"))["stale"]


@pytest.mark.parametrize("arguments", [["list"], ["profile", "a"]])
def test_a_broker_that_is_not_there_is_an_error_with_a_hint(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no file is written."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    result = CliRunner().invoke(fleet, [*arguments, *NOWHERE])
    assert isinstance(result.exception, LinkError)
    assert "mqtt://127.0.0.1:1" in str(result.exception)


def test_a_place_that_cannot_be_written_is_found_out_before_the_measuring() -> None:
    """Not after eight minutes."""
    result = CliRunner().invoke(fleet, ["profile", "a", *NOWHERE, "--out", "x.yaml"])
    assert isinstance(result.exception, ConfigError)


def test_help_lists_both_verbs() -> None:
    """Without importing either."""
    result = CliRunner().invoke(fleet, ["--help"])
    assert "list" in result.output and "profile" in result.output
