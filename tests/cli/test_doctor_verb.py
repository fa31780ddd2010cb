"""`edgekit doctor`: a table for people, JSON for programs, and a status for scripts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekit.cli import doctor
from edgekit.profiler.checkup.finding import Finding

GOOD = Finding(name="Python", status="ok", says="3.12.1")
ODD = Finding(name="codecs", status="warn", says="no lz4", fix="pip install 'edgekit[codecs]'")
BAD = Finding(name="numpy", status="missing", says="is not installed", fix="pip install numpy")
IDLE = Finding(name="mosquitto", status="none", says="not here", fix="sudo apt install mosquitto")


def run(monkeypatch: pytest.MonkeyPatch, *found: Finding, arguments: tuple[str, ...] = ()):  # type: ignore[no-untyped-def]
    monkeypatch.setattr(doctor, "examine", lambda host, *, folder: found)
    return CliRunner().invoke(doctor.command, list(arguments))


def test_what_is_missing_comes_with_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And status 1, so that a script stops."""
    result = run(monkeypatch, GOOD, ODD, BAD, IDLE)
    assert result.exit_code == 1
    assert "numpy: pip install numpy" in result.output
    assert "codecs: pip install 'edgekit[codecs]'" in result.output
    assert "mosquitto: " not in result.output
    assert "missing: numpy" in result.output


def test_a_warning_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards run all the same."""
    result = run(monkeypatch, GOOD, ODD)
    assert (result.exit_code, "nothing is missing" in result.output) == (0, True)


def test_json_holds_every_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else is printed."""
    result = run(monkeypatch, GOOD, BAD, arguments=("--json",))
    answer = json.loads(result.output)
    assert (answer["fit"], result.exit_code) == (False, 1)
    assert answer["findings"][1]["fix"] == "pip install numpy"


def test_nothing_of_cuda_or_tensorrt_is_imported_by_importing() -> None:
    """A broken TensorRT must not stop an agent, nor the doctor that is to say so."""
    code = (
        "import sys, edgekit.cli.doctor, edgekit.cli.profile_run, edgekit.agent.agent\n"
        "print([name for name in sys.modules if name.split('.')[0] in "
        "('tensorrt', 'tensorrt_rtx', 'cuda', 'pycuda')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.integration
def test_the_machine_that_runs_the_tests_can_run_shards(tmp_path: Path) -> None:
    """Everything for real, in processes of their own."""
    result = CliRunner().invoke(doctor.command, ["--json", "--store", str(tmp_path)])
    rows = {one["name"]: one for one in json.loads(result.output)["findings"]}
    assert rows["provider cpu"]["status"] == "ok"
    assert rows["numpy"]["status"] == rows["onnxruntime"]["status"] == "ok"
    assert str(tmp_path) in rows["disk"]["says"]


@pytest.mark.integration
def test_a_board_whose_numpy_and_onnxruntime_are_broken_is_told_so(tmp_path: Path) -> None:
    """That is when a doctor is called: a wheel for another processor dies at its import."""
    (tmp_path / "numpy.py").write_text("raise ImportError('libopenblas.so.0: cannot open shared "
                                       "object file: No such file or directory')\n")  # fmt: skip
    (tmp_path / "onnxruntime.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "doctor", "--json", "--store", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    rows = {one["name"]: one for one in json.loads(done.stdout)["findings"]}
    assert rows["numpy"]["says"] == "needs libopenblas.so.0, which is not here"
    assert rows["onnxruntime"]["says"] == "its process was ended by signal 4"
    assert rows["provider cpu"]["status"] == "missing"
    assert rows["Python"]["status"] == "ok"
