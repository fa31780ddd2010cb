"""Check-up of the GPU: the device, its driver, JetPack, TensorRT, and what holds its buffers.

In:  a Host.  Out: Findings.  On a board without an NVIDIA GPU nothing of this is missing.
"""

from edgekit.profiler.checkup.finding import Finding, Status
from edgekit.profiler.checkup.fixes import fix_of_library
from edgekit.profiler.checkup.host import Host, Module
from edgekit.profiler.checkup.jetpack import JetPack, chip_of, jetpack_of, l4t_release
from edgekit.runtime.provider_names import NATIVE

_NVIDIA, _DISPLAY = "0x10de", "0x03"
_SMI = ("nvidia-smi", "--query-gpu=name,compute_cap,driver_version,memory.total",
        "--format=csv,noheader")  # fmt: skip
_OLDEST_RTX = 7.5
"""Compute capability that TensorRT-RTX builds for (Turing)."""
_NEEDS_DRIVER = "is there, but its driver does not answer"


def has_gpu(host: Host) -> bool:
    """Whether there is an NVIDIA GPU, with or without a driver."""
    return bool(host.cuda().devices or _tegra(host)[0] or _on_bus(host) or host.output(*_SMI))


def capability(host: Host) -> str:
    """Compute capability of the first GPU, such as "8.7"; nothing if it is not known."""
    if devices := host.cuda().devices:
        return devices[0][1]
    fields = host.output(*_SMI).split("\n")[0].split(",")
    return fields[1].strip() if len(fields) > 1 else _tegra(host)[1]


def check_gpu(host: Host) -> Finding:
    """Which GPU, and does its driver answer?"""
    cuda, (family, _) = host.cuda(), _tegra(host)
    if cuda.devices:
        names = ", ".join(f"{name}, compute capability {cap}" for name, cap in cuda.devices)
        extra = [field.strip() for field in host.output(*_SMI).split("\n")[0].split(",")][2:]
        details = f"; driver {extra[0]}, {extra[1]}" if len(extra) == 2 else ""
        says = f"{names}; CUDA up to {cuda.driver}{details}"
        return Finding(name="GPU", status="ok", says=says)
    fix = fix_of_library(cuda.reason, host) or "reboot, then look at `nvidia-smi`"
    if family:
        says = f"the GPU of {family} {_NEEDS_DRIVER}: {cuda.reason}"
        return Finding(name="GPU", status="missing", says=says, fix=fix)
    if _on_bus(host) or host.output(*_SMI):
        says = f"an NVIDIA GPU {_NEEDS_DRIVER}: {cuda.reason}"
        return Finding(name="GPU", status="missing", says=says, fix=fix)
    return Finding(name="GPU", status="none", says="no NVIDIA GPU: shards run on the processor")


def check_jetpack(host: Host) -> Finding:
    """Which JetPack, and does this Python go with it?"""
    family, cap = _tegra(host)
    release = l4t_release(host.text("etc/nv_tegra_release"))
    if not family and not release:
        return Finding(name="JetPack", status="none", says="no Jetson")
    jetpack = jetpack_of(release)
    title = f"{family or 'Jetson'} (compute capability {cap or 'unknown'}), L4T {release or '?'}"
    if jetpack is None:
        says = f"{title}: a release that this edgekit does not know"
        fix = "look at /etc/nv_tegra_release; in a container mount it: -v /etc/nv_tegra_release"
        return Finding(name="JetPack", status="warn", says=says, fix=fix)
    says = (
        f"{title} = {jetpack.name}: Python {jetpack.python}, CUDA {jetpack.cuda}, TensorRT "
        f"{jetpack.tensorrt}, onnxruntime {jetpack.onnxruntime or 'none'} (CPU; a GPU build only "
        "from the community); GPU shards by TensorRT"
    )
    ours = ".".join(map(str, host.python[:2]))
    if ours != jetpack.python:
        says += f". This is Python {ours}, which cannot import the system's TensorRT"
        return Finding(name="JetPack", status="warn", says=says, fix=jetpack.advice)
    return Finding(name="JetPack", status="ok", says=says)


