"""Measuring a board twice must not turn a decision round."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

_SAMPLES = Path(__file__).parents[2] / "samples"
_FLEET = """
name = "yard"
[[device]]
name = "camera"
profile = "raspberry-pi-5"
[[device]]
name = "gateway"
profile = "{profile}"
[[link]]
from = "camera"
to = "gateway"
bandwidth = "100 Mbit/s"
rtt = "1 ms"
"""


def _edgekit(*arguments: str) -> str:
    """What the command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", *arguments],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def _chosen(profile: Path, objective: str) -> list[tuple[str, str, list[str]]]:
    """Family, device and cut of every stage of the chosen plan."""
    fleet = profile.with_name(f"{profile.stem}-fleet.toml")
    fleet.write_text(_FLEET.format(profile=profile.name))
    printed = _edgekit(
        "plan", str(_SAMPLES / "yard/yard.pt"), "--fleet", str(fleet), "--objective", objective,
        "--measure", "never", "--json",
    )  # fmt: skip
    chosen = json.loads(printed)["chosen"]
    members = chosen["members"] or [chosen]
    return [
        (chosen["family"], stage["device"], stage["until"])
        for member in members
        for stage in member["stages"]
    ]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_profiles_of_this_machine_give_the_sample_model_the_same_plan(tmp_path: Path) -> None:
    """Shares of a farm may move a little; who runs what may not."""
    for name in ("first", "second"):
        _edgekit(
            "profile", "run", "--quick", "--anyway", "--device", name,
            "--out", str(tmp_path / f"{name}.toml"),
        )  # fmt: skip
    for objective in ("latency", "throughput", "balanced"):
        first = _chosen(tmp_path / "first.toml", objective)
        assert first
        assert _chosen(tmp_path / "second.toml", objective) == first
