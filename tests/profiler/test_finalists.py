"""Shards are timed in the real runtime, each one, and what does not load is refused by name."""

from pathlib import Path

import pytest

from edgekit.errors import ModelError
from edgekit.profiler.finalists import time_shards
from tests.graphs import residual_model, saved


def test_every_shard_gets_a_time_in_the_order_given(tmp_path: Path) -> None:
    """More of them than are held in memory at once."""
    paths = [saved(residual_model(), tmp_path / f"{index}.onnx") for index in range(8)]
    told: list[int] = []
    times_s = time_shards(paths, budget_s=0.0, tell=told.append)
    assert len(times_s) == 8 and all(time_s > 0 for time_s in times_s)
    assert told == [6, 8]


def test_a_shard_that_the_runtime_refuses_is_named(tmp_path: Path) -> None:
    """Better here than on the device."""
    broken = tmp_path / "shard-1.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(ModelError, match="shard-1"):
        time_shards([broken])


def test_no_shards_take_no_time() -> None:
    assert time_shards([]) == []
