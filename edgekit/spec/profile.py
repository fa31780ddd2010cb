"""What a device and a link can do: from a datasheet, or measured by the runtime that runs there.

In:  device_profiles/NAME.toml.  Out: ceilings, overheads and kernel times in SI, with where they
come from. A datasheet knows peaks only; a measured profile also knows what the runtime attains,
how long single kernels take, and how far its own predictions were off on models it had not seen.
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Literal

import msgspec

from edgekit.errors import ConfigError
from edgekit.spec.base import Spec
from edgekit.spec.measured import (
    Conditions,
    Energy,
    KernelTime,
    Precision,
    PredictionError,
    ProviderKernels,
    SessionMemory,
    WeightRead,
)
from edgekit.units import parse_bandwidth, parse_duration, parse_rate, parse_size

__all__ = [
    "Ceiling",
    "Conditions",
    "DeviceProfile",
    "Energy",
    "KernelTime",
    "LinkProfile",
    "Precision",
    "PredictionError",
    "ProviderKernels",
    "SessionMemory",
    "WeightRead",
]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Names are file names and MQTT topic levels."""
_PROCESSOR = {
    "cuda": "gpu", "tensorrt": "gpu", "tensorrt-dla": "gpu", "tensorrt-ep": "gpu",
    "tensorrt-rtx-ep": "gpu", "xnnpack": "cpu",
}  # fmt: skip
"""Which processor each execution provider drives."""
_FASTEST_FLOP_PER_S = 1e16
_FASTEST_BYTES_PER_S = 1e14
_LARGEST_BYTES = 1 << 50


class Ceiling(Spec, frozen=True, kw_only=True):
    """The compute roof of one precision under one execution provider."""

    precision: Precision
    compute: str
    """Such as "472 Gflop/s" or, for int8, "21 Top/s"; a multiply-add counts as two."""
    provider: str = "cpu"
    """As measured: "cpu", "xnnpack", "cuda", "tensorrt" (TensorRT itself), or "tensorrt-ep" and
    "tensorrt-rtx-ep" (inside ONNX Runtime); in datasheets "cpu" or "gpu"."""
    sustained: str = ""
    """The same after minutes of load, where that was measured."""
    launch_overhead: str = ""
    """Per kernel under this provider; empty means that of the profile."""
    session_overhead: str = ""
    """Per inference under this provider; empty means that of the profile."""
    copy_bandwidth: str = ""
    """Of tensors between the host's memory and this provider's; empty where it has none."""
    memory_bandwidth: str = ""
    """Of the memory that this provider computes in; empty means that of the profile."""

    def __post_init__(self) -> None:
        where = f"ceiling {self.precision} on {self.provider!r}"
        if not _NAME.fullmatch(self.provider):
            raise ConfigError(
                f"{where}: provider is no name", hint="write cpu, gpu, cuda, tensorrt or xnnpack"
            )
        _quantity(f"{where}: compute", self.compute, parse_rate, 1e6, _FASTEST_FLOP_PER_S)
        if self.sustained:
            _quantity(f"{where}: sustained", self.sustained, parse_rate, 1e6, _FASTEST_FLOP_PER_S)
        for field in ("launch_overhead", "session_overhead"):
            if text := getattr(self, field):
                _quantity(f"{where}: {field}", text, parse_duration, 0, 1.0)
        for field in ("copy_bandwidth", "memory_bandwidth"):
            if text := getattr(self, field):
                _quantity(f"{where}: {field}", text, parse_bandwidth, 1e6, _FASTEST_BYTES_PER_S)

    @property
    def flop_per_s(self) -> float:
        """The roof in SI; integer operations count like flop."""
        return parse_rate(self.compute)

    @property
    def sustained_flop_per_s(self) -> float:
        """The roof after minutes of load; the short one where that is not known."""
        return parse_rate(self.sustained or self.compute)


