"""Realised shards are held to the limits; what exceeds one lowers its bound, never raises it."""

from pathlib import Path

import msgspec
import pytest

from edgekit.planner.memory import predict_memory
from edgekit.planner.scenario import Scenario
from edgekit.spec.fleet import Device
from edgekit.spec.planning import Goal
from edgekit.trial import limits as trial_limits
from edgekit.trial.bench import ShardName
from edgekit.trial.limits import Excess, Kept, keep_limits, tightened
from edgekit.trial.settle import search
from edgekit.units import parse_size
from tests.trial.test_settle import BOARD, FLEET, FakeBench, scenario


class WritingBench(FakeBench):
    """Writes the predicted memory where the shard would be."""

    def write(self, shard: ShardName, path: Path) -> Path:
        path.write_text(str(predict_memory(*self.ops(shard), BOARD).rss_bytes))
        return path


def limited(**limits: object) -> Scenario:
    camera = Device(name="camera", **limits)  # type: ignore[arg-type]
    asked = scenario()
    fleet = msgspec.structs.replace(FLEET, device=(camera, FLEET.device[1]))
    return Scenario(
        model=asked.model, model_sha256=asked.model_sha256, variants=asked.variants, fleet=fleet,
        profiles=asked.profiles,
    )  # fmt: skip


def kept(asked: Scenario, goal: Goal) -> Kept:
    return keep_limits(
        search(asked, goal), goal, WritingBench({}),  # type: ignore[arg-type]
        progress=lambda text, done, total: None,
    )  # fmt: skip


@pytest.fixture
def weighed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Shards take a third more memory than predicted."""
    seen: list[int] = []

    def weigh(path: Path, *, threads: int = 1) -> int:
        seen.append(int(path.read_text()) * 4 // 3)
        return seen[-1]

    monkeypatch.setattr(trial_limits, "measure_peak_bytes", weigh)
    return seen


def test_without_limits_no_shard_is_made(weighed: list[int]) -> None:
    answer = kept(scenario(), Goal())
    assert answer.refusals == () and weighed == []


def test_a_plan_that_needs_more_than_predicted_is_refused_and_another_found(
    weighed: list[int],
) -> None:
    """By the prediction four operators fit on the camera; in truth fewer do."""
    four = int(predict_memory(*FakeBench({}).ops(ShardName("S3", (), ("t3",))), BOARD).rss_bytes)
    asked = limited(memory=f"{four + 1000} B")
    answer = kept(asked, Goal(objective="throughput"))
    assert answer.found.report.chosen is not None
    camera = [stage for stage in answer.found.report.chosen.stages if stage.device == "camera"]
    assert camera and all(stage.op_count < 4 for stage in camera)
    assert answer.refusals and weighed[-1] <= four + 1000 < max(weighed)
    for refusal in answer.refusals:
        assert "camera.memory:" in refusal.reason and "realised" in refusal.reason
    assert "keep their limits" in answer.notes[0]


def test_where_nothing_fits_there_is_no_plan_and_every_attempt_is_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Never an endless loop."""
    monkeypatch.setattr(trial_limits, "measure_peak_bytes", lambda path, threads=1: 10**12)
    asked = limited(memory="900 MB")
    every = msgspec.structs.replace(
        asked.fleet, device=tuple(
            msgspec.structs.replace(one, memory="900 MB") for one in asked.fleet.device
        ),
    )  # fmt: skip
    both = Scenario(
        model=asked.model, model_sha256=asked.model_sha256, variants=asked.variants, fleet=every,
        profiles=asked.profiles,
    )  # fmt: skip
    answer = kept(both, Goal())
    assert answer.found.report.chosen is None
    assert 1 <= len(answer.refusals) <= 6
    for one in answer.found.report.binding:
        assert one.asked == 900e6
    assert answer.notes


def test_bounds_only_fall_and_always_shut_out_what_was_refused() -> None:
    """Monotone calibration: in proportion to how far the prediction was off."""
    fleet = limited(memory="64 MB").fleet
    excess = Excess(device="camera", field="memory", limit=64e6, predicted=60e6, realised=80e6)
    once = tightened(fleet, excess)
    assert parse_size(once.device[0].memory) == 48_000_000
    assert parse_size(once.device[0].memory) < excess.predicted
    assert excess.words == "camera.memory: 80.0 MB realised, 60.0 MB predicted, 64.0 MB allowed"
    counted = Excess(device="camera", field="max_params", limit=100, predicted=90, realised=120)
    assert tightened(fleet, counted).device[0].max_params == 75
    timed = Excess(device="camera", field="max_ms", limit=10, predicted=12, realised=12)
    assert tightened(fleet, timed).device[0].max_ms == pytest.approx(100 / 12)
    assert "12.0 ms realised" in timed.words
