"""Made-up boards for the check-up: files in a folder, and what libraries would answer."""

from dataclasses import dataclass, field
from pathlib import Path

from edgekit.profiler.checkup.host import CudaFacts, Host, Module
from edgekit.runtime.provider_check import ProviderCheck

OPENCV = """
  Video I/O:
    FFMPEG:                      YES
    GStreamer:                   {gstreamer}
    v4l/v4l2:                    YES (linux/videodev2.h)
"""
NO_DRIVER = "libcuda.so.1: cannot open shared object file: No such file or directory"


@dataclass
class World:
    """What a made-up board answers."""

    machine: str = "x86_64"
    python: tuple[int, int, int] = (3, 12, 3)
    modules: dict[str, Module] = field(default_factory=dict)
    distributions: dict[str, str] = field(default_factory=dict)
    providers: dict[str, str] = field(default_factory=lambda: {"cpu": ""})
    """Reason why each does not start; empty if it does."""
    native: str = ""
    """The same of TensorRT itself."""
    cuda: CudaFacts = CudaFacts(reason=NO_DRIVER)  # noqa: RUF009 - frozen
    buffers: str = "needs libcudart.so.12, which is not here"
    """Empty if there is a way."""
    tools: dict[str, str] = field(default_factory=dict)
    gstreamer: str = "NO"
    free_bytes: int = 50 << 30
    now_s: float = 1.9e9
    unreadable: tuple[str, ...] = ()


class FakeHost(Host):
    """A board below ``root`` that answers from a World."""

    def __init__(self, root: Path, world: World, files: dict[str, str]) -> None:
        super().__init__(root=root)
        object.__setattr__(self, "world", world)
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)

    world: World

    @property
    def machine(self) -> str:
        return self.world.machine

    @property
    def python(self) -> tuple[int, int, int]:
        return self.world.python

    @property
    def now_s(self) -> float:
        return self.world.now_s

    def output(self, *command: str) -> str:
        return self.world.tools.get(command[0], "")

    def module(self, name: str) -> Module:
        absent = Module(name=name, reason="is not installed", is_installed=False)
        return self.world.modules.get(name, absent)

    def distribution(self, name: str) -> str:
        return self.world.distributions.get(name, "")

    def providers(self) -> tuple[str, ...]:
        return tuple(self.world.providers)

    def provider(self, name: str) -> ProviderCheck:
        reason = self.world.native if name == "tensorrt" else self.world.providers[name]
        return ProviderCheck(provider=name, starts=not reason, reason=reason)

    def opencv_build(self) -> str:
        return OPENCV.format(gstreamer=self.world.gstreamer)

    def cuda(self) -> CudaFacts:
        return self.world.cuda

    def cuda_buffers(self) -> Module:
        return Module(name="libcudart 12.6", reason=self.world.buffers)

    def tool(self, name: str) -> str:
        return self.world.tools.get(name, "")

    def free_bytes(self, path: Path) -> int:
        return self.world.free_bytes

    def can_read(self, path: str) -> bool:
        return path not in self.world.unreadable


def works(*names: str) -> dict[str, Module]:
    """Modules that import."""
    return {name: Module(name=name, version="1.2.3") for name in names}


BASE = works("numpy", "onnxruntime", "cv2")
CODECS = {"lz4": "4.4.5", "zstandard": "0.25.0", "onnxruntime": "1.31.1"}
COMMON = {
    "proc/loadavg": "0.10 0.1 0.1 1/200 99",
    "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 6000000 kB\n",
    "sys/class/rtc/rtc0/name": "rtc",
    "dev/video0": "",
    "sys/class/video4linux/video0/name": "UVC Camera\n",
}


def jetson(root: Path, world: World, *, release: str, chip: str) -> FakeHost:
    """A Jetson with this release of Jetson Linux."""
    major, _, rest = release.partition(".")
    line = f"# R{major} (release), REVISION: {rest}, GCID: 1, BOARD: generic, EABI: aarch64"
    compatible = f"nvidia,p3768-0000\0nvidia,{chip}\0"
    world.machine = "aarch64"
    files = {"etc/nv_tegra_release": line, "proc/device-tree/compatible": compatible}
    return FakeHost(root, world, COMMON | files)


def raspberry_pi(root: Path, world: World) -> FakeHost:
    """A Pi 4 with its many video devices that are no cameras, and no clock of its own."""
    world.machine = "aarch64"
    files = {name: text for name, text in COMMON.items() if "rtc" not in name}
    files |= {
        "proc/device-tree/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
        "dev/video10": "",
        "sys/class/video4linux/video10/name": "bcm2835-codec-decode\n",
        "dev/video13": "",
        "sys/class/video4linux/video13/name": "bcm2835-isp-output0\n",
    }
    return FakeHost(root, world, files)


def pc(root: Path, world: World, *, has_gpu: bool) -> FakeHost:
    """A PC, with or without a card in it."""
    files = dict(COMMON)
    if has_gpu:
        files |= {
            "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
            "sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
        }
    return FakeHost(root, world, files)
