"""What ``edgekit profile run`` measures besides: power, where there is a meter, and more providers.

In:  a measured DeviceProfile.  Out: the same with its energy, and with the roofs of other providers
and what their kernels take.
What was asked for and cannot be is refused before the long measurement; what fails after it is a
warning, and the profile is saved all the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from edgekit.cli.render import warn
from edgekit.errors import ConfigError, EdgeKitError
from edgekit.profiler.ceilings import busy_probe, provider_ceilings
from edgekit.profiler.energy import Meter, find_meter, measure_energy
from edgekit.profiler.energy_csv import CsvMeter
from edgekit.profiler.provider_kernels import measure_kernels, with_kernels
from edgekit.profiler.provider_roofs import gpu_ceilings
from edgekit.profiler.run import Progress
from edgekit.profiler.under_provider import ON_GPU, refuse_absent, runtime_under, usable_providers
from edgekit.runtime.ort import provider_chain
from edgekit.runtime.provider_names import engine_cache
from edgekit.spec.profile import DeviceProfile

METER_OPTION = click.option(
    "--meter",
    type=click.Choice(["auto", "none"]),
    default="auto",
    show_default=True,
    help="Measure power, if this board has a meter (Jetson, RAPL).",
)
CSV_OPTION = click.option(
    "--power-csv",
    type=click.Path(path_type=Path),
    help="Power from a USB meter's log, written meanwhile: columns time and W, or V and A.",
)
PROVIDER_OPTION = click.option(
    "--provider",
    "providers",
    multiple=True,
    help="Also measure under it: xnnpack, cuda, tensorrt (itself), tensorrt-ep, tensorrt-rtx-ep "
    "(inside onnxruntime). Default: all that work here.",
)
_KERNELS_S, _QUICK_KERNELS_S = 300.0, 20.0
"""Spent on the kernels of one provider of a GPU."""
_KERNEL_COUNT, _QUICK_KERNEL_COUNT = 300, 60
"""Of each precision at the most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What to measure besides, checked."""

    meter: Meter | None
    providers: tuple[str, ...]
    is_quick: bool

    def add_to(self, profile: DeviceProfile, tell: Progress) -> DeviceProfile:
        """``profile`` with what could be measured; a warning for what could not."""
        for provider in self.providers:
            tell(f"ceilings of {provider}", 1.0)
            try:
                if provider in ON_GPU:
                    profile = self._with_gpu(profile, provider, tell)
                else:
                    roofs = provider_ceilings(provider, threads=profile.threads)
                    profile = msgspec.structs.replace(profile, ceiling=(*profile.ceiling, *roofs))
            except EdgeKitError as error:
                warn(f"provider {provider} not measured: {error}")
        if self.meter is not None:
            tell(f"power by {self.meter.name}", 1.0)
            profile = self._with_energy(profile, self.meter)
        return profile

    def _with_gpu(self, profile: DeviceProfile, provider: str, tell: Progress) -> DeviceProfile:
        """The roofs, and the kernels where they can be had too."""
        runtime = runtime_under(provider, cache=engine_cache())
        roofs = gpu_ceilings(runtime)
        profile = msgspec.structs.replace(profile, ceiling=(*profile.ceiling, *roofs))
        budget_s = _QUICK_KERNELS_S if self.is_quick else _KERNELS_S
        most = _QUICK_KERNEL_COUNT if self.is_quick else _KERNEL_COUNT
        try:
            kernels = measure_kernels(runtime, budget_s=budget_s, most=most, tell=tell)
        except EdgeKitError as error:
            warn(f"kernels under {provider} not measured: {error}")
            return profile
        return with_kernels(profile, kernels)

    def _with_energy(self, profile: DeviceProfile, meter: Meter) -> DeviceProfile:
        idle_s, busy_s = (2.0, 4.0) if self.is_quick else (5.0, 10.0)
        try:
            energy = measure_energy(
                meter, busy_probe(threads=profile.threads), idle_s=idle_s, busy_s=busy_s
            )
        except EdgeKitError as error:
            warn(f"energy not measured: {error}")
            return profile
        return msgspec.structs.replace(profile, energy=energy)


def checked_extras(
    *, meter: str, power_csv: Path | None, providers: Sequence[str], is_quick: bool
) -> Extras:
    """What the options ask for.

    Raises: ConfigError for a provider that this runtime does not have, or a file that is not there.
    """
    if power_csv is not None and not power_csv.is_file():
        raise ConfigError(
            f"there is no file {power_csv}",
            hint="start the logger first, and give --power-csv the file it writes",
        )
    for provider in providers:
        if provider in ON_GPU:
            refuse_absent(provider)
        else:
            provider_chain(provider)
    chosen = tuple(dict.fromkeys(providers)) or usable_providers()
    return Extras(
        meter=CsvMeter(path=power_csv) if power_csv else _built_in(meter),
        providers=tuple(name for name in chosen if name != "cpu"),
        is_quick=is_quick,
    )


def _built_in(meter: str) -> Meter | None:
    if meter == "none":
        return None
    try:
        return find_meter()
    except EdgeKitError as error:
        warn(f"energy not measured: {error}")
        return None
