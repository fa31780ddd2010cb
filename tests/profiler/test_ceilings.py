"""Ceilings: every probe by name, per provider, and no better or worse than a plain loop."""

import os
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import ConfigError, DeviceError
from edgekit.profiler import ceilings
from edgekit.profiler.ceilings import PRODUCT, compute_ceiling, compute_rates, provider_ceilings
from edgekit.profiler.probe_session import interleaved_times_s, probe_run
from edgekit.runtime import ort as runtime
from edgekit.runtime.ort import OrtSession, available_providers, provider_chain

SHORT_S = 0.05


def test_the_ceiling_is_the_best_of_its_probes() -> None:
    """Convolutions and matrix products, each with its own rate."""
    rates = compute_rates("fp32", budget_s=SHORT_S)
    assert {name.split(" ")[0] for name in rates} == {"Conv", PRODUCT}
    assert all(rate > 0 for rate in rates.values())
    assert compute_ceiling("fp32", budget_s=SHORT_S)


def test_what_is_only_emulated_has_no_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 by way of fp32 is no ceiling of fp16."""
    monkeypatch.setattr(ceilings, "_is_emulated", lambda model: True)
    assert compute_rates("fp16", budget_s=SHORT_S) == {}
    assert compute_ceiling("fp16", budget_s=SHORT_S) is None


@pytest.mark.integration
def test_a_matrix_product_is_as_fast_as_a_plain_one() -> None:
    """Taking turns with numpy on the same core: a share, since no core is like another.

    tests/bench/ceilings.py says the same to a tenth, on a quiet core.
    """
    probe = next(one for one in ceilings._products("fp32") if "512x" in one.name)
    generator = np.random.default_rng(0)
    a, b = (generator.random((512, 512), np.float32) for _ in range(2))
    run, ratios = probe_run(probe.model), []
    for _ in range(3):
        own_s, plain_s = interleaved_times_s([run, lambda: np.matmul(a, b)], budget_s=0.4)
        ratios.append(own_s / plain_s)
    threads = len(os.sched_getaffinity(0))  # numpy may use them all
    assert sorted(ratios)[1] < 1.25 * threads


@pytest.mark.integration
def test_the_bandwidth_is_that_of_a_plain_copy() -> None:
    """Both count bytes read and written. Neighbours that come and go disturb one measurement and
    not the other; were the figure wrong, it would be so in every pair."""
    source = np.ones(8 << 20)
    target = np.zeros_like(source)
    ratios = []
    for _ in range(6):
        own = ceilings.memory_bandwidth(budget_s=0.3, large_bytes=source.nbytes)
        (plain_s,) = interleaved_times_s(
            [lambda: np.copyto(target, source)], budget_s=0.3, least_count=5
        )
        ratios.append(own * plain_s / (2 * source.nbytes))
        if 0.75 < ratios[-1] < 1.35:
            return
    pytest.fail(f"never near: {ratios}")


def test_a_provider_that_is_not_there_is_refused_before_anything_runs() -> None:
    """With those that are."""
    assert available_providers()[0] == "cpu"
    assert provider_chain("cpu") == ["CPUExecutionProvider"]
    missing = next(one for one in ("tensorrt-ep", "xnnpack") if one not in available_providers())
    with pytest.raises(ConfigError, match=f"no provider '{missing}'") as caught:
        provider_ceilings(missing, budget_s=SHORT_S)
    assert "cpu" in caught.value.what
    with pytest.raises(ConfigError, match="no provider 'gpu'"):
        compute_rates("fp32", budget_s=SHORT_S, provider="gpu")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_never_replaced_in_silence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """ONNX Runtime would run on the CPU, and a profile would call that cuda."""
    chain = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(runtime, "provider_chain", lambda provider: chain)
    path = tmp_path / "probe.onnx"
    path.write_bytes(ceilings._products("fp32")[0].model)
    with pytest.raises(DeviceError, match="cuda does not start"):
        OrtSession(path, provider="cuda")


def test_ceilings_of_a_provider_carry_its_name_and_its_overheads() -> None:
    """The CPU stands in for another provider."""
    found = provider_ceilings("cpu", budget_s=0.2)
    assert {one.precision for one in found} >= {"fp32", "int8"}
    assert {one.provider for one in found} == {"cpu"}
    assert all(one.flop_per_s > 0 and one.launch_overhead.endswith(" us") for one in found)
