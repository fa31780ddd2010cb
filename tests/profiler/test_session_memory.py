"""Memory of sessions, measured in processes of their own."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edgekit.errors import DeviceError
from edgekit.planner.memory import ASSUMED, predicted_rss_bytes
from edgekit.profiler import memory
from edgekit.profiler.holdout import made_up
from edgekit.profiler.memory import Seen, fitted, measure_peak_bytes, session_memory
from edgekit.profiler.memory_child import resident_bytes

STATUS = "Name:\tpython\nVmHWM:\t   50000 kB\nVmRSS:\t   40000 kB\n"


def test_the_status_file_is_read_in_kibibytes() -> None:
    """As the kernel writes it."""
    assert resident_bytes(STATUS) == (40000 * 1024, 50000 * 1024)


@pytest.mark.parametrize("text", ["", "VmRSS:\t40000 kB\n", "VmRSS:\nVmHWM:\t5 kB\n"])
def test_a_system_that_does_not_tell_is_a_clear_error(text: str) -> None:
    """Never a zero that looks like a small model."""
    with pytest.raises(DeviceError, match="does not say"):
        resident_bytes(text)


def test_the_factor_is_found_again() -> None:
    """From bytes that were made with it."""
    true = msgspec.structs.replace(ASSUMED, activation_factor=1.4)
    seen = []
    for seed in range(4):
        workload = made_up(seed).workload()
        ops = range(len(workload.ops))
        seen.append(Seen(workload=workload, peak_bytes=predicted_rss_bytes(workload, ops, true)))
    found = fitted(ASSUMED, seen[::2], seen[1::2])
    assert found.activation_factor == pytest.approx(1.4, abs=0.01)
    assert found.mape_percent < 0.1
    assert found.shard_count == 2


def test_too_little_time_measures_nothing() -> None:
    """A half-measured profile would promise more than it knows."""
    assert session_memory(budget_s=1.0) is None


def test_a_failing_process_leaves_the_profile_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the profile was measured for minutes; this must not lose it."""

    def fail(path: Path, *, threads: int) -> int:
        raise DeviceError("killed", hint="free some memory")

    monkeypatch.setattr(memory, "measure_peak_bytes", fail)
    assert session_memory(budget_s=5.0) is None


@pytest.mark.integration
def test_a_model_that_the_runtime_refuses_is_named(tmp_path: Path) -> None:
    """With what the child said last."""
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"\x08\x08 no model")
    with pytest.raises(DeviceError, match=r"broken\.onnx"):
        measure_peak_bytes(path)


@pytest.mark.integration
def test_a_process_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A board out of memory swaps for ever."""
    monkeypatch.setattr(memory, "_TIMEOUT_S", 0.01)
    with pytest.raises(DeviceError, match="no answer within"):
        measure_peak_bytes(tmp_path / "x.onnx")


@pytest.mark.integration
def test_heavier_models_take_more_memory(tmp_path: Path) -> None:
    """42 MB of weights take at least themselves; hardly any take hardly any."""
    light, heavy = tmp_path / "light.onnx", tmp_path / "heavy.onnx"
    light.write_bytes(memory._straight(1, 8, 1, 8))
    heavy.write_bytes(memory._straight(8, 384, 3, 6))
    weight_bytes = 4 * 8 * 384**2 * 9
    light_bytes, heavy_bytes = measure_peak_bytes(light), measure_peak_bytes(heavy)
    assert 0 < light_bytes < 40e6
    assert light_bytes + weight_bytes < heavy_bytes < light_bytes + 6 * weight_bytes


@pytest.mark.integration
def test_measured_coefficients_predict_made_up_networks() -> None:
    """As far as they say."""
    found = session_memory(budget_s=2.0)
    assert found is not None
    assert found.shard_count == 2
    assert found.mape_percent < 30
    assert found.base_bytes > 1e6


@pytest.mark.integration
def test_the_child_needs_no_builder() -> None:
    """Boards have neither torch nor onnx."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None; "
        "import edgekit.profiler.memory_child, edgekit.profiler.memory"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
