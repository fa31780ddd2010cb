"""What was measured of a device: kernels, weights read cold, memory, power, and how wrong it is.

In:  numbers from the profiler, or a file.  Out: checked facts, parts of a ``DeviceProfile``.
"""

import math
import re
from typing import Literal

import msgspec

from edgekit.errors import ConfigError
from edgekit.spec.base import Spec

Precision = Literal["fp32", "fp16", "int8"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LARGEST_BYTES = 1 << 50


class KernelTime(Spec, frozen=True, kw_only=True):
    """One kernel, timed alone in the runtime.

    ``key`` names operator and attributes without sizes, such as "Conv 3x3 s1 g1 +Relu"; ``sizes``
    are the numbers that the time depends on, in the order the key fixes.
    """

    key: str
    sizes: tuple[int, ...]
    time_s: float
    spread: float = 0.0
    """(p90 - p10) / median of the repetitions."""

    def __post_init__(self) -> None:
        is_time = math.isfinite(self.time_s) and self.time_s > 0
        is_spread = math.isfinite(self.spread) and self.spread >= 0
        if not (self.key and self.sizes and min(self.sizes) >= 0 and is_time and is_spread):
            raise ConfigError(
                f"kernel {self.key!r} {self.sizes} takes {self.time_s} s, spread {self.spread}",
                hint="measure the profile again",
            )


class ProviderKernels(Spec, frozen=True, kw_only=True):
    """Kernels of one precision under a provider other than the CPU's, and how it groups them."""

    provider: str
    precision: Precision
    runtime: str
    """What ran them, such as "tensorrt 10.3.0"."""
    kernel: tuple[KernelTime, ...]
    fused: tuple[str, ...] = ()
    """Kernel groups that it was seen to launch as one, such as "Conv+Relu"."""
    reach: dict[str, tuple[float, ...]] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (_NAME.fullmatch(self.provider) and self.runtime and self.kernel):
            raise ConfigError(
                f"kernels under {self.provider!r}, {self.precision}: provider, runtime or the "
                "kernels are missing",
                hint="measure the profile again",
            )


class WeightRead(Spec, frozen=True, kw_only=True):
    """What a byte of weights costs besides its kernel's own time, where ``footprint_bytes`` of
    weights and activations take turns in the caches."""

    footprint_bytes: int
    s_per_byte: float

    def __post_init__(self) -> None:
        if not (self.footprint_bytes > 0 and 0 <= self.s_per_byte < 1e-6):
            raise ConfigError(
                f"weights at {self.footprint_bytes} bytes cost {self.s_per_byte} s a byte",
                hint="measure the profile again",
            )


class PredictionError(Spec, frozen=True, kw_only=True):
    """How far predictions of shards of unseen models were off (leave one model out)."""

    shard_count: int
    model_count: int
    mape_percent: float
    within_10_percent: float
    """Share of shards within 10 % of the measurement [%]."""
    worst_percent: float

    def __post_init__(self) -> None:
        ordered = 0 <= self.mape_percent <= self.worst_percent < math.inf
        counted = self.shard_count >= 1 and self.model_count >= 1
        if not (ordered and counted and 0 <= self.within_10_percent <= 100):
            raise ConfigError(
                f"error of {self.shard_count} shards of {self.model_count} models: mape_percent "
                f"{self.mape_percent}, within_10_percent {self.within_10_percent}, "
                f"worst_percent {self.worst_percent} cannot be",
                hint="measure the profile again",
            )


class Conditions(Spec, frozen=True, kw_only=True):
    """What the board was like while it was measured; empty where it does not say."""

    load_1min: float = 0.0
    governor: str = ""
    power_mode: str = ""
    throttle_flags: str = ""
    temperature_before_celsius: float | None = None
    temperature_after_celsius: float | None = None
    scatter: float = 0.0
    """p90 / p10 of equal pieces of work; 0 where it was not measured. Far above 1, something takes
    turns with us that no load shows: the other half of a core, another virtual machine."""


class Energy(Spec, frozen=True, kw_only=True):
    """Power drawn, measured by a meter; never derived from work."""

    meter: str
    idle_w: float
    busy_w: float

    def __post_init__(self) -> None:
        if not self.meter or not 0 <= self.idle_w <= self.busy_w < math.inf:
            raise ConfigError(
                f"energy: meter {self.meter!r} read {self.idle_w} W idle, {self.busy_w} W busy",
                hint="name the meter, and check that busy_w is at least idle_w",
            )

    def inference_j(self, time_s: float) -> float:
        """Energy that ``time_s`` of inference takes on top of idling."""
        return (self.busy_w - self.idle_w) * time_s


class SessionMemory(Spec, frozen=True, kw_only=True):
    """What a session takes besides the bytes of its model, in this runtime; over a bare process."""

    base_bytes: int
    """Of a session that does almost nothing."""
    operator_bytes: int
    """Of each operator's bookkeeping."""
    conv_weight_factor: float
    """Copies of a convolution's weights at the worst moment of loading."""
    activation_factor: float
    """Bytes of buffers per byte of activations that are alive at once."""
    shard_count: int
    """Networks that the error is from."""
    mape_percent: float

    def __post_init__(self) -> None:
        factors = (self.conv_weight_factor, self.activation_factor)
        is_size = 0 <= self.base_bytes < _LARGEST_BYTES and 0 <= self.operator_bytes < 1 << 24
        is_error = 0 <= self.mape_percent < math.inf and self.shard_count >= 0
        if not (is_size and is_error and all(0 <= factor <= 20 for factor in factors)):
            raise ConfigError(
                f"session memory of {self.base_bytes} + {self.operator_bytes} bytes an operator, "
                f"factors {self.conv_weight_factor} and {self.activation_factor}, error "
                f"{self.mape_percent} % cannot be",
                hint="measure the profile again",
            )
