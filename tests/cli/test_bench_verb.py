"""`edgekit bench` and `edgekit testbed` run what the checkout holds, or say where to get it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import edgekit
from edgekit.cli import bench, testbed
from edgekit.errors import ConfigError


def test_benchmarks_are_listed_with_what_they_measure() -> None:
    """Those that can be run, and not the modules they share."""
    result = CliRunner().invoke(bench.command, [])
    assert result.exit_code == 0
    assert "paper " in result.output
    assert "paper_runs" not in result.output
    named = json.loads(CliRunner().invoke(bench.command, ["--json"]).output)
    assert named["paper"].startswith("The paper's experiments")


def test_an_unknown_benchmark_is_refused_with_the_names_there_are() -> None:
    """Before a process is started."""
    error = CliRunner().invoke(bench.command, ["papers", "--quick"]).exception
    assert isinstance(error, ConfigError)
    assert "paper" in error.hint


def test_options_and_the_exit_status_are_those_of_the_benchmark(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """-h is answered by it, not by us; a wrong option is its error."""
    assert CliRunner().invoke(bench.command, ["intensity", "-h"]).exit_code == 0
    assert "--json" in capfd.readouterr().out
    assert CliRunner().invoke(bench.command, ["intensity", "--nonsense"]).exit_code == 2
    assert "--nonsense" in capfd.readouterr().err


def test_the_testbed_answers_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not only from the top of the checkout."""
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(testbed.command, []).exit_code == 0
    assert "calibrate" in capfd.readouterr().out


def test_a_package_without_its_checkout_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel holds no benchmarks."""
    monkeypatch.setattr(edgekit, "__file__", str(tmp_path / "site/edgekit/__init__.py"))
    error = CliRunner().invoke(bench.command, ["paper"]).exception
    assert isinstance(error, ConfigError)
    assert "clone" in error.hint
