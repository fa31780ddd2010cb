"""The check-up names what is missing on each kind of board, and the command that mends it."""

import json
import sys
from pathlib import Path

import pytest
from checkup_hosts import BASE, CODECS, World, jetson, pc, raspberry_pi, works

from edgekit.profiler.checkup import cuda_child
from edgekit.profiler.checkup.examine import examine
from edgekit.profiler.checkup.finding import Finding, is_fit
from edgekit.profiler.checkup.fixes import fix_of_library
from edgekit.profiler.checkup.host import CudaFacts, Host, Module
from edgekit.profiler.checkup.jetpack import chip_of, jetpack_of, l4t_release

ORIN = CudaFacts(driver="12.6", devices=(("Orin", "8.7"),))


def by_name(found: tuple[Finding, ...]) -> dict[str, Finding]:
    names = [one.name for one in found]
    assert len(set(names)) == len(names)
    for one in found:
        assert one.says
        assert one.fix or one.status in ("ok", "none"), one
    return {one.name: one for one in found}


def test_a_jetson_with_jetpack_6_and_its_own_python_is_fit(tmp_path: Path) -> None:
    """The user's card: TensorRT of the system, CPU wheel of onnxruntime."""
    world = World(
        python=(3, 10, 12), modules=BASE | works("tensorrt"), distributions=CODECS, cuda=ORIN,
        buffers="", gstreamer="YES (1.20)",
    )  # fmt: skip
    found = examine(jetson(tmp_path, world, release="36.4.3", chip="tegra234"), folder=tmp_path)
    rows = by_name(found)
    assert is_fit(found)
    assert rows["GPU"].says.startswith("Orin, compute capability 8.7; CUDA up to 12.6")
    assert "L4T 36.4.3 = JetPack 6: Python 3.10, CUDA 12.6, TensorRT 10.3" in rows["JetPack"].says
    assert [rows[name].status for name in ("TensorRT", "TensorRT-RTX")] == ["ok", "none"]
    assert rows["provider tensorrt"].says == "builds an engine, and computes"


def test_on_a_jetson_a_tensorrt_without_its_dla_library_names_the_package(tmp_path: Path) -> None:
    """The wheel of another JetPack, or a container: the import dies on libnvdla_compiler.so."""
    broken = Module(name="tensorrt", reason="needs libnvdla_compiler.so, which is not here")
    world = World(
        python=(3, 10, 12), modules=BASE | {"tensorrt": broken}, distributions=CODECS, cuda=ORIN
    )
    found = examine(jetson(tmp_path, world, release="36.4.3", chip="tegra234"), folder=tmp_path)
    rows = by_name(found)
    assert not is_fit(found)
    assert rows["TensorRT"].status == "missing"
    assert rows["TensorRT"].fix == "sudo apt install nvidia-l4t-dla-compiler"
    assert rows["CUDA buffers"].fix == "sudo apt install cuda-cudart-12-6"
    assert "without GStreamer no CSI camera" in rows["OpenCV"].says


def test_on_orin_a_listed_provider_without_kernels_is_told_apart_from_a_missing_library(
    tmp_path: Path,
) -> None:
    """The aarch64 wheel of onnxruntime-gpu lists CUDA, and holds no code for sm_87."""
    providers = {"cpu": "", "cuda": "was built without kernels for this GPU",
                 "tensorrt-ep": "needs libnvinfer.so.10, which is not here"}  # fmt: skip
    world = World(
        python=(3, 10, 12), modules=BASE | works("tensorrt"), distributions=CODECS, cuda=ORIN,
        buffers="", providers=providers,
    )  # fmt: skip
    host = jetson(tmp_path, world, release="36.4.3", chip="tegra234")
    rows = by_name(examine(host, folder=tmp_path))
    assert rows["provider cuda"].status == rows["provider tensorrt-ep"].status == "warn"
    assert "provider tensorrt" in rows["provider cuda"].fix
    assert rows["provider tensorrt-ep"].fix == "sudo apt install tensorrt"


def test_jetpack_5_has_a_python_that_is_too_old(tmp_path: Path) -> None:
    """Its 3.8 takes onnxruntime 1.19.2 at most, and this package needs 3.10."""
    world = World(python=(3, 8, 10), modules=BASE, distributions=CODECS, cuda=ORIN, buffers="")
    found = examine(jetson(tmp_path, world, release="35.4.1", chip="tegra194"), folder=tmp_path)
    rows = by_name(found)
    assert not is_fit(found)
    assert "container with Python 3.10" in rows["Python"].fix
    assert "onnxruntime 1.19.2" in rows["JetPack"].says


