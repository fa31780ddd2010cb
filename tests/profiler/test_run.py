"""A whole profile of this machine, small: valid, resumable, and never half written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from edgekit.cli import profile_run
from edgekit.errors import ConfigError, DeviceError
from edgekit.planner.launches import Habits, launches_of
from edgekit.planner.predict import Predictor
from edgekit.profiler import ceilings
from edgekit.profiler.conditions import observe
from edgekit.profiler.holdout import made_up
from edgekit.profiler.probe_session import probe_run, undisturbed_mean
from edgekit.profiler.run import ProfileOptions, measure_profile
from edgekit.runtime.ort import runtime_name
from edgekit.spec.base import load, save
from edgekit.spec.profile import Conditions, DeviceProfile, KernelTime

SMALL = ProfileOptions(name="here", budget_s=4.0, most_kernels=60)
CHILD = """
import sys; from pathlib import Path
from edgekit.profiler.run import *; from edgekit.spec.profile import Conditions
measure_profile(ProfileOptions(name="here", budget_s=60.0, most_kernels=1600),
    journal=Path(sys.argv[1]), progress=lambda text, share: None, conditions=Conditions())
"""


@pytest.mark.integration
def test_a_measured_profile_is_valid_and_predicts(tmp_path: Path) -> None:
    """Saved, loaded again, and asked for a network that it has never seen."""
    told: list[float] = []
    profile = measure_profile(
        SMALL,
        journal=tmp_path / "journal",
        progress=lambda text, share: told.append(share),
        conditions=observe(),
    )
    save(profile, tmp_path / "here.toml")
    assert load(tmp_path / "here.toml", DeviceProfile) == profile
    assert not profile.is_stale(runtime_name())
    assert profile.roof("fp32") and profile.error and profile.fused
    assert told == sorted(told)
    network = made_up(99)
    found = Predictor(profile).predict(network.workload(), range(len(network.ops)))
    assert 0 < found.low_s < found.time_s < found.high_s


@pytest.mark.integration
def test_a_killed_profile_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """kill -9: what was measured is in the journal, and is not measured again."""
    journal = tmp_path / "journal"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(journal)])
    deadline_s = time.monotonic() + 60
    while not journal.is_file() or journal.read_bytes().count(b"\n") < 50:
        assert child.poll() is None and time.monotonic() < deadline_s
        time.sleep(0.1)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    # Whatever the last line is, those before it are whole.
    lines = journal.read_bytes().splitlines()[1:-1]
    kept = [msgspec.json.decode(line, type=KernelTime) for line in lines]
    profile = measure_profile(
        SMALL, journal=journal, progress=lambda text, share: None, conditions=Conditions()
    )
    found = {(one.key, one.sizes): one.time_s for one in profile.kernel}
    for one in kept:
        if "+" not in one.key:  # those became costs per element
            assert found[one.key, one.sizes] <= one.time_s


def test_a_journal_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    """A read-only or full disk, found before anything long is measured."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="cannot write the journal"):
        measure_profile(
            SMALL,
            journal=tmp_path / "file" / "journal",
            progress=lambda text, share: None,
            conditions=Conditions(),
        )


def test_made_up_networks_are_valid_and_lowered_as_the_runtime_does() -> None:
    """The workload written by hand describes the very graph."""
    for seed in range(4):
        network = made_up(seed)
        onnx.checker.check_model(onnx.load_from_string(network.model()), full_check=True)
        launches = launches_of(network.workload(), range(len(network.ops)), Habits())
        convolutions = sum(node.op_type == "Conv" for node in network.nodes)
        assert sum(one.key.startswith("Conv ") for one in launches) == convolutions


def test_the_probe_of_every_precision_runs_or_is_left_out() -> None:
    """fp32 everywhere; others where the runtime has them."""
    rates = {one: ceilings.compute_ceiling(one, budget_s=0.05) for one in ceilings.PRECISIONS}
    assert rates["fp32"] and rates["int8"]
    assert ceilings.memory_bandwidth(budget_s=0.05, large_bytes=1 << 20) > 0


def test_overheads_are_small_and_not_negative() -> None:
    """A launch costs less than an inference."""
    found = ceilings.overheads(budget_s=0.2)
    assert found.launch_s >= 0
    assert found.session_s >= 0
    assert found.copy_bytes_per_s > 0


def test_the_mean_of_undisturbed_runs_ignores_slow_ones() -> None:
    """Runs within a tenth of the fastest count, and those that the clock cannot tell from it."""
    assert undisturbed_mean([1.0, 1.05, 1.5, 100.0]) == pytest.approx(1.025)
    assert undisturbed_mean([1.0, 1.5, 2.0], resolution_s=0.5) == pytest.approx(1.25)
    assert undisturbed_mean([5.0]) == 5.0


def test_a_probe_runs_after_its_file_is_gone() -> None:
    """No temporary files are left on a board."""
    run = probe_run(made_up(1).model())
    assert isinstance(run(), dict)
    assert np.all([np.isfinite(value).all() for value in run().values()])  # type: ignore[attr-defined]


def test_a_busy_board_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And nothing is written."""
    monkeypatch.setattr(profile_run, "observe", lambda: Conditions(load_1min=99.0))
    result = CliRunner().invoke(profile_run.command, ["--out", str(tmp_path / "x.toml")])
    assert isinstance(result.exception, DeviceError)
    assert "load 99" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--out", "x.yaml"], ["--device", "../x"]])
def test_a_name_or_file_that_cannot_be_is_refused(arguments: list[str]) -> None:
    """Before the board is looked at."""
    result = CliRunner().invoke(profile_run.command, arguments)
    assert isinstance(result.exception, ConfigError)
