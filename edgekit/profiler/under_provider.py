"""What runs probes under one provider: ONNX Runtime with it, or TensorRT itself.

In:  the name of a provider.  Out: a ProbeRuntime, the port through which everything here that
measures another provider than the CPU's loads its models. Nothing of CUDA or TensorRT is imported
before a provider that needs it is asked for, and then it was first tried in another process.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import ConfigError, DeviceError
from edgekit.runtime.ort import OrtSession, available_providers, runtime_name
from edgekit.runtime.provider_check import check_provider
from edgekit.runtime.provider_names import INSTALL, NATIVE
from edgekit.runtime.session import Session
from edgekit.runtime.tensorrt import probe
from edgekit.spec.profile import Precision

OpenSession = Callable[[Path, Precision], Session]
ON_GPU = ("cuda", NATIVE, "tensorrt-ep", "tensorrt-rtx-ep")
"""Providers whose kernels run while the processor waits, on memory of their own."""
_INTEGER = (NATIVE, "tensorrt-ep", "tensorrt-rtx-ep")
"""Those that run Q/DQ pairs as integers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRuntime:
    """One provider, ready to load models of static shapes."""

    provider: str
    name: str
    """With its version, such as "TensorRT 10.3.0"."""
    open_session: OpenSession
    precisions: tuple[Precision, ...]


def usable_providers() -> tuple[str, ...]:
    """Providers besides the CPU's that were seen to compute here, TensorRT itself first."""
    names = [NATIVE, *(name for name in available_providers() if name != "cpu")]
    return tuple(name for name in names if check_provider(name).starts)


def refuse_absent(provider: str) -> None:
    """Raise ConfigError, with what to install, if ``provider`` cannot run anything here."""
    check = check_provider(provider)
    if not check.starts:
        ask = "run `edgekit doctor`: it names the package or the driver that is missing"
        hint = INSTALL.get(provider, ask)
        raise ConfigError(f"the provider {provider} cannot be measured: {check.reason}", hint=hint)


def runtime_under(provider: str, *, cache: Path, tf32: bool = False) -> ProbeRuntime:
    """The runtime of ``provider``, which keeps its engines in ``cache``.

    ``tf32``: products of fp32 may be rounded to 11 bits where the GPU likes that. Shards run
    without it unless their recipe says so, and so are priced without it.

    Raises: DeviceError if TensorRT was asked for and does not import.
    """
    if provider == NATIVE:
        return _native(cache, tf32=tf32)

    def open_session(path: Path, precision: Precision) -> Session:
        return OrtSession(path, provider=provider, precision=precision, cache=cache, tf32=tf32)

    return ProbeRuntime(
        provider=provider, name=runtime_name(), open_session=open_session,
        precisions=precisions_of(provider),
    )  # fmt: skip


def precisions_of(provider: str) -> tuple[Precision, ...]:
    """Those that it runs as such: ONNX Runtime's CUDA provider computes Q/DQ models in floats."""
    return ("fp32", "fp16", "int8") if provider in _INTEGER else ("fp32", "fp16")


def _native(cache: Path, *, tf32: bool) -> ProbeRuntime:
    name = probe.native_name()
    if not name:
        raise DeviceError(probe.missing_reason(), hint="run `edgekit doctor`")

    def open_session(path: Path, precision: Precision) -> Session:
        return probe.open_session(path, cache=cache, tf32=tf32, precision=precision)

    return ProbeRuntime(
        provider=NATIVE, name=name, open_session=open_session, precisions=precisions_of(NATIVE)
    )
