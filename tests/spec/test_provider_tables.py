"""What a profile knows of other providers: checked, and seen only by shards that run under them."""

import pytest

from edgekit.errors import ConfigError
from edgekit.spec.profile import Ceiling, DeviceProfile, KernelTime, ProviderKernels

KERNEL = KernelTime(key="Relu", sizes=(64, 3136), time_s=2e-6)


def table(**fields: object) -> ProviderKernels:
    known = {"provider": "tensorrt", "precision": "fp16", "runtime": "TensorRT 10.3.0",
             "kernel": (KERNEL,)}  # fmt: skip
    return ProviderKernels(**(known | fields))  # type: ignore[arg-type]


def profile(source: str = "measured", **fields: object) -> DeviceProfile:
    roofs = (
        Ceiling(precision="fp32", compute="33 Gflop/s"),
        Ceiling(precision="fp16", compute="10 Tflop/s", provider="gpu"),
    )
    known = {"name": "board", "source": source, "reference": "a test", "processor": "1x core",
             "memory": "8 GiB", "memory_bandwidth": "68 GB/s", "ceiling": roofs,
             "runtime": "onnxruntime 1.0.0", "launch_overhead": "2 us"}  # fmt: skip
    return DeviceProfile(**(known | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("field", [{"provider": ""}, {"runtime": ""}, {"kernel": ()}])
def test_a_table_without_a_name_a_runtime_or_a_kernel_is_refused(field: dict[str, object]) -> None:
    """It could not be told when it is stale, or says nothing."""
    with pytest.raises(ConfigError, match="kernels under"):
        table(**field)


def test_a_datasheet_has_no_kernels_of_any_provider_and_is_seen_as_it_is() -> None:
    """Its peaks are the GPU's or the processor's, by the ceilings' providers."""
    with pytest.raises(ConfigError, match="datasheet"):
        profile("datasheet", under=(table(),))
    sheet = profile("datasheet")
    assert sheet.seen_by("tensorrt", "fp16") is sheet


def test_providers_of_a_gpu_are_bounded_by_it_where_they_were_not_measured() -> None:
    """Whichever way TensorRT is reached."""
    for provider in ("cuda", "tensorrt", "tensorrt-ep", "tensorrt-rtx-ep"):
        roof = profile().roof("fp16", provider)
        assert roof is not None and roof.provider == "gpu"
    assert profile().roof("fp16", "xnnpack") is None


def test_a_provider_s_own_memory_sets_its_ridge() -> None:
    """A card's memory is ten times the host's."""
    card = Ceiling(
        precision="fp32", compute="68 Tflop/s", provider="cuda", memory_bandwidth="680 GB/s",
        copy_bandwidth="12 GB/s",
    )  # fmt: skip
    known = profile(ceiling=(card,))
    assert known.ridge_flop_per_byte(card) == pytest.approx(100)
    seen = known.seen_by("cuda")
    assert (seen.memory_bandwidth, seen.copy_bandwidth) == ("680 GB/s", "12 GB/s")
    assert seen.launch_overhead == "2 us"
    with pytest.raises(ConfigError, match="copy_bandwidth"):
        Ceiling(precision="fp32", compute="68 Tflop/s", copy_bandwidth="fast")


def test_a_table_is_seen_by_its_precision_alone() -> None:
    """Half precision says nothing of integers."""
    known = profile(under=(table(fused=("Conv+Relu",)),))
    assert known.seen_by("tensorrt", "fp16").kernel == (KERNEL,)
    assert known.seen_by("tensorrt", "fp16").fused == ("Conv+Relu",)
    assert known.seen_by("tensorrt", "int8").kernel == ()
    assert known.seen_by("tensorrt-ep", "fp16").kernel == ()