class DeviceProfile(Spec, frozen=True, kw_only=True):
    """One device, as saved in device_profiles/NAME.toml."""

    name: str
    source: Literal["datasheet", "measured"]
    reference: str
    """Which datasheet (title and version), or who measured."""
    processor: str
    memory: str
    memory_bandwidth: str
    ceiling: tuple[Ceiling, ...]
    note: str = ""
    date: str = ""
    edgekit_version: str = ""
    runtime: str = ""
    """Such as "onnxruntime 1.31.1"; a profile of another runtime or version is stale."""
    threads: int = 1
    memory_bandwidth_sustained: str = ""
    cache_bandwidth: str = ""
    launch_overhead: str = "0 s"
    """Per kernel."""
    session_overhead: str = "0 s"
    """Per inference, whatever the shard."""
    copy_bandwidth: str = ""
    """Of tensors between buffers in this process: what (de)serialising costs."""
    kernel: tuple[KernelTime, ...] = ()
    reach: dict[str, tuple[float, ...]] = msgspec.field(default_factory=dict)
    """Per family of kernels, over which distance each size tells of its neighbours."""
    weight_read: tuple[WeightRead, ...] = ()
    """By rising footprint; kernels in the table found their weights in the caches."""
    in_network: float = 1.0
    """How many times longer kernels take inside a network than in the table."""
    fused: tuple[str, ...] = ()
    """Kernel groups that the runtime was seen to launch as one, such as "Conv+Relu"."""
    error: PredictionError | None = None
    conditions: Conditions = msgspec.field(default_factory=Conditions)
    energy: Energy | None = None
    session_memory: SessionMemory | None = None
    under: tuple[ProviderKernels, ...] = ()
    """Kernels under other providers; ``kernel`` holds those of the CPU's."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"profile name {self.name!r} is no file name",
                hint="use letters, digits, dots and -, such as raspberry-pi-4",
            )
        self._check_quantities()
        self._check_ceilings()
        self._check_source()

    def _check_quantities(self) -> None:
        where = f"profile {self.name}"
        _quantity(f"{where}: memory", self.memory, parse_size, 1 << 20, _LARGEST_BYTES)
        for field in ("memory_bandwidth", "memory_bandwidth_sustained", "cache_bandwidth",
                      "copy_bandwidth"):  # fmt: skip
            text = getattr(self, field)
            if text or field == "memory_bandwidth":
                _quantity(f"{where}: {field}", text, parse_bandwidth, 1e6, _FASTEST_BYTES_PER_S)
        for field in ("launch_overhead", "session_overhead"):
            _quantity(f"{where}: {field}", getattr(self, field), parse_duration, 0, 1.0)
        _within(f"profile {self.name}: in_network", self.in_network, 0.1, 10.0)
        if not 1 <= self.threads <= 1024:
            raise ConfigError(f"{where}: threads is {self.threads}", hint="write 1 or more")

    def _check_ceilings(self) -> None:
        if not self.ceiling:
            raise ConfigError(
                f"profile {self.name} has no [[ceiling]]",
                hint="compare it with device_profiles/jetson-nano.toml",
            )
        keys = [(one.precision, one.provider) for one in self.ceiling]
        for precision, provider in keys:
            if keys.count((precision, provider)) > 1:
                raise ConfigError(
                    f"profile {self.name} has two ceilings for {precision} on {provider}",
                    hint="leave out one of them",
                )

    def _check_source(self) -> None:
        if not self.reference:
            raise ConfigError(
                f"profile {self.name}: reference is empty",
                hint="name the datasheet, or who measured",
            )
        if self.date and not _is_date(self.date):
            raise ConfigError(
                f"profile {self.name}: date {self.date!r} is no day", hint="write it as 2025-12-31"
            )
        if self.source == "measured" and not self.runtime:
            raise ConfigError(
                f"profile {self.name} is measured, but names no runtime",
                hint='run edgekit profile again, or write source = "datasheet"',
            )
        measurements = (self.kernel, self.error, self.energy, self.session_memory, self.under)
        if self.source == "datasheet" and any(measurements):
            raise ConfigError(
                f"profile {self.name} comes from a datasheet, but holds measurements",
                hint='write source = "measured" and the runtime, or leave the measurements out',
            )

    @property
    def memory_bytes(self) -> int:
        """Size of the memory that shards share with the system."""
        return parse_size(self.memory)

    @property
    def memory_bytes_per_s(self) -> float:
        """The memory roof."""
        return parse_bandwidth(self.memory_bandwidth)

    @property
    def launch_overhead_s(self) -> float:
        """Time that every kernel costs besides its work."""
        return parse_duration(self.launch_overhead)

    @property
    def session_overhead_s(self) -> float:
        """Time that every inference costs besides its kernels."""
        return parse_duration(self.session_overhead)

    def roof(self, precision: Precision, provider: str = "cpu") -> Ceiling | None:
        """The ceiling of one precision under one provider, or None if it is not known.

        Where the provider itself was not measured, the processor that it drives bounds it.
        """
        known = {(one.precision, one.provider): one for one in self.ceiling}
        processor = _PROCESSOR.get(provider, provider)
        return known.get((precision, provider)) or known.get((precision, processor))

    def seen_by(self, provider: str, precision: Precision = "fp32") -> "DeviceProfile":
        """This device as shards at ``precision`` under ``provider`` see it.

        What was measured of the CPU's kernels, caches and overheads says nothing of a GPU: there
        the provider's own kernels and overheads take their place, or none and the roofline alone.
        """
        if _PROCESSOR.get(provider, provider) == "cpu" or self.source == "datasheet":
            return self
        own = [one for one in self.under if (one.provider, one.precision) == (provider, precision)]
        roof = self.roof(precision, provider)
        memory = roof.memory_bandwidth if roof else ""
        return msgspec.structs.replace(
            self,
            memory_bandwidth=memory or self.memory_bandwidth,
            kernel=own[0].kernel if own else (),
            fused=own[0].fused if own else (),
            reach=own[0].reach if own else {},
            weight_read=(),
            cache_bandwidth="",
            copy_bandwidth=roof.copy_bandwidth if roof else "",
            in_network=1.0,
            error=None,
            session_memory=None,
            launch_overhead=(roof.launch_overhead if roof else "") or self.launch_overhead,
            session_overhead=(roof.session_overhead if roof else "") or self.session_overhead,
        )

    def ridge_flop_per_byte(self, ceiling: Ceiling) -> float:
        """Intensity from which on the compute roof binds (Williams et al., CACM 2009)."""
        bandwidth = parse_bandwidth(ceiling.memory_bandwidth or self.memory_bandwidth)
        return ceiling.flop_per_s / bandwidth

    def is_stale(self, runtime: str) -> bool:
        """True if it was measured with another runtime or version than ``runtime``."""
        return self.source == "measured" and self.runtime != runtime


class LinkProfile(Spec, frozen=True, kw_only=True):
    """One direction of a link, measured by one end's clock only."""

    source: str
    target: str
    bandwidth_bytes_per_s: float
    """Payload of one TCP connection, as a hop is: about 0.956 of an Ethernet's line rate."""
    rtt_p50_s: float
    rtt_p99_s: float
    loss: float = 0.0
    """Share of probes that did not come back."""
    spread: float = 0.0
    """(largest - smallest) / median of the repeated bandwidths."""
    train_bytes_per_s: float = 0.0
    """The same bandwidth by packet trains alone; 0 where they could not tell."""
    bulk_bytes_per_s: float = 0.0
    """The same bandwidth by bulk transfers alone; 0 where there were none."""
    method: str = ""
    """Which of them the bandwidth is from."""

    def __post_init__(self) -> None:
        _within("bandwidth_bytes_per_s", self.bandwidth_bytes_per_s, 1.0, _FASTEST_BYTES_PER_S)
        _within("rtt_p50_s", self.rtt_p50_s, 0.0, 3600.0)
        _within("rtt_p99_s", self.rtt_p99_s, self.rtt_p50_s, 3600.0)
        _within("loss", self.loss, 0.0, 1.0)
        _within("spread", self.spread, 0.0, 1e6)
        for field in ("train_bytes_per_s", "bulk_bytes_per_s"):
            _within(field, getattr(self, field), 0.0, _FASTEST_BYTES_PER_S)

    def transfer_s(self, size_bytes: float) -> float:
        """Time for ``size_bytes`` to cross: half a round trip, then the bytes."""
        return self.rtt_p50_s / 2 + size_bytes / self.bandwidth_bytes_per_s


class LinkReport(Spec, frozen=True, kw_only=True):
    """What one probe of a link found, both ways: what `edgekit link --save` writes."""

    link: tuple[LinkProfile, ...]
    note: tuple[str, ...] = ()
    """What to know before trusting the numbers."""


def _is_date(text: str) -> bool:
    try:
        datetime.strptime(text, "%Y-%m-%d")
    except ValueError:
        return False
    return True


def _quantity(
    what: str, text: str, parse: Callable[[str], float], least: float, most: float
) -> None:
    """Check one text with a unit; errors name the field."""
    try:
        value = parse(text)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error.what}", hint=error.hint) from None
    _within(f"{what} {text!r}", value, least, most)


def _within(what: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ConfigError(
            f"{what} is {value:.3g} in SI units, outside {least:.3g}..{most:.3g}",
            hint="check number and unit (a Pi 4 has about 48 Gflop/s and 4 GB/s)",
        )
