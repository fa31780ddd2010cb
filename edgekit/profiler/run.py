"""Measure the whole profile of the device at hand: the one sequence that the command calls.

In:  how long it may take.  Out: a DeviceProfile.  Every kernel time goes to a journal as it is
known, so a run that was killed goes on where it stopped; the profile itself is written by the
caller, whole or not at all.
"""

import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from edgekit import __version__
from edgekit.errors import DeviceError
from edgekit.planner.kernel_model import KernelModel
from edgekit.planner.launches import LAYOUT, Habits
from edgekit.planner.predict import Predictor
from edgekit.profiler import ceilings
from edgekit.profiler.catalogue import catalogue, epilogues
from edgekit.profiler.conditions import after
from edgekit.profiler.habits import detect_habits
from edgekit.profiler.holdout import measure_made_up, with_error
from edgekit.profiler.kernel_table import Journal, measure_pack, packs, recording_s
from edgekit.profiler.memory import session_memory
from edgekit.profiler.weight_reads import weight_reads
from edgekit.runtime.ort import runtime_name
from edgekit.spec.profile import Ceiling, Conditions, DeviceProfile, KernelTime
from edgekit.spec.workload import KernelShape

logger = logging.getLogger(__name__)
Progress = Callable[[str, float], None]
"""Called with what is being done, and the share of the time that is used up (0..1)."""
_AGAIN_SHARE, _AGAIN_COUNT_SHARE = 0.9, 0.6
"""Until this share of the budget is used, those kernels are measured again that are slowest for
what their neighbours take: a disturbance may last for seconds, but seldom comes back."""
_NO_COPY_BYTES_PER_S = 2e11
_LEAST_KERNEL_SHARE = 0.4
_CEILING_SHARE = 0.15
_ADAPTIVE_SHARE = 0.25
"""Share of the kernels that is chosen where the first ones leave most doubt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileOptions:
    """What to measure, and for how long."""

    name: str
    threads: int = 1
    budget_s: float = 480.0
    """Of seconds, the sustained load not counted."""
    most_kernels: int = 2400
    sustained_minutes: float = 0.0
    extra_kernels: tuple[KernelShape, ...] = ()
    """Measured first, besides the catalogue: those of a certain model."""


@dataclass
class _Clock:
    """Shares out the budget and tells how far it is used."""

    budget_s: float
    progress: Progress
    began_s: float = field(default_factory=time.monotonic)

    def tell(self, text: str) -> None:
        self.progress(text, min(1.0, self.used_s / self.budget_s))

    @property
    def used_s(self) -> float:
        return time.monotonic() - self.began_s


def measure_profile(
    options: ProfileOptions, *, journal: Path, progress: Progress, conditions: Conditions
) -> DeviceProfile:
    """The profile of this device.

    Raises: DeviceError if the runtime fails or the journal cannot be written.
    """
    clock = _Clock(options.budget_s, progress)
    opened = _opened(journal, options)
    clock.tell("kernel groups")
    fused = detect_habits()
    roofs = _ceilings(options, clock)
    clock.tell("memory")
    bandwidth = ceilings.memory_bandwidth(budget_s=min(2.0, 0.02 * options.budget_s))
    cache = ceilings.cache_bandwidth(budget_s=0.3)
    clock.tell("overheads")
    extra = ceilings.overheads(threads=options.threads, budget_s=min(3.0, 0.03 * options.budget_s))
    reads = weight_reads(threads=options.threads, budget_s=min(4.0, 0.03 * options.budget_s))
    clock.tell("memory of sessions")
    sessions = session_memory(threads=options.threads, budget_s=min(20.0, 0.1 * options.budget_s))
    clock.tell("made-up networks")
    share_s = min(12.0, 0.05 * options.budget_s)
    times_s = measure_made_up(threads=options.threads, budget_s=share_s)
    kernels = _kernels(options, fused, clock, opened, roofs[0].flop_per_s, cache)
    profile = DeviceProfile(
        name=options.name,
        source="measured",
        reference=f"edgekit profile on {platform.node()}",
        processor=processor_name(),
        memory=f"{_memory_bytes() / 1e9:.4g} GB",
        memory_bandwidth=f"{bandwidth / 1e9:.4g} GB/s",
        cache_bandwidth=f"{cache / 1e9:.4g} GB/s",
        copy_bandwidth=_copied(extra.copy_bytes_per_s),
        launch_overhead=f"{1e6 * extra.launch_s:.4g} us",
        session_overhead=f"{1e6 * extra.session_s:.4g} us",
        ceiling=roofs,
        kernel=tuple(kernels),
        weight_read=reads,
        session_memory=sessions,
        fused=fused,
        threads=options.threads,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        edgekit_version=__version__,
        runtime=runtime_name(),
        conditions=conditions,
    )
    clock.tell("fit")
    profile = msgspec.structs.replace(profile, reach=Predictor(profile).kernels.fitted_reaches())
    clock.tell("made-up networks once more")
    again_s = measure_made_up(threads=options.threads, budget_s=share_s)
    # Minutes apart, the faster time of each: as with kernels, others only make it slower.
    profile = with_error(profile, [min(both) for both in zip(times_s, again_s, strict=True)])
    return msgspec.structs.replace(profile, conditions=after(conditions))


def _ceilings(options: ProfileOptions, clock: _Clock) -> tuple[Ceiling, ...]:
    """Those precisions that the runtime has, fp32 first."""
    share_s = _CEILING_SHARE * options.budget_s / len(ceilings.PRECISIONS)
    found = []
    for precision in ceilings.PRECISIONS:
        clock.tell(f"{precision} ceiling")
        rate = ceilings.compute_ceiling(
            precision, threads=options.threads, budget_s=min(3.0, share_s)
        )
        if rate is None:
            continue
        sustained = ""
        if options.sustained_minutes:
            clock.tell(f"{precision} for {options.sustained_minutes:g} min")
            slow = ceilings.sustained_ceiling(
                precision, threads=options.threads, minutes=options.sustained_minutes
            )
            sustained = _rate(slow, precision)
            clock.began_s += 60.0 * options.sustained_minutes
        found.append(
            Ceiling(precision=precision, compute=_rate(rate, precision), sustained=sustained)
        )
    return tuple(found)


def _copied(bytes_per_s: float) -> str:
    """Empty where results are handed over without a copy that could be measured."""
    return f"{bytes_per_s / 1e9:.4g} GB/s" if bytes_per_s < _NO_COPY_BYTES_PER_S else ""


def _rate(per_s: float, precision: str) -> str:
    return f"{per_s / 1e9:.4g} {'Gop/s' if precision == 'int8' else 'Gflop/s'}"


def _opened(path: Path, options: ProfileOptions) -> Journal:
    """The journal of an interrupted run of the same device, runtime and threads, or a new one."""
    header = f"edgekit {__version__}, {runtime_name()}, {options.threads} threads"
    try:
        return Journal(path, header=header)
    except OSError as error:
        raise DeviceError(
            f"cannot write the journal {path}: {error.strerror}",
            hint="free some space, or choose another place with --out",
        ) from None


def _kernels(
    options: ProfileOptions,
    fused: tuple[str, ...],
    clock: _Clock,
    journal: Journal,
    flop_per_s: float,
    bytes_per_s: float,
) -> list[KernelTime]:
    layouts = [text for text in fused if text.startswith(LAYOUT)]
    block = int(layouts[0].removeprefix(LAYOUT)) if layouts else 0
    habits = Habits(fused=frozenset(fused), block=block)
    pairs = list(epilogues(habits))
    first = [shape for _, *both in pairs for shape in both] + list(options.extra_kernels)
    pool = catalogue(habits, most=2 * options.most_kernels)
    fixed = pool[: round((1 - _ADAPTIVE_SHARE) * options.most_kernels)]
    recorded_s = recording_s(threads=options.threads)
    # Slow boards use up a short budget before they come here.
    span_s = max(clock.budget_s - clock.used_s, _LEAST_KERNEL_SHARE * clock.budget_s)
    end_s = clock.used_s + span_s
    _measure([*first, *fixed], journal, clock, options, recorded_s, until_s=end_s - 0.3 * span_s)

    def model() -> KernelModel:
        known = list(journal.known.values())
        return KernelModel(known, flop_per_s=flop_per_s, bytes_per_s=bytes_per_s)

    spread = model()
    left = [one for one in pool if (one.key, one.sizes) not in journal.known]
    left.sort(key=lambda one: -spread.estimate(one.key, one.sizes).spread)
    adaptive = left[: options.most_kernels - len(fixed)]
    _measure(adaptive, journal, clock, options, recorded_s, until_s=end_s - 0.2 * span_s)
    everything = [*first, *fixed, *adaptive]
    while clock.used_s < _AGAIN_SHARE * clock.budget_s:
        surprises = model().surprises()
        everything.sort(key=lambda one: -surprises.get((one.key, one.sizes), 0.0))
        most = round(_AGAIN_COUNT_SHARE * len(everything))
        _measure_again(everything[:most], journal, clock, options, recorded_s)
    if not journal.known:
        raise DeviceError(
            f"{clock.budget_s:g} s are too short to measure a single kernel",
            hint="give the profiler more time, or let other work finish first",
        )
    return _with_epilogues(journal.known, pairs)


def _measure(
    shapes: Sequence[KernelShape],
    journal: Journal,
    clock: _Clock,
    options: ProfileOptions,
    recorded_s: float,
    *,
    until_s: float,
) -> None:
    """Those that the journal lacks, until ``until_s`` on the clock."""
    todo = [one for one in shapes if (one.key, one.sizes) not in journal.known]
    done = len(shapes) - len(todo)
    for pack in packs(todo):
        if clock.used_s > until_s:
            logger.info("out of time with %d kernels left", len(shapes) - done)
            return
        clock.tell(f"kernels {done}/{len(shapes)}")
        _note(journal, measure_pack(pack, threads=options.threads, recorded_s=recorded_s))
        done += len(pack)


def _measure_again(
    shapes: Sequence[KernelShape],
    journal: Journal,
    clock: _Clock,
    options: ProfileOptions,
    recorded_s: float,
) -> None:
    """Once more, at another time; the faster time stays."""
    for done, pack in enumerate(packs(shapes)):
        if clock.used_s > clock.budget_s:
            return
        clock.tell(f"kernels once more {done}/{len(shapes)}")
        faster = [
            one
            for one in measure_pack(pack, threads=options.threads, recorded_s=recorded_s)
            if (one.key, one.sizes) not in journal.known
            or one.time_s < journal.known[one.key, one.sizes].time_s
        ]
        _note(journal, faster)


def _note(journal: Journal, entries: Sequence[KernelTime]) -> None:
    try:
        journal.add(entries)
    except OSError as error:
        raise DeviceError(
            f"cannot write the journal {journal.path}: {error.strerror}",
            hint="free some space, or choose another place with --out",
        ) from None


def _with_epilogues(
    known: dict[tuple[str, tuple[int, ...]], KernelTime],
    pairs: Sequence[tuple[str, KernelShape, KernelShape]],
) -> list[KernelTime]:
    """The table, in which the kernels with an epilogue became what that costs per element."""
    found: dict[str, list[float]] = {}
    fused_keys = {(full.key, full.sizes) for _, _, full in pairs}
    for name, bare, full in pairs:
        times = [known.get((one.key, one.sizes)) for one in (bare, full)]
        if times[0] is None or times[1] is None:
            continue
        count = full.sizes[1] * full.sizes[2] * full.sizes[3]
        found.setdefault(name, []).append((times[1].time_s - times[0].time_s) / count)
    table = [one for key, one in sorted(known.items()) if key not in fused_keys]
    for name, costs in sorted(found.items()):
        cost_s = max(1e-15, sorted(costs)[len(costs) // 2])
        table.append(KernelTime(key=f"Epilogue {name}", sizes=(1 << 20,), time_s=cost_s * 2**20))
    return table


def processor_name() -> str:
    """What the system calls its processor or board."""
    for path in ("/proc/device-tree/model", "/proc/cpuinfo"):
        try:
            text = Path(path).read_text(errors="replace")
        except OSError:
            continue
        if path.endswith("model"):
            return text.strip("\0 \n")
        for line in text.splitlines():
            if line.lower().startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} processors"
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