def test_jetpack_7_in_a_virtual_environment_of_another_python_says_why_tensorrt_is_not_found(
    tmp_path: Path,
) -> None:
    """A Thor: nothing is broken, but 3.11 cannot see the system's 3.12 packages."""
    thor = CudaFacts(driver="13.2", devices=(("Thor", "11.0"),))
    world = World(python=(3, 11, 9), modules=BASE, distributions=CODECS, cuda=thor, buffers="")
    rows = by_name(
        examine(jetson(tmp_path, world, release="38.2.0", chip="tegra264"), folder=tmp_path)
    )
    assert rows["JetPack"].status == "warn"
    assert "This is Python 3.11" in rows["JetPack"].says
    assert "--system-site-packages" in rows["TensorRT"].fix
    assert rows["TensorRT"].status == "missing"


def test_a_jetson_whose_driver_is_hidden_by_a_container_is_told_how_to_start_it(
    tmp_path: Path,
) -> None:
    """Without --runtime nvidia there is no libcuda in the container."""
    world = World(python=(3, 10, 12), modules=BASE, distributions=CODECS)
    rows = by_name(
        examine(jetson(tmp_path, world, release="36.4.3", chip="tegra234"), folder=tmp_path)
    )
    assert rows["GPU"].status == "missing"
    assert "--runtime nvidia" in rows["GPU"].fix


def test_a_raspberry_pi_is_fit_without_any_of_nvidia_and_its_codecs_are_no_cameras(
    tmp_path: Path,
) -> None:
    """video10 and later are the decoder and the image processor; the clock forgets."""
    world = World(python=(3, 11, 2), modules=BASE, distributions={"onnxruntime": "1.31.1"})
    found = examine(raspberry_pi(tmp_path, world), folder=tmp_path)
    rows = by_name(found)
    assert is_fit(found)
    assert rows["cameras"].says == "/dev/video0 (UVC Camera)"
    assert rows["clock"].status == "warn"
    assert rows["codecs"].fix == "pip install 'edgekit[codecs]'"
    assert {rows[name].status for name in ("GPU", "TensorRT", "CUDA buffers")} == {"none"}


def test_a_pc_with_a_card_but_no_driver_is_told_to_install_one(tmp_path: Path) -> None:
    """The bus shows the card when nothing else does."""
    world = World(modules=BASE, distributions=CODECS, providers={"cpu": "", "cuda": "needs "
                  "libcublasLt.so.13, which is not here"})  # fmt: skip
    rows = by_name(examine(pc(tmp_path, world, has_gpu=True), folder=tmp_path))
    assert rows["GPU"].status == "missing"
    assert "ubuntu-drivers" in rows["GPU"].fix
    assert rows["provider cuda"].fix == "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    assert rows["TensorRT"].fix == "pip install 'edgekit[tensorrt]'"


def test_a_pc_with_one_working_tensorrt_does_not_ask_for_the_other(tmp_path: Path) -> None:
    """TensorRT-RTX is enough; and on a card before Turing it is not offered."""
    ada = CudaFacts(driver="13.0", devices=(("RTX 4090", "8.9"),))
    world = World(modules=BASE | works("tensorrt_rtx"), distributions=CODECS, cuda=ada, buffers="")
    found = examine(pc(tmp_path, world, has_gpu=True), folder=tmp_path)
    rows = by_name(found)
    assert is_fit(found)
    assert (rows["TensorRT"].status, rows["TensorRT-RTX"].status) == ("none", "ok")
    world.modules, world.cuda = BASE, CudaFacts(driver="12.2", devices=(("P100", "6.0"),))
    old = by_name(examine(pc(tmp_path, world, has_gpu=True), folder=tmp_path))
    assert old["TensorRT-RTX"].status == "none"


def test_a_card_that_onnxruntime_uses_is_enough(tmp_path: Path) -> None:
    """TensorRT would be faster, but shards run on the GPU as it is."""
    ada = CudaFacts(driver="13.0", devices=(("RTX 4090", "8.9"),))
    world = World(modules=BASE, distributions=CODECS, cuda=ada, providers={"cpu": "", "cuda": ""})
    found = examine(pc(tmp_path, world, has_gpu=True), folder=tmp_path)
    rows = by_name(found)
    assert is_fit(found)
    assert rows["TensorRT"].status == rows["CUDA buffers"].status == "warn"
    world.providers = {"cpu": "", "cuda": "was built without kernels for this GPU"}
    assert not is_fit(examine(pc(tmp_path, world, has_gpu=True), folder=tmp_path))


