"""Every shard that a plan could hold, timed once on this machine.

In:  a trained network.  Out: Shards: legal cuts, and seconds of every prefix, every suffix and the
whole model under every strategy, kept as JSON.  Whatever the fleet: its devices are slower by a
factor each.
Shards are cut by the planner's own bench (``trial.bench``), as a build cuts them, and run in the
session that agents use, one thread, pinned. They take turns in several passes; a low quantile of
the thread's own time counts, as ``runtime.dilated`` counts, for neighbours only ever add to it.
A shard that took longer than one that holds all of its operators was disturbed, and is timed again.
"""

import contextlib
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.plan_inputs import variants_of
from edgekit.runtime.ort import OrtSession, runtime_name
from edgekit.runtime.session import random_inputs
from edgekit.spec.base import Spec, load, save
from edgekit.trial.bench import Bench, ShardName
from tests.bench.paper_world import as_file_name, model_of
from tests.bench.regret_cuts import Parts, cuts_of, doubtful, shard_names

_AT_ONCE = 48
"""Sessions held in memory together."""
_TURN_S, _LEAST_RUNS = 6e-3, 3
_QUANTILE = 0.05
_MOST_REPEATS = 4
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is timed, and how long."""

    passes: int = 3
    turns: int = 4
    """Of every shard in a pass."""
    is_thorough: bool = True
    """Cuts of several tensors too, and those inside kernels that runtimes merge."""


class CutFacts(Spec, frozen=True, kw_only=True):
    """One cut."""

    names: tuple[str, ...]
    nbytes: int
    """That cross as raw fp32."""


class ShardTime(Spec, frozen=True, kw_only=True):
    """One shard, and the seconds of one inference on this machine."""

    strategy: str
    after: tuple[str, ...]
    until: tuple[str, ...]
    time_s: float


class Shards(Spec, frozen=True, kw_only=True):
    """All shards of a network."""

    model_sha256: str
    runtime: str
    strategies: tuple[str, ...]
    cut: tuple[CutFacts, ...]
    shard: tuple[ShardTime, ...]

    def times_s(self) -> Parts:
        """Of each shard."""
        return {(one.strategy, one.after, one.until): one.time_s for one in self.shard}


def shards_of(dataset: str, network: str, out: Path, effort: Effort, *, tell: Tell) -> Shards:
    """Times of all shards of a network, from ``out`` if they were taken there before."""
    path = out / f"{as_file_name({'what': 'shards', 'of': f'{dataset}-{network}'})}.json"
    if path.exists():
        known = load(path, Shards)
        if known.runtime == runtime_name():
            return known
    tell("load and fold", 0, 0)
    loaded = load_model(model_of(dataset, network))
    variants = variants_of(loaded)
    cuts = cuts_of(variants, is_thorough=effort.is_thorough)
    names = shard_names([one.strategy for one in variants], [cut.names for cut in cuts])
    times_s = timed(loaded, names, effort, tell=tell)
    found = Shards(
        model_sha256=loaded.source_sha256,
        runtime=runtime_name(),
        strategies=tuple(one.strategy for one in variants),
        cut=tuple(CutFacts(names=cut.names, nbytes=cut.nbytes) for cut in cuts),
        shard=tuple(
            ShardTime(strategy=one.strategy, after=one.after, until=one.until, time_s=time_s)
            for one, time_s in zip(names, times_s, strict=True)
        ),
    )
    save(found, path)
    return found


def timed(
    loaded: LoadedModel, names: Sequence[ShardName], effort: Effort, *, tell: Tell
) -> list[float]:
    """Seconds of one inference of each."""
    found: list[list[float]] = [[] for _ in names]
    bench = Bench(loaded, {})
    with tempfile.TemporaryDirectory(prefix="edgekit-regret-") as home, pinned():
        paths = [Path(home) / f"{index}.onnx" for index in range(len(names))]
        ops = []
        for index, (name, path) in enumerate(zip(names, paths, strict=True)):
            tell("cut shards", index, len(names))
            bench.write(name, path)
            ops.append(frozenset(bench.ops(name)[1]))
        chosen = list(range(len(names)))
        for number in range(effort.passes + _MOST_REPEATS):
            if number >= effort.passes:
                chosen = doubtful(names, ops, [low_quantile(times_s) for times_s in found])
            tell(f"time shards, pass {number + 1}", 0, len(chosen))
            _time(chosen, paths, found, effort.turns)
    return [low_quantile(times_s) for times_s in found]


def _time(
    chosen: Sequence[int], paths: Sequence[Path], found: Sequence[list[float]], turns: int
) -> None:
    """One pass, in another order each time."""
    order = list(chosen)
    random.shuffle(order)
    for batch in _batches(order):
        runs = [_run(paths[index]) for index in batch]
        for _ in range(turns):
            for index, run in zip(batch, runs, strict=True):
                found[index] += turn(run)


def turn(run: Callable[[], object]) -> list[float]:
    """Thread time of runs back to back for some milliseconds, after one that warms the caches."""
    run()
    times_s: list[float] = []
    began_s = time.perf_counter()
    while len(times_s) < _LEAST_RUNS or time.perf_counter() - began_s < _TURN_S:
        started_s = time.thread_time()
        run()
        times_s.append(time.thread_time() - started_s)
    return times_s


def low_quantile(times_s: Sequence[float]) -> float:
    """What an undisturbed run takes."""
    return sorted(times_s)[int(_QUANTILE * len(times_s))]


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """On one processor, as agents are."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _run(path: Path) -> Callable[[], object]:
    session = OrtSession(path, threads=1)
    inputs = random_inputs(session.inputs)
    return lambda: session.run(inputs)


def _batches(order: Sequence[int]) -> Iterator[list[int]]:
    waiting = iter(order)
    while batch := list(islice(waiting, _AT_ONCE)):
        yield batch
