"""From a shared library that is not there, or too old, to the command that brings it.

In:  a reason in words.  Out: a command, or nothing.
"""

import re

from edgekit.profiler.checkup.host import Host
from edgekit.profiler.checkup.jetpack import chip_of, jetpack_of, l4t_release
from edgekit.runtime.provider_check import missing_library

_ABSENT = re.compile(r"(?:needs|there is no) (lib[\w.+-]+)")
"""How ``in_words`` and TensorRT's own search for CUDA say that a library is not there."""
_NAMED = re.compile(r"\b(lib[\w+-]+?)\.so\.?(\d*)")
_OLD_DRIVER = ("driver version is insufficient", "installed CUDA driver", "driver is older")
_CUDA_PACKAGES = ("libcudart", "libcublas", "libcublasLt", "libcudnn", "libcufft", "libcurand",
                  "libnvrtc", "libcusparse")  # fmt: skip


def fix_of_library(reason: str, host: Host) -> str:
    """The command that brings the library or the driver that ``reason`` misses, or nothing."""
    is_jetson = bool(chip_of(host.text("proc/device-tree/compatible"))[0])
    if any(words in reason for words in _OLD_DRIVER):
        return "flash a newer JetPack" if is_jetson else "sudo ubuntu-drivers install, then reboot"
    absent = _ABSENT.search(reason)
    found = _NAMED.search(missing_library(reason) or (absent[1] if absent else ""))
    if found is None:
        return ""
    library, version = found[1], found[2]
    if is_jetson:
        return _on_jetson(library, host)
    return _elsewhere(library, version)


def _on_jetson(library: str, host: Host) -> str:
    """JetPack's own packages: wheels for servers do not run on its GPU."""
    jetpack = jetpack_of(l4t_release(host.text("etc/nv_tegra_release")))
    if library == "libcuda":
        return "sudo apt install nvidia-l4t-cuda (in a container: docker run --runtime nvidia)"
    if library.startswith("libnvdla"):
        return "sudo apt install nvidia-l4t-dla-compiler"
    if library.startswith(("libnvinfer", "libnvonnxparser")):
        return "sudo apt install tensorrt"
    if library == "libcudart" and jetpack:
        return f"sudo apt install {jetpack.cudart_package}"
    if library in _CUDA_PACKAGES:
        return "sudo apt install nvidia-jetpack"
    return ""


def _elsewhere(library: str, version: str) -> str:
    """A PC or a server, where libraries may come as Python packages."""
    if library == "libcuda":
        return "sudo ubuntu-drivers install (in a container: docker run --gpus all)"
    if library.startswith(("libnvinfer", "libnvonnxparser")):
        return f"pip install 'tensorrt{'==' + version + '.*' if version else ''}'"
    if library == "libcudart":
        # From CUDA 13 on the packages' names say no version.
        name = f"nvidia-cuda-runtime-cu{version}" if version in ("11", "12") else ""
        return f"pip install {name or 'nvidia-cuda-runtime'}"
    if library in _CUDA_PACKAGES:
        return "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    if library in ("libGL", "libgthread-2", "libglib-2"):
        return "sudo apt install libgl1 libglib2.0-0"
    return ""
