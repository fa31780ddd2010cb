"""Meters against folders laid out as on the boards.

Jetson: NVIDIA Jetson Linux Developer Guide, "Power Monitor" (r32.7: Nano, TX2; r35.4: Orin NX and
Nano, AGX Orin). RAPL: Linux kernel documentation, power/powercap.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.errors import DeviceError
from edgekit.profiler.energy import find_meter
from edgekit.profiler.energy_meters import Ina3221Meter, RaplMeter

I2C = "sys/bus/i2c/devices"
RAPL = "sys/class/powercap"


def lay_out(root: Path, files: dict[str, str | int]) -> None:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{content}\n")


def orin_nano(root: Path, current_ma: int = 1200) -> Path:
    """JetPack 5 and 6: three channels by hwmon, and the sum of the shunts as a seventh."""
    folder = f"{I2C}/1-0040/hwmon/hwmon3"
    lay_out(
        root,
        {
            f"{I2C}/1-0040/name": "ina3221",
            f"{folder}/in1_label": "VDD_IN", f"{folder}/in1_input": 5000,
            f"{folder}/curr1_input": current_ma,
            f"{folder}/in2_label": "VDD_CPU_GPU_CV", f"{folder}/in2_input": 5000,
            f"{folder}/curr2_input": 400,
            f"{folder}/in3_label": "VDD_SOC", f"{folder}/in3_input": 5000,
            f"{folder}/curr3_input": 300,
            f"{folder}/in7_label": "sum of shunt voltages", f"{folder}/in7_input": 8,
            f"{I2C}/0-0050/name": "24c02",
        },
    )  # fmt: skip
    return root / folder / "curr1_input"


def pause() -> None:
    time.sleep(0.2)


def test_the_input_rail_of_an_orin_nano_is_the_whole_module(tmp_path: Path) -> None:
    """5 V x 1.2 A; the other rails are fed by it, and must not count twice."""
    orin_nano(tmp_path)
    meter = find_meter(tmp_path)
    assert meter is not None
    assert meter.name == "INA3221 VDD_IN"
    assert meter.power_during(pause) == pytest.approx(6.0)


def test_the_power_of_a_jetson_nano_is_read_in_milliwatts(tmp_path: Path) -> None:
    """JetPack 4: an iio device whose channels begin at 0."""
    folder = f"{I2C}/6-0040/iio:device0"
    lay_out(
        tmp_path,
        {
            f"{I2C}/6-0040/name": "ina3221x",
            f"{folder}/rail_name_0": "POM_5V_IN", f"{folder}/in_power0_input": 2345,
            f"{folder}/rail_name_1": "POM_5V_GPU", f"{folder}/in_power1_input": 40,
            f"{folder}/rail_name_2": "POM_5V_CPU", f"{folder}/in_power2_input": 600,
        },
    )  # fmt: skip
    meter = Ina3221Meter.find(tmp_path)
    assert meter is not None
    assert meter.name == "INA3221 POM_5V_IN"
    assert meter.power_during(pause) == pytest.approx(2.345)


def test_rails_are_summed_up_where_none_feeds_all(tmp_path: Path) -> None:
    """AGX Orin has two monitors; a channel that is not connected is called NC."""
    for bus, channels in {
        "1-0040": [("VDD_GPU_SOC", 12000, 100), ("VDD_CPU_CV", 12000, 50)],
        "1-0041": [("NC", 5000, 900), ("VIN_SYS_5V0", 5000, 200)],
    }.items():
        lay_out(tmp_path, {f"{I2C}/{bus}/name": "ina3221"})
        for index, (name, millivolts, milliamperes) in enumerate(channels, start=1):
            folder = f"{I2C}/{bus}/hwmon/hwmon{bus[-1]}"
            lay_out(
                tmp_path,
                {
                    f"{folder}/in{index}_label": name,
                    f"{folder}/in{index}_input": millivolts,
                    f"{folder}/curr{index}_input": milliamperes,
                },
            )
    meter = Ina3221Meter.find(tmp_path)
    assert meter is not None
    assert meter.name == "INA3221 VDD_CPU_CV + VDD_GPU_SOC + VIN_SYS_5V0"
    assert meter.power_during(pause) == pytest.approx(1.2 + 0.6 + 1.0)


def test_a_monitor_that_fails_during_the_work_is_a_clear_error(tmp_path: Path) -> None:
    """The mean of what came before would look like a measurement."""
    current = orin_nano(tmp_path)
    meter = Ina3221Meter.find(tmp_path)
    assert meter is not None

    def work() -> None:
        pause()
        current.unlink()
        pause()

    with pytest.raises(DeviceError, match="curr1_input"):
        meter.power_during(work)


def test_work_that_is_too_short_for_a_sample_is_a_clear_error(tmp_path: Path) -> None:
    """No sample is not zero watts."""
    orin_nano(tmp_path)
    meter = Ina3221Meter.find(tmp_path)
    assert meter is not None
    with pytest.raises(DeviceError, match="no sample"):
        meter.power_during(lambda: None)


def test_an_error_of_the_work_is_not_hidden(tmp_path: Path) -> None:
    """And the sampling ends with it."""
    orin_nano(tmp_path)
    meter = Ina3221Meter.find(tmp_path)
    assert meter is not None
    with pytest.raises(ZeroDivisionError):
        meter.power_during(lambda: print(1 // 0))


def server(root: Path) -> Path:
    """Two packages; cores are part of the first, memory is not."""
    zones = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram",
             "intel-rapl:1": "package-1", "intel-rapl:2": "psys"}  # fmt: skip
    for zone, name in zones.items():
        lay_out(
            root,
            {
                f"{RAPL}/{zone}/name": name,
                f"{RAPL}/{zone}/energy_uj": 1_000_000,
                f"{RAPL}/{zone}/max_energy_range_uj": 262_143_328_850,
            },
        )
    lay_out(root, {f"{RAPL}/intel-rapl/enabled": 1})
    return root / RAPL


def advancing(*steps_s: float) -> Callable[[], float]:
    times = iter(steps_s)
    return lambda: next(times)


def test_rapl_adds_packages_and_memory_but_not_the_parts_of_a_package(tmp_path: Path) -> None:
    """30 J + 10 J + 5 J in 3 s; cores and the platform counter would count twice."""
    folder = server(tmp_path)
    found = RaplMeter.find(tmp_path)
    assert found is not None
    meter = RaplMeter(zones=found.zones, clock_s=advancing(10.0, 13.0))

    def work() -> None:
        for zone, joules in {"0": 30, "0:0": 29, "0:1": 5, "1": 10, "2": 99}.items():
            (folder / f"intel-rapl:{zone}/energy_uj").write_text(f"{1_000_000 + joules * 1000000}")

    assert meter.name == "RAPL package-0 + dram + package-1"
    assert meter.power_during(work) == pytest.approx(15.0)


def test_a_rapl_counter_that_wrapped_went_on_from_zero(tmp_path: Path) -> None:
    """At 200 W it does so every twenty minutes."""
    folder = server(tmp_path)
    counter = folder / "intel-rapl:0/energy_uj"
    counter.write_text("262143328000")
    found = RaplMeter.find(tmp_path)
    assert found is not None
    meter = RaplMeter(zones=found.zones[:1], clock_s=advancing(0.0, 2.0))
    power_w = meter.power_during(lambda: print(counter.write_text("19999150")))
    assert power_w == pytest.approx(10.0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_counters_for_root_only_say_so_as_a_user(tmp_path: Path) -> None:
    """Since Linux 5.10."""
    (server(tmp_path) / "intel-rapl:0/energy_uj").chmod(0)
    with pytest.raises(DeviceError, match="root only"):
        find_meter(tmp_path)


def test_counters_for_root_only_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where the tests run as root: the system refuses to open the file."""
    server(tmp_path)
    original = Path.read_text

    def refuse(path: Path, *arguments: object, **named: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return original(path, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(DeviceError, match="root only") as caught:
        find_meter(tmp_path)
    assert "as root" in caught.value.hint


def test_a_counter_with_rubbish_is_a_clear_error(tmp_path: Path) -> None:
    """Never a zero."""
    folder = server(tmp_path)
    (folder / "intel-rapl:0/energy_uj").write_text("\x00\x00")
    with pytest.raises(DeviceError, match="energy_uj"):
        find_meter(tmp_path)
