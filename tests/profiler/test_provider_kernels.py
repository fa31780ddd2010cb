"""Kernels under another provider: chains that every runtime takes, times that are differences."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from edgekit.errors import ConfigError, DeviceError
from edgekit.planner.launches import Habits
from edgekit.profiler import provider_kernels, provider_roofs, under_provider
from edgekit.profiler.catalogue import catalogue
from edgekit.profiler.chain_probe import chain_of, is_measurable
from edgekit.profiler.onnx_writer import read_nodes
from edgekit.profiler.provider_kernels import (
    joined_groups,
    kernel_time,
    measure_kernels,
    with_kernels,
)
from edgekit.profiler.provider_roofs import gpu_ceilings
from edgekit.profiler.under_provider import (
    ProbeRuntime,
    precisions_of,
    refuse_absent,
    runtime_under,
    usable_providers,
)
from edgekit.runtime.ort import OrtSession
from edgekit.runtime.provider_check import ProviderCheck
from edgekit.runtime.session import random_inputs
from edgekit.spec.base import load, save
from edgekit.spec.profile import Ceiling, DeviceProfile, Precision
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.spec.workload import KernelShape

CONV = KernelShape(key="Conv 3x3 s1 d1 dense plain", sizes=(16, 24, 14, 14, 1))
LAUNCH_S = {"Conv": 50e-6, "MaxPool": 5e-6, "Relu": 3e-6, "Sigmoid": 3e-6, "Add": 3e-6,
            "LeakyRelu": 3e-6, "Reshape": 0.0, "MatMul": 80e-6}  # fmt: skip
SESSION_S = 20e-6
INTEGERS = Habits(fused=frozenset({"QDQ Conv"}), block=0)
"""So that the catalogue has integer kernels of every kind."""


class Clock:
    """Time that passes only where a made-up GPU works."""

    now_s = 0.0


class FakeGpuSession:
    """A GPU that joins an activation with the convolution in front of it."""

    def __init__(self, path: Path) -> None:
        nodes = read_nodes(path.read_bytes())
        makers = {name: node.op_type for node in nodes for name in node.outputs}
        self.time_s = SESSION_S
        for node in nodes:
            is_joined = node.op_type in ("Relu", "LeakyRelu") and makers.get(
                node.inputs[0]) == "Conv"  # fmt: skip
            self.time_s += 0.0 if is_joined else LAUNCH_S.get(node.op_type, 1e-6)
        self.inputs = (TensorSpec(name="x", dtype="float32", shape=(1,)),)
        self.outputs = ()

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        Clock.now_s += self.time_s
        return {}


def by_clock(
    runs: Sequence[Callable[[], object]], *, budget_s: float, least_count: int = 5
) -> list[float]:
    times_s = []
    for run in runs:
        began_s = Clock.now_s
        run()
        times_s.append(Clock.now_s - began_s)
    return times_s


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ProbeRuntime:
    for module in (provider_kernels, provider_roofs):
        monkeypatch.setattr(module, "interleaved_times_s", by_clock)

    def opened(path: Path, precision: Precision) -> FakeGpuSession:
        return FakeGpuSession(path)

    return ProbeRuntime(
        provider="tensorrt", name="TensorRT 10.3.0", open_session=opened,  # type: ignore[arg-type]
        precisions=("fp32", "fp16", "int8"),
    )  # fmt: skip


def refusing(gpu: ProbeRuntime, *precisions: str) -> ProbeRuntime:
    def opened(path: Path, precision: Precision) -> FakeGpuSession:
        if precision in precisions:
            raise DeviceError(f"no {precision}", hint="use fp32")
        return FakeGpuSession(path)

    return ProbeRuntime(
        provider=gpu.provider, name=gpu.name, open_session=opened,  # type: ignore[arg-type]
        precisions=gpu.precisions,
    )  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_operator_of_the_catalogue_runs_in_a_chain(
    precision: Precision, tmp_path: Path
) -> None:
    """With the kernel and without it, one number in and one out, in a real runtime."""
    seen = set()
    for shape in catalogue(INTEGERS, most=400):
        kind = " ".join(shape.key.split(" ")[:2])
        if kind in seen or not is_measurable(shape.key, precision) or max(shape.sizes) > 300:
            continue
        seen.add(kind)
        for has_kernel in (True, False):
            model = chain_of(shape.key, shape.sizes, precision, links=2, has_kernel=has_kernel)
            assert model is not None
            path = tmp_path / "chain.onnx"
            path.write_bytes(model)
            session = OrtSession(path)
            (number,) = session.run(random_inputs(session.inputs)).values()
            assert number.shape == (1,) and 0 < number[0] < 1, shape
    assert len(seen) >= (4 if precision == "int8" else 15)


def test_a_chain_differs_from_its_bare_one_by_its_kernels_alone(tmp_path: Path) -> None:
    """So that everything else cancels; in int8 the kernel has its own Q/DQ pair."""
    kinds = {}
    for has_kernel in (True, False):
        model = chain_of(CONV.key, CONV.sizes, "fp32", links=3, has_kernel=has_kernel)
        assert model is not None
        kinds[has_kernel] = sorted(node.op_type for node in read_nodes(model))
    assert kinds[True] == sorted([*kinds[False], "Conv", "Conv", "Conv"])
    model = chain_of("QLinearConv 3x3 s1 d1 dense", CONV.sizes, "int8", links=1, has_kernel=True)
    assert model is not None
    found = [node.op_type for node in read_nodes(model)]
    assert (found.count("QuantizeLinear"), found.count("DequantizeLinear")) == (2, 3)


def test_what_would_be_left_out_or_has_no_probe_gives_no_chain() -> None:
    """Views and copies cost a GPU's runtime nothing, or something else than alone."""
    assert not is_measurable("View Reshape", "fp32")
    assert not is_measurable("Concat axis1", "fp16")
    assert chain_of("QLinearConv 3x3 s1 d1 dense", CONV.sizes, "fp32", links=1,
                    has_kernel=True) is None  # fmt: skip
    assert chain_of("NoSuchThing", (1, 2), "fp32", links=1, has_kernel=True) is None


