"""Power and providers on the command line: asked for early, and never at the price of a profile."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekit.cli import profile_extras, profile_run, profile_show
from edgekit.cli.profile_extras import Extras, checked_extras
from edgekit.cli.profile_text import conditions_text, energy_text, session_memory_text
from edgekit.errors import ConfigError, DeviceError
from edgekit.profiler.energy import ScriptedMeter
from edgekit.profiler.under_provider import ProbeRuntime
from edgekit.spec.base import save
from edgekit.spec.profile import (
    Ceiling,
    Conditions,
    DeviceProfile,
    Energy,
    KernelTime,
    ProviderKernels,
    SessionMemory,
)

NAME = "board"


def profile(**fields: object) -> DeviceProfile:
    return DeviceProfile(
        name=NAME, source="measured", reference="a test", processor="1x core", memory="1 GiB",
        memory_bandwidth="9 GB/s", runtime="onnxruntime 1.0.0",
        ceiling=(Ceiling(precision="fp32", compute="33 Gflop/s"),), **fields,  # type: ignore[arg-type]
    )  # fmt: skip


def told() -> tuple[list[str], object]:
    texts: list[str] = []
    return texts, lambda text, share: texts.append(text)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of no length, and work of no weight."""

    def quick(meter, busy, *, idle_s, busy_s):  # type: ignore[no-untyped-def]
        assert 0 < idle_s < busy_s
        work = lambda: None  # noqa: E731
        idle_w, busy_w = meter.power_during(work), meter.power_during(work)
        if busy_w <= idle_w:
            raise DeviceError("no difference", hint="wait")
        return Energy(meter=meter.name, idle_w=idle_w, busy_w=busy_w)

    monkeypatch.setattr(profile_extras, "measure_energy", quick)
    monkeypatch.setattr(profile_extras, "busy_probe", lambda threads: None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--provider", "xnnpack"], "no provider 'xnnpack'"),
        (["--provider", "tensorrt"], "the provider tensorrt cannot be measured"),
        (["--power-csv", "nowhere.csv"], "no file nowhere.csv"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_minutes_of_measuring(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    """And nothing is written."""
    out = tmp_path / "x.toml"
    result = CliRunner().invoke(profile_run.command, ["--out", str(out), *arguments])
    assert isinstance(result.exception, ConfigError)
    assert words in str(result.exception)
    assert not out.exists()


def test_power_goes_into_the_profile() -> None:
    """With the meter's name."""
    texts, tell = told()
    extras = Extras(meter=ScriptedMeter([2.0, 5.0]), providers=(), is_quick=False)
    found = extras.add_to(profile(), tell)  # type: ignore[arg-type]
    assert found.energy == Energy(meter="scripted", idle_w=2.0, busy_w=5.0)
    assert texts == ["power by scripted"]


def test_a_failing_meter_costs_no_profile(capsys: pytest.CaptureFixture[str]) -> None:
    """The kernels took eight minutes; power says why it is missing."""
    extras = Extras(meter=ScriptedMeter([5.0, 5.0]), providers=(), is_quick=True)
    assert extras.add_to(profile(), lambda text, share: None).energy is None
    assert "energy not measured: no difference" in capsys.readouterr().err


def test_a_meter_for_root_only_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything else can be measured as a user."""

    def find() -> None:
        raise DeviceError("may be read by root only", hint="run as root")

    monkeypatch.setattr(profile_extras, "find_meter", find)
    found = checked_extras(meter="auto", power_csv=None, providers=(), is_quick=True)
    assert found.meter is None
    assert "root only" in capsys.readouterr().err
    assert checked_extras(meter="none", power_csv=None, providers=(), is_quick=True).meter is None
    assert capsys.readouterr().err == ""


def test_a_power_log_replaces_the_built_in_meter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It sees the whole board, not only the module."""
    monkeypatch.setattr(profile_extras, "find_meter", lambda: ScriptedMeter([1.0]))
    log = tmp_path / "usb.csv"
    log.write_text("time,W\n")
    found = checked_extras(meter="auto", power_csv=log, providers=(), is_quick=True)
    assert found.meter is not None
    assert found.meter.name == "CSV usb.csv"


def test_every_provider_that_works_is_measured_unless_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that fails while it is measured is a warning; the others stay."""

    def roofs(provider: str, *, threads: int) -> tuple[Ceiling, ...]:
        return (Ceiling(precision="fp32", compute="900 Gflop/s", provider=provider),)

    def gpu_roofs(runtime: ProbeRuntime) -> tuple[Ceiling, ...]:
        if runtime.provider == "tensorrt-ep":
            raise DeviceError("no driver", hint="install it")
        return roofs(runtime.provider, threads=1)

    def kernels(runtime: ProbeRuntime, **options: object) -> tuple[ProviderKernels, ...]:
        one = KernelTime(key="Relu", sizes=(64, 3136), time_s=2e-6)
        return (ProviderKernels(provider=runtime.provider, precision="fp32", runtime="onnxruntime "
                                "1.0.0", kernel=(one,)),)  # fmt: skip

    names = ("xnnpack", "cuda", "tensorrt-ep")
    monkeypatch.setattr(profile_extras, "usable_providers", lambda: names)
    monkeypatch.setattr(profile_extras, "provider_ceilings", roofs)
    monkeypatch.setattr(profile_extras, "gpu_ceilings", gpu_roofs)
    monkeypatch.setattr(profile_extras, "measure_kernels", kernels)
    found = checked_extras(meter="none", power_csv=None, providers=(), is_quick=True)
    assert found.providers == names
    grown = found.add_to(profile(), lambda text, share: None)
    assert [one.provider for one in grown.ceiling] == ["cpu", "xnnpack", "cuda"]
    assert [one.provider for one in grown.under] == ["cuda"]
    assert "tensorrt-ep not measured: no driver" in capsys.readouterr().err
    asked = checked_extras(meter="none", power_csv=None, providers=("cpu",), is_quick=True)
    assert asked.providers == ()


def test_a_gpu_whose_kernels_cannot_be_measured_keeps_its_roofs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plan can still use the roofline."""
    roof = Ceiling(precision="fp32", compute="900 Gflop/s", provider="cuda")

    def kernels(runtime: ProbeRuntime, **options: object) -> tuple[ProviderKernels, ...]:
        raise DeviceError("out of memory", hint="wait")

    monkeypatch.setattr(profile_extras, "gpu_ceilings", lambda runtime: (roof,))
    monkeypatch.setattr(profile_extras, "measure_kernels", kernels)
    extras = Extras(meter=None, providers=("cuda",), is_quick=False)
    grown = extras.add_to(profile(), lambda text, share: None)
    assert (grown.ceiling[-1], grown.under) == (roof, ())
    assert "kernels under cuda not measured: out of memory" in capsys.readouterr().err


def test_what_was_not_measured_is_said() -> None:
    """Never a zero that looks like a measurement."""
    assert energy_text(profile()) == session_memory_text(profile()) == "not measured"


def test_what_was_measured_is_said_in_one_line() -> None:
    """As profile show and profile run print it."""
    known = SessionMemory(
        base_bytes=9_700_000, operator_bytes=12_000, conv_weight_factor=3.1,
        activation_factor=2.06, shard_count=6, mape_percent=4.9,
    )  # fmt: skip
    found = profile(
        energy=Energy(meter="INA3221 VDD_IN", idle_w=2.7, busy_w=5.9),
        session_memory=known,
        conditions=Conditions(load_1min=0.1, scatter=1.94),
    )
    assert "5.9 W busy (INA3221 VDD_IN): 3.2 mJ for each ms" in energy_text(found)
    assert "9.7 MB + 3.1 x weights of convolutions + 2.1 x activations" in session_memory_text(
        found
    )
    assert conditions_text(found) == "load 0.10, runs scatter by 1.94x"


def test_kernels_of_other_providers_are_shown_with_what_timed_them(tmp_path: Path) -> None:
    """A reader must see that a plan for TensorRT stands on measurements, and on whose."""
    one = KernelTime(key="Relu", sizes=(64, 3136), time_s=2e-6)
    table = ProviderKernels(
        provider="tensorrt", precision="fp16", runtime="TensorRT 10.3.0", kernel=(one,),
        fused=("Conv+Relu",),
    )  # fmt: skip
    save(profile(under=(table,)), tmp_path / "board.toml")
    result = CliRunner().invoke(profile_show.command, [str(tmp_path / "board.toml")])
    assert (
        "tensorrt fp16: 1 kernels timed by TensorRT 10.3.0; launched as one: Conv+Relu"
        in result.output
    )