def test_an_engine_that_computes_wrong_numbers_is_missing_not_ok(tmp_path: Path) -> None:
    """An import that works proves nothing."""
    world = World(
        modules=BASE | works("tensorrt"), distributions=CODECS, buffers="",
        cuda=CudaFacts(driver="12.6", devices=(("Orin", "8.7"),)), python=(3, 10, 12),
        native="the provider tensorrt computes wrong numbers: off by 3",
    )  # fmt: skip
    host = jetson(tmp_path, world, release="36.4.3", chip="tegra234")
    rows = by_name(examine(host, folder=tmp_path))
    assert rows["provider tensorrt"].status == "missing"


def test_a_pc_without_a_card_is_fit_and_a_wheel_of_tensorrt_still_builds(tmp_path: Path) -> None:
    """Engines for boards can be built on any workstation."""
    world = World(modules=BASE | works("tensorrt_rtx"), distributions=CODECS)
    found = examine(pc(tmp_path, world, has_gpu=False), folder=tmp_path)
    assert is_fit(found)
    assert "builds engines for other devices" in by_name(found)["TensorRT-RTX"].says


@pytest.mark.parametrize(
    ("change", "name", "status"),
    [
        ({"providers": {"cpu": "its process was ended by signal 4"}}, "provider cpu", "missing"),
        ({"modules": {}}, "numpy", "missing"),
        ({"modules": works("numpy", "cv2")}, "onnxruntime", "missing"),
        ({"modules": works("numpy", "onnxruntime")}, "OpenCV", "missing"),
        ({"distributions": CODECS | {"onnxruntime-gpu": "1.31.1"}}, "onnxruntime", "warn"),
        ({"free_bytes": 100 << 20}, "disk", "missing"),
        ({"free_bytes": 700 << 20}, "disk", "warn"),
        ({"now_s": 1e9}, "clock", "missing"),
        ({"unreadable": ("dev/video0",)}, "cameras", "warn"),
    ],
)
def test_each_thing_that_can_be_wrong_is_seen(
    change: dict[str, object], name: str, status: str, tmp_path: Path
) -> None:
    """One at a time, on a machine that is fit otherwise."""
    world = World(**({"modules": BASE, "distributions": CODECS} | change))  # type: ignore[arg-type]
    found = examine(pc(tmp_path, world, has_gpu=False), folder=tmp_path)
    assert by_name(found)[name].status == status
    assert is_fit(found) == (status != "missing")


def test_little_memory_and_heat_are_seen(tmp_path: Path) -> None:
    """From files that every Linux has."""
    world = World(modules=BASE, distributions=CODECS)
    host = pc(tmp_path, world, has_gpu=False)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 500000 kB\nMemAvailable: 90000 kB\n")
    (tmp_path / "sys/class/thermal/thermal_zone0").mkdir(parents=True)
    (tmp_path / "sys/class/thermal/thermal_zone0/temp").write_text("91000\n")
    rows = by_name(examine(host, folder=tmp_path))
    assert rows["memory"].status == "missing"
    assert "91 degrees" in rows["heat and power"].says
    assert "heat sink" in rows["heat and power"].fix


@pytest.mark.parametrize(
    ("reason", "on_pc", "on_jetson"),
    [
        ("needs libcudart.so.12, which is not here", "pip install nvidia-cuda-runtime-cu12",
         "sudo apt install cuda-cudart-12-6"),
        ("needs libcudart.so.13, which is not here", "pip install nvidia-cuda-runtime",
         "sudo apt install cuda-cudart-12-6"),
        ("needs libnvinfer.so.10, which is not here", "pip install 'tensorrt==10.*'",
         "sudo apt install tensorrt"),
        ("no GPU can be used here (there is no libcuda.so.1)",
         "sudo ubuntu-drivers install (in a container: docker run --gpus all)",
         "sudo apt install nvidia-l4t-cuda (in a container: docker run --runtime nvidia)"),
        ("libcudart.so.13: error 35: CUDA driver version is insufficient for CUDA runtime version",
         "sudo ubuntu-drivers install, then reboot", "flash a newer JetPack"),
        ("libcudart.so.13 is there and something else is wrong", "", ""),
        ("needs libwhatever.so.1, which is not here", "", ""),
    ],
)  # fmt: skip
def test_a_reason_gives_the_command_of_the_system_it_is_on(
    reason: str, on_pc: str, on_jetson: str, tmp_path: Path
) -> None:
    """And none where a library is only mentioned."""
    card = pc(tmp_path / "pc", World(), has_gpu=True)
    board = jetson(tmp_path / "jetson", World(), release="36.4.3", chip="tegra234")
    assert fix_of_library(reason, card) == on_pc
    assert fix_of_library(reason, board) == on_jetson


