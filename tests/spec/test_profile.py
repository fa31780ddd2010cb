"""Device profiles: every field is checked, and every refusal names it and the fix."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import ConfigError, EdgeKitError
from edgekit.spec.base import load, parse_json, parse_toml, save, to_json, to_toml
from edgekit.spec.profile import (
    Ceiling,
    Conditions,
    DeviceProfile,
    Energy,
    KernelTime,
    LinkProfile,
    PredictionError,
)

CEILING = '[[ceiling]]\nprecision = "fp32"\ncompute = "48 Gflop/s"\n'
SOUND = {
    "name": '"board"',
    "source": '"datasheet"',
    "reference": '"Board Product Brief"',
    "processor": '"4x core"',
    "memory": '"4 GiB"',
    "memory_bandwidth": '"12.8 GB/s"',
}


def toml(ceilings: str = CEILING, **changed: str) -> bytes:
    """A sound profile with some fields replaced, as they are written in the file."""
    lines = [f"{key} = {value}" for key, value in (SOUND | changed).items() if value]
    return "\n".join([*lines, ceilings]).encode()


def profile(**changed: Any) -> DeviceProfile:
    sound = parse_toml(toml(), DeviceProfile, origin="board.toml")
    return msgspec.structs.replace(sound, **changed)


def test_a_profile_is_in_si() -> None:
    """The planner never sees a unit."""
    board = profile(launch_overhead="4 us", session_overhead="0.1 ms")
    assert board.memory_bytes == 4 * 2**30
    assert board.memory_bytes_per_s == 12.8e9
    assert board.ceiling[0].flop_per_s == 48e9
    assert board.ridge_flop_per_byte(board.ceiling[0]) == pytest.approx(3.75)
    assert (board.launch_overhead_s, board.session_overhead_s) == pytest.approx((4e-6, 1e-4))


@pytest.mark.parametrize(
    ("changed", "field", "fix"),
    [
        ({"memory_bandwidth": '"12.8 Gflop/s"'}, "memory_bandwidth", "100 Mbit/s"),
        ({"memory_bandwidth": '""'}, "memory_bandwidth", "100 Mbit/s"),
        ({"memory_bandwidth": '"12.8"'}, "memory_bandwidth", "100 Mbit/s"),
        ({"memory_bandwidth": '"12.8 kB/s"'}, "memory_bandwidth", "unit"),
        ({"memory_bandwidth": '"1e40 GB/s"'}, "memory_bandwidth", "100 Mbit/s"),
        ({"cache_bandwidth": '"900 PB/s"'}, "cache_bandwidth", "100 Mbit/s"),
        ({"copy_bandwidth": '"5e5 GB/s"'}, "copy_bandwidth", "number and unit"),
        ({"memory": '"4 GHz"'}, "memory", "512 MiB"),
        ({"memory": '"4 kB"'}, "memory", "unit"),
        ({"launch_overhead": '"4"'}, "launch_overhead", "2 ms"),
        ({"session_overhead": '"4 s"'}, "session_overhead", "unit"),
        ({"threads": "0"}, "threads", "1 or more"),
        ({"threads": '"four"'}, "threads", "edit the field"),
        ({"name": '"../board"'}, "name", "letters"),
        ({"name": '""'}, "name", "letters"),
        ({"date": '"yesterday"'}, "date", "2025-12-31"),
        ({"reference": '""'}, "reference", "datasheet"),
        ({"source": '"rumour"'}, "source", "edit the field"),
        ({"source": '"measured"'}, "runtime", "profile again"),
        ({"memroy": '"4 GB"'}, "memroy", "edit the field"),
        ({"processor": ""}, "processor", "edit the field"),
    ],
)
def test_a_bad_field_is_refused_with_file_field_and_fix(
    changed: dict[str, str], field: str, fix: str
) -> None:
    """Profiles are edited by hand; the message must be enough to mend them."""
    with pytest.raises(ConfigError) as caught:
        parse_toml(toml(**changed), DeviceProfile, origin="board.toml")
    assert "board.toml" in caught.value.what
    assert field in caught.value.what
    assert fix in caught.value.hint


@pytest.mark.parametrize(
    ("ceilings", "words"),
    [
        ("ceiling = []", "no \\[\\[ceiling\\]\\]"),
        (CEILING.replace("48 Gflop/s", "48 GB/s"), "fp32 on 'cpu': compute.*unknown unit"),
        (CEILING.replace("48 Gflop/s", "48 flop/s"), "fp32 on 'cpu': compute.*outside"),
        (CEILING.replace("fp32", "fp8"), "precision"),
        (CEILING + 'sustained = "fast"\n', "fp32 on 'cpu': sustained"),
        (CEILING + 'provider = "a gpu"\n', "'a gpu': provider"),
        (CEILING + CEILING, "two ceilings for fp32 on cpu"),
    ],
)
def test_a_bad_ceiling_is_refused_by_precision_and_field(ceilings: str, words: str) -> None:
    """There are several of them in a file; the message must say which."""
    with pytest.raises(ConfigError, match=words):
        parse_toml(toml(ceilings), DeviceProfile, origin="board.toml")


def test_a_datasheet_cannot_claim_measurements() -> None:
    """A number that nobody measured must not look like one that somebody did."""
    times = (KernelTime(key="Conv", sizes=(1,), time_s=1e-3),)
    with pytest.raises(ConfigError, match="datasheet, but holds measurements"):
        profile(kernel=times)
    measured = profile(kernel=times, source="measured", runtime="onnxruntime 1.0")
    assert measured.kernel == times


def test_a_provider_that_was_not_measured_is_bounded_by_its_processor() -> None:
    """A datasheet knows the GPU; TensorRT and CUDA both run there."""
    cpu = Ceiling(precision="fp32", compute="48 Gflop/s")
    gpu = Ceiling(precision="fp16", compute="1 Tflop/s", provider="gpu")
    cuda = Ceiling(precision="fp16", compute="0.8 Tflop/s", provider="cuda")
    board = profile(ceiling=(cpu, gpu, cuda))
    assert board.roof("fp16", "tensorrt") is gpu
    assert board.roof("fp16", "cuda") is cuda
    assert board.roof("fp32", "xnnpack") is board.roof("fp32") is cpu
    assert board.roof("int8") is board.roof("fp32", "gpu") is None


def test_only_a_measured_profile_of_another_runtime_is_stale() -> None:
    """A new runtime has other kernels; a datasheet does not age with it."""
    measured = profile(source="measured", runtime="onnxruntime 1.30.0")
    assert measured.is_stale("onnxruntime 1.31.1")
    assert not measured.is_stale("onnxruntime 1.30.0")
    assert not profile().is_stale("onnxruntime 1.31.1")


@pytest.mark.parametrize("time_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_kernel_time_is_a_positive_number(time_s: float) -> None:
    """TOML has words for nan and infinity; a clock has not."""
    with pytest.raises(ConfigError, match="Conv"):
        KernelTime(key="Conv", sizes=(3, 3), time_s=time_s)
    with pytest.raises(ConfigError, match="spread"):
        KernelTime(key="Conv", sizes=(3, 3), time_s=1e-3, spread=float("nan"))


def test_errors_and_energy_that_cannot_be_are_refused() -> None:
    """The worst cannot be better than the mean, and work cannot save power."""
    sound = PredictionError(
        shard_count=200, model_count=12, mape_percent=5.0, within_10_percent=92.0, worst_percent=30
    )
    for changed in ({"worst_percent": 4.0}, {"within_10_percent": 101.0}, {"shard_count": 0},
                    {"mape_percent": float("nan")}, {"worst_percent": float("inf")}):  # fmt: skip
        with pytest.raises(ConfigError, match="cannot be"):
            msgspec.structs.replace(sound, **changed)
    for meter, idle_w, busy_w in (("", 1.0, 2.0), ("usb", 3.0, 2.0), ("usb", -1.0, 2.0)):
        with pytest.raises(ConfigError, match="energy"):
            Energy(meter=meter, idle_w=idle_w, busy_w=busy_w)


def test_a_link_profile_refuses_what_cannot_be() -> None:
    """A p99 below the p50, or more lost than sent."""
    sound: dict[str, Any] = {
        "source": "a", "target": "b", "bandwidth_bytes_per_s": 12e6, "rtt_p50_s": 0.001,
        "rtt_p99_s": 0.002,
    }  # fmt: skip
    assert LinkProfile(**sound).loss == 0.0
    for changed in ({"rtt_p99_s": 0.0005}, {"loss": 1.5}, {"bandwidth_bytes_per_s": 0.0},
                    {"rtt_p50_s": float("nan")}):  # fmt: skip
        with pytest.raises(ConfigError):
            LinkProfile(**(sound | changed))


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
positive = st.floats(min_value=1e-9, max_value=100.0)


def scaled(least: float, most: float, unit: str) -> st.SearchStrategy[str]:
    return st.floats(min_value=least, max_value=most).map(lambda value: f"{value!r} {unit}")


ceilings = st.builds(
    Ceiling,
    precision=st.sampled_from(["fp32", "fp16", "int8"]),
    provider=st.sampled_from(["cpu", "gpu", "cuda", "tensorrt"]),
    compute=scaled(0.5, 1e6, "Gflop/s"),
    sustained=st.just("") | scaled(0.5, 1e6, "Gop/s"),
)
profiles = st.builds(
    DeviceProfile,
    name=names,
    source=st.just("measured"),
    reference=texts.filter(bool),
    runtime=texts.filter(bool),
    processor=texts,
    note=texts,
    date=st.just("") | st.dates().map(str),
    memory=st.integers(2, 512).map(lambda count: f"{count} GiB"),
    memory_bandwidth=scaled(0.01, 9e4, "GB/s"),
    cache_bandwidth=st.just("") | scaled(0.01, 9e4, "GB/s"),
    launch_overhead=scaled(0, 1e5, "us"),
    threads=st.integers(1, 64),
    ceiling=st.lists(
        ceilings, min_size=1, max_size=5, unique_by=lambda one: (one.precision, one.provider)
    ).map(tuple),
    kernel=st.lists(
        st.builds(
            KernelTime,
            key=texts.filter(bool),
            sizes=st.lists(st.integers(0, 10**9), min_size=1, max_size=6).map(tuple),
            time_s=positive,
            spread=st.floats(0, 10),
        ),
        max_size=4,
    ).map(tuple),
    fused=st.lists(texts, max_size=3).map(tuple),
    error=st.none()
    | st.builds(
        PredictionError,
        shard_count=st.integers(1, 9999),
        model_count=st.integers(1, 99),
        mape_percent=st.floats(0, 50),
        within_10_percent=st.floats(0, 100),
        worst_percent=st.floats(50, 900),
    ),
    conditions=st.builds(
        Conditions,
        load_1min=st.floats(0, 99),
        governor=texts,
        temperature_before_celsius=st.none() | st.floats(-40, 120),
    ),
    energy=st.none()
    | st.builds(Energy, meter=texts.filter(bool), idle_w=st.floats(0, 5), busy_w=st.floats(5, 700)),
)


@given(profiles)
def test_any_profile_survives_toml_and_json(one: DeviceProfile) -> None:
    """What a board measured is what the planner reads, to the last bit."""
    assert parse_toml(to_toml(one), DeviceProfile, origin="x") == one
    assert parse_json(to_json(one), DeviceProfile, origin="x") == one


def test_a_saved_profile_is_loaded_again(tmp_path: Path) -> None:
    """Through a file, None and all."""
    path = tmp_path / "board.toml"
    save(profile(), path)
    assert load(path, DeviceProfile) == profile()


@given(st.dictionaries(st.sampled_from([*SOUND, "date", "threads", "launch_overhead"]), texts))
def test_any_text_in_any_field_is_a_profile_or_a_clear_error(changed: dict[str, str]) -> None:
    """No text may crash an agent that loads a profile."""
    document = {key: value.strip('"') for key, value in SOUND.items()} | changed
    document |= {"ceiling": [{"precision": "fp32", "compute": "48 Gflop/s"}]}  # type: ignore[dict-item]
    try:
        parse_toml(msgspec.toml.encode(document), DeviceProfile, origin="board.toml")
    except EdgeKitError as error:
        assert "board.toml" in error.what
        assert error.hint


@given(st.binary(max_size=200))
def test_any_bytes_are_a_profile_or_a_clear_error(data: bytes) -> None:
    """A file cut off by a full disk, or no profile at all."""
    for cut in (data, toml()[: len(data)]):
        try:
            parse_toml(cut, DeviceProfile, origin="board.toml")
        except EdgeKitError as error:
            assert error.hint