def test_a_kernel_takes_what_its_chain_takes_longer(gpu: ProbeRuntime) -> None:
    """Neither the session nor what surrounds the kernel counts."""
    found = kernel_time(CONV, gpu, "fp32")
    assert found is not None
    assert found.time_s == pytest.approx(LAUNCH_S["Conv"], rel=1e-3)


def test_a_kernel_that_noise_hides_is_left_out(
    gpu: ProbeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than a table that holds the smallest number there is."""
    monkeypatch.setattr(provider_kernels, "interleaved_times_s", lambda runs, **_: [1.0, 1.0])
    assert kernel_time(CONV, gpu, "fp32") is None


def test_groups_are_seen_by_what_the_second_operator_adds(gpu: ProbeRuntime) -> None:
    """The made-up GPU joins two activations, and no addition."""
    assert joined_groups(gpu) == ("Conv+Relu", "Conv+LeakyRelu")


def test_each_precision_has_a_table_with_its_runtime(gpu: ProbeRuntime) -> None:
    """Integer kernels under the names by which the planner asks for them."""
    tables = measure_kernels(gpu, budget_s=60.0, most=12)
    assert [one.precision for one in tables] == ["fp32", "fp16", "int8"]
    assert {one.runtime for one in tables} == {"TensorRT 10.3.0"}
    assert all(len(one.kernel) >= 10 for one in tables)
    assert {one.key.split(" ")[0] for one in tables[2].kernel} <= {"QLinearConv", "QGemm",
                                                                  "QLinearMatMul"}  # fmt: skip
    assert "QDQ Conv+Relu" in tables[2].fused and "QDQ Conv+Relu" not in tables[0].fused


def test_a_refused_precision_is_left_out_and_a_refused_fp32_is_an_error(gpu: ProbeRuntime) -> None:
    """A GPU before tensor cores has no int8; one without fp32 is broken."""
    tables = measure_kernels(refusing(gpu, "int8"), budget_s=60.0, most=5)
    assert [one.precision for one in tables] == ["fp32", "fp16"]
    with pytest.raises(DeviceError, match="no fp32"):
        measure_kernels(refusing(gpu, "fp32"), budget_s=60.0, most=5)


def test_roofs_carry_the_provider_s_own_overheads(gpu: ProbeRuntime) -> None:
    """A launch is the slope, a session where the line begins."""
    roofs = gpu_ceilings(refusing(gpu, "fp16"))
    assert [one.precision for one in roofs] == ["fp32", "int8"]
    assert {one.provider for one in roofs} == {"tensorrt"}
    assert roofs[0].launch_overhead == "5 us"
    assert roofs[0].session_overhead == "20 us"
    assert roofs[0].flop_per_s == pytest.approx(2 * 2048**3 / LAUNCH_S["MatMul"], rel=1e-3)
    with pytest.raises(DeviceError, match="no fp32"):
        gpu_ceilings(refusing(gpu, "fp32"))


def profile() -> DeviceProfile:
    return DeviceProfile(
        name="board", source="measured", reference="a test", processor="1x core", memory="8 GiB",
        memory_bandwidth="20 GB/s", cache_bandwidth="90 GB/s", runtime="onnxruntime 1.0.0",
        launch_overhead="1 us", session_overhead="9 us", in_network=1.3,
        ceiling=(Ceiling(precision="fp32", compute="33 Gflop/s"),),
    )  # fmt: skip


def test_a_shard_on_the_gpu_sees_the_gpu_s_kernels_and_one_on_the_cpu_the_cpu_s(
    gpu: ProbeRuntime, tmp_path: Path
) -> None:
    """Also after a profile was saved and loaded."""
    grown = msgspec.structs.replace(profile(), ceiling=(*profile().ceiling, *gpu_ceilings(gpu)))
    grown = with_kernels(grown, measure_kernels(gpu, budget_s=60.0, most=6))
    save(grown, tmp_path / "board.toml")
    known = load(tmp_path / "board.toml", DeviceProfile)
    assert known == grown
    assert known.seen_by("cpu") is known
    seen = known.seen_by("tensorrt", "fp16")
    assert seen.kernel == known.under[1].kernel
    assert (seen.launch_overhead, seen.session_overhead) == ("5 us", "20 us")
    assert (seen.in_network, seen.cache_bandwidth) == (1.0, "")
    assert seen.memory_bandwidth == known.ceiling[1].memory_bandwidth != known.memory_bandwidth
    assert known.under[0].reach
    again = with_kernels(known, known.under)
    assert len(again.under) == 3


def test_a_provider_of_which_no_kernel_is_known_leaves_the_roofline_alone() -> None:
    """The CPU's kernels say nothing of a GPU."""
    kernels = profile()
    assert kernels.seen_by("cuda").kernel == ()
    assert kernels.seen_by("xnnpack") is kernels


def test_what_does_not_start_is_refused_with_what_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before anything is measured."""

    def check(name: str) -> ProviderCheck:
        is_cuda = name == "cuda"
        return ProviderCheck(provider=name, starts=is_cuda, reason="" if is_cuda else "broken")

    monkeypatch.setattr(under_provider, "check_provider", check)
    monkeypatch.setattr(under_provider, "available_providers", lambda: ("cpu", "cuda"))
    assert usable_providers() == ("cuda",)
    refuse_absent("cuda")
    with pytest.raises(ConfigError, match=r"tensorrt cannot be measured: broken.*edgekit doctor"):
        refuse_absent("tensorrt")
    assert precisions_of("cuda") == ("fp32", "fp16")


def test_a_real_runtime_measures_through_the_port(tmp_path: Path) -> None:
    """The CPU stands in for a GPU: every part is real but the provider."""
    runtime = runtime_under("cpu", cache=tmp_path)
    heavy = KernelShape(key="Conv 3x3 s1 d1 dense plain", sizes=(64, 64, 14, 14, 1))
    found = kernel_time(heavy, runtime, "fp32", links=2)
    assert found is not None and 1e-6 < found.time_s < 1.0


@pytest.mark.integration
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_builds_an_engine_of_every_kind_of_chain(
    precision: Precision, tmp_path: Path
) -> None:
    """Without a GPU it parses and builds all the same; that they run needs one."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    from edgekit.runtime.tensorrt import build_engine, find_library
    from edgekit.runtime.tensorrt.probe import static_recipe

    library, path, seen = find_library(), tmp_path / "chain.onnx", set()
    for shape in catalogue(INTEGERS, most=300):
        kind = shape.key.split(" ")[0]
        if kind in seen or not is_measurable(shape.key, precision) or max(shape.sizes) > 300:
            continue
        seen.add(kind)
        for has_kernel in (True, False):
            model = chain_of(shape.key, shape.sizes, precision, links=2, has_kernel=has_kernel)
            assert model is not None
            path.write_bytes(model)
            recipe = static_recipe(path, precision=precision)
            assert build_engine(library, path, recipe, target="8.9").engine
    assert len(seen) >= (2 if precision == "int8" else 10)
