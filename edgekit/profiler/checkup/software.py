"""Check-up of the software that every board needs: Python, numpy, ONNX Runtime, OpenCV, codecs.

In:  a Host.  Out: Findings.  Each probe looks at one thing and starts nothing but what it tests.
"""

import re

from edgekit.profiler.checkup.finding import Finding
from edgekit.profiler.checkup.fixes import fix_of_library
from edgekit.profiler.checkup.gpu import has_gpu
from edgekit.profiler.checkup.host import Host
from edgekit.profiler.checkup.jetpack import chip_of, jetpack_of, l4t_release
from edgekit.runtime.provider_names import INSTALL

_OLDEST_PYTHON = (3, 10)
_NEWEST_ORT = {(3, 10): "1.23.2"}
"""By version of Python, where that is not the newest one."""
_ILLEGAL_INSTRUCTION = "signal 4"
_CODECS = ("lz4", "zstandard")
_VIDEO = ("FFMPEG", "v4l/v4l2", "GStreamer")


def check_python(host: Host) -> Finding:
    """Is it new enough?"""
    text = ".".join(map(str, host.python))
    if host.python >= _OLDEST_PYTHON:
        return Finding(name="Python", status="ok", says=f"{text} on {host.machine}")
    jetpack = jetpack_of(l4t_release(host.text("etc/nv_tegra_release")))
    fix = jetpack.advice if jetpack else "install a system image with Python 3.10 or newer"
    return Finding(name="Python", status="missing", says=f"{text}, needs 3.10", fix=fix)


def check_numpy(host: Host) -> Finding:
    """Does it import? A wheel for another processor dies with a signal."""
    numpy = host.module("numpy")
    if numpy.works:
        return Finding(name="numpy", status="ok", says=numpy.version)
    fix = "pip install --force-reinstall 'numpy>=1.23'"
    return Finding(name="numpy", status="missing", says=numpy.reason, fix=fix)


def check_onnxruntime(host: Host) -> Finding:
    """Does it import, and is there one of it? Two packages bring the same module."""
    known = _NEWEST_ORT.get(host.python[:2], "")
    install = f"pip install 'onnxruntime{'==' + known if known else '>=1.21.1'}'"
    runtime = host.module("onnxruntime")
    if not runtime.works:
        # 1.21.0 was built with instructions that Cortex-A53 and A72 do not have.
        return Finding(name="onnxruntime", status="missing", says=runtime.reason, fix=install)
    packages = [name for name in ("onnxruntime", "onnxruntime-gpu") if host.distribution(name)]
    if len(packages) > 1:
        return Finding(
            name="onnxruntime", status="warn",
            says=f"{runtime.version}, but both {' and '.join(packages)} are installed, and each "
            "overwrites the other's files",
            fix="pip uninstall -y onnxruntime onnxruntime-gpu && pip install "
            f"{'onnxruntime-gpu' if has_gpu(host) else 'onnxruntime'}",
        )  # fmt: skip
    return Finding(name="onnxruntime", status="ok", says=runtime.version)


def check_providers(host: Host) -> list[Finding]:
    """Each execution provider of the installed onnxruntime, by a convolution that it computes."""
    return [_provider(host, name) for name in host.providers()]


def _provider(host: Host, name: str) -> Finding:
    title = f"provider {name}"
    found = host.provider(name)
    if found.starts:
        return Finding(name=title, status="ok", says="computes")
    if name == "cpu":
        fix = "pip install --force-reinstall 'onnxruntime>=1.21.1'"
        return Finding(name=title, status="missing", says=found.reason, fix=fix)
    if name != "xnnpack" and not has_gpu(host):
        says = f"{found.reason} (this board has no NVIDIA GPU)"
        return Finding(name=title, status="none", says=says)
    fix = fix_of_library(found.reason, host) or _provider_advice(name, found.reason)
    return Finding(name=title, status="warn", says=found.reason, fix=fix)


def _provider_advice(name: str, reason: str) -> str:
    if "kernels for this GPU" in reason:
        # PyPI's aarch64 wheels hold code for servers and desktops, not for Orin or Thor.
        return "use TensorRT itself (provider tensorrt), or an onnxruntime built for this board"
    return INSTALL.get(name, "use the provider cpu")


def check_opencv(host: Host) -> Finding:
    """How it was built: what it can read, and whether a Jetson's CSI camera is among that."""
    module = host.module("cv2")
    if not module.works:
        fix = fix_of_library(module.reason, host) or "pip install opencv-python-headless"
        return Finding(name="OpenCV", status="missing", says=module.reason, fix=fix)
    build = host.opencv_build()
    has = {name: _is_on(build, name) for name in _VIDEO}
    says = f"{module.version} with {', '.join(name for name in has if has[name]) or 'no video'}"
    lacks = [name for name in _VIDEO[:2] if not has[name]]
    if lacks:
        fix = "pip install --force-reinstall opencv-python-headless"
        return Finding(name="OpenCV", status="warn", says=f"{says}; no {lacks[0]}", fix=fix)
    is_jetson = bool(chip_of(host.text("proc/device-tree/compatible"))[0])
    if is_jetson and not has["GStreamer"]:
        return Finding(
            name="OpenCV", status="warn", says=f"{says}; without GStreamer no CSI camera",
            fix="pip uninstall opencv-python-headless && sudo apt install python3-opencv, in a "
            "virtual environment made with --system-site-packages",
        )  # fmt: skip
    return Finding(name="OpenCV", status="ok", says=says)


def _is_on(build: str, name: str) -> bool:
    return (
        re.search(rf"^\s*{re.escape(name)}:\s+YES", build, re.MULTILINE | re.IGNORECASE) is not None
    )


def check_codecs(host: Host) -> Finding:
    """The libraries that pack activations; only plans that use them need them."""
    found = {name: host.distribution(name) for name in _CODECS}
    absent = [name for name in _CODECS if not found[name]]
    if absent:
        says = f"no {' and no '.join(absent)}: hops cannot be packed with it"
        return Finding(name="codecs", status="warn", says=says, fix="pip install 'edgekit[codecs]'")
    says = ", ".join(f"{name} {version}" for name, version in found.items())
    return Finding(name="codecs", status="ok", says=says)