@pytest.mark.parametrize(
    ("line", "release", "name"),
    [
        ("# R32 (release), REVISION: 7.1, GCID: 1, BOARD: t210ref", "32.7.1", "JetPack 4"),
        ("# R35 (release), REVISION: 4.1, GCID: 1, BOARD: t186ref", "35.4.1", "JetPack 5"),
        ("# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic", "36.4.3", "JetPack 6"),
        ("# R38 (release), REVISION: 2.0, GCID: 1, BOARD: generic", "38.2.0", "JetPack 7"),
        ("# R99 (release), REVISION: 1.0, GCID: 1, BOARD: generic", "99.1.0", ""),
        ("Debian 13", "", ""),
    ],
)
def test_a_release_of_jetson_linux_gives_its_jetpack(line: str, release: str, name: str) -> None:
    """And one that is not known gives none, instead of the nearest."""
    assert l4t_release(line) == release
    jetpack = jetpack_of(release)
    assert (jetpack.name if jetpack else "") == name


def test_a_chip_is_found_in_the_device_tree_s_list() -> None:
    """Zero bytes between the names."""
    assert chip_of("nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0") == (
        "Jetson Orin", "8.7"
    )  # fmt: skip
    assert chip_of("raspberrypi,5-model-b\0brcm,bcm2712\0") == ("", "")


def test_this_machine_s_libraries_are_tried_in_processes_of_their_own() -> None:
    """The real host: one that imports, one that is absent, one that does not exist."""
    host = Host()
    assert host.module("numpy").works
    assert "numpy" in sys.modules and "wave_that_is_not" not in sys.modules
    absent = host.module("wave_that_is_not")
    assert (absent.works, absent.is_installed, absent.reason) == (False, False, "is not installed")
    assert host.python == sys.version_info[:3]
    assert host.free_bytes(Path("/nowhere/at/all")) > 0


def test_a_module_that_kills_its_process_gives_the_signal_as_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a wheel for another processor does; and one that lacks a library names it."""
    (tmp_path / "deadly.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    text = "libnvdla_compiler.so: cannot open shared object file: No such file or directory"
    (tmp_path / "lacking.py").write_text(f"raise ImportError({text!r})\n")
    (tmp_path / "partial.py").write_text("import module_that_it_needs\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    host = Host()
    assert host.module("deadly").reason == "its process was ended by signal 4"
    assert host.module("lacking").reason == "needs libnvdla_compiler.so, which is not here"
    partial = host.module("partial")
    assert partial.is_installed and "module_that_it_needs" in partial.reason


def test_the_driver_is_asked_in_cuda_s_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    """Against a made-up driver: two devices, and one that finds none."""

    class Driver:
        """Answers as libcuda does."""

        code = 0

        def cuInit(self, flags: int) -> int:
            return self.code

        def cuDriverGetVersion(self, out: object) -> int:
            out._obj.value = 12060  # type: ignore[attr-defined]
            return 0

        def cuDeviceGetCount(self, out: object) -> int:
            out._obj.value = 1  # type: ignore[attr-defined]
            return 0

        def cuDeviceGet(self, out: object, index: int) -> int:
            return 0

        def cuDeviceGetName(self, buffer: object, size: int, device: object) -> int:
            buffer.value = b"Orin"  # type: ignore[attr-defined]
            return 0

        def cuDeviceGetAttribute(self, out: object, attribute: int, device: object) -> int:
            out._obj.value = {75: 8, 76: 7}[attribute]  # type: ignore[attr-defined]
            return 0

    driver = Driver()
    assert cuda_child.facts(driver) == ("12.6", [("Orin", "8.7")], "")  # type: ignore[arg-type]
    driver.code = 100
    assert cuda_child.facts(driver)[2] == "the driver finds no device"  # type: ignore[arg-type]
    cuda_child.main()
    assert set(json.loads(capsys.readouterr().out)) == {"driver", "devices", "reason"}