def check_tensorrt(host: Host) -> list[Finding]:
    """TensorRT and TensorRT-RTX: is there one that imports, and what keeps the other from it?"""
    full, rtx = host.module("tensorrt"), host.module("tensorrt_rtx")
    if not has_gpu(host):
        return [_idle("TensorRT", full), _idle("TensorRT-RTX", rtx)]
    found = [
        _library("TensorRT", full, rtx, _full_fix(host, full), without=_without(host)),
        _library("TensorRT-RTX", rtx, full, _rtx_fix(host, rtx), without=_without(host)),
    ]
    if full.works or rtx.works:
        found.append(_native(host))
    return found


def _native(host: Host) -> Finding:
    """One convolution by TensorRT itself: built here, run here, compared."""
    title, found = f"provider {NATIVE}", host.provider(NATIVE)
    if found.starts:
        return Finding(name=title, status="ok", says="builds an engine, and computes")
    fix = fix_of_library(found.reason, host) or "mend the GPU and CUDA buffers first"
    return Finding(name=title, status=_without(host), says=found.reason, fix=fix)


def _without(host: Host) -> Status:
    """How bad it is that TensorRT does not run: a GPU may still serve inside ONNX Runtime."""
    names = [name for name in host.providers() if name not in ("cpu", "xnnpack")]
    return "warn" if any(host.provider(name).starts for name in names) else "missing"


def check_buffers(host: Host) -> Finding:
    """What holds the inputs and outputs of engines: libcudart, cuda-python or pycuda."""
    if not has_gpu(host):
        return Finding(name="CUDA buffers", status="none", says="no NVIDIA GPU")
    found = host.cuda_buffers()
    if found.works:
        return Finding(name="CUDA buffers", status="ok", says=f"by {found.name}")
    fix = fix_of_library(found.reason, host) or "pip install cuda-python"
    return Finding(name="CUDA buffers", status=_without(host), says=found.reason, fix=fix)


def _idle(name: str, module: Module) -> Finding:
    """Without a GPU a TensorRT can still build engines for other devices."""
    if module.works:
        says = f"{module.version}: builds engines for other devices, runs none here"
        return Finding(name=name, status="ok", says=says)
    return Finding(name=name, status="none", says=f"{module.reason} (nor is there an NVIDIA GPU)")


def _library(name: str, module: Module, other: Module, fix: str, *, without: Status) -> Finding:
    if module.works:
        return Finding(name=name, status="ok", says=module.version)
    if other.works and not module.is_installed:
        return Finding(name=name, status="none", says="not installed, and not needed")
    if not fix:
        return Finding(name=name, status="none", says=f"{module.reason}, and not for this board")
    status: Status = "warn" if other.works else without
    return Finding(name=name, status=status, says=module.reason, fix=fix)


def _full_fix(host: Host, module: Module) -> str:
    if module.is_installed and (fix := fix_of_library(module.reason, host)):
        return fix
    jetpack = _jetpack(host)
    if jetpack:
        return jetpack.advice
    return "pip install 'edgekit[tensorrt]'"


def _rtx_fix(host: Host, module: Module) -> str:
    """Nothing where TensorRT-RTX cannot help: on Jetsons, and on GPUs before Turing."""
    cap = capability(host)
    number = float(cap) if cap.replace(".", "", 1).isdigit() else 0.0
    if _tegra(host)[0] or host.machine != "x86_64" or number < _OLDEST_RTX:
        return ""
    if module.is_installed and (fix := fix_of_library(module.reason, host)):
        return fix
    return "pip install 'edgekit[tensorrt-rtx]'"


def _jetpack(host: Host) -> JetPack | None:
    return jetpack_of(l4t_release(host.text("etc/nv_tegra_release")))


def _tegra(host: Host) -> tuple[str, str]:
    return chip_of(host.text("proc/device-tree/compatible"))


def _on_bus(host: Host) -> bool:
    """Whether the PCI bus has a display controller of NVIDIA's."""
    return any(
        host.text(path) == _NVIDIA
        and host.text(f"{path.rpartition('/')[0]}/class").startswith(_DISPLAY)
        for path in host.names("sys/bus/pci/devices/*/vendor")
    )
