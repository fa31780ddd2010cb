"""The bench on which this machine times the shards of a plan: split, load, run.

In:  a LoadedModel, and which devices are this machine.  Out: seconds, and peak memory.
Every shard is cut exactly as a build would cut it, and written to a file that the runtime loads.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edgekit.builder.fold.onnx_find import find_blocks
from edgekit.builder.load import LoadedModel
from edgekit.builder.plan_inputs import folded_alike
from edgekit.builder.plan_integers import IntegerVariant
from edgekit.builder.probe import to_bytes
from edgekit.builder.split import split_model
from edgekit.builder.workload import workload_of
from edgekit.errors import PlanError
from edgekit.planner.cuts import partition, resolve_cut
from edgekit.planner.scenario import Variant
from edgekit.profiler.finalists import time_shards
from edgekit.runtime.ort import runtime_name
from edgekit.spec.fusion import parse_strategy
from edgekit.spec.plan import Cut
from edgekit.spec.profile import Precision
from edgekit.spec.workload import Workload

_AGAIN_S = 0.25
"""Spent on each shard that is timed again."""


class ShardName(NamedTuple):
    """One shard of a model, whoever runs it."""

    strategy: str
    after: tuple[str, ...]
    """Tensors of the cut that it begins after; empty for the model's input."""
    until: tuple[str, ...]
    """Tensors of the cut that it ends at; empty for the model's output."""
    precision: Precision = "fp32"
    """fp32, or int8: then integers cross where they are made; the names are still the floats'."""


@dataclass(frozen=True, slots=True)
class _Folded:
    """The model under one strategy, in one precision."""

    model: LoadedModel
    variant: Variant

    @property
    def workload(self) -> Workload:
        """Of the variant."""
        return self.variant.workload


class Bench:
    """Splits and runs shards of one model; remembers what it folded and timed."""

    def __init__(
        self,
        loaded: LoadedModel,
        here: Mapping[str, float],
        integers: Sequence[IntegerVariant] = (),
    ) -> None:
        self._loaded = loaded
        self.here = here
        """Devices that are this machine, and how many times slower they are."""
        self._findings = find_blocks(loaded)
        self._folded: dict[tuple[str, Precision], _Folded] = {
            (one.variant.strategy, "int8"): _Folded(one.model, one.variant) for one in integers
        }
        self._times_s: dict[tuple[ShardName, int], float] = {}

    @property
    def runtime(self) -> str:
        """What runs them."""
        return runtime_name()

    def time(self, shards: Sequence[ShardName], *, threads: int) -> list[float]:
        """Seconds of one inference of each shard on this machine.

        Raises: PlanError for a cut that is not legal; ModelError if the runtime refuses a shard.
        """
        fresh = [shard for shard in shards if (shard, threads) not in self._times_s]
        for shard, time_s in zip(fresh, self._timed(fresh, threads, 0.0), strict=True):
            self._times_s[shard, threads] = time_s
        return [self._times_s[shard, threads] for shard in shards]

    def time_again(self, shards: Sequence[ShardName], *, threads: int) -> list[float]:
        """As ``time``, once more and longer. What else runs here only ever adds: the least counts.

        Raises: as ``time``.
        """
        budget_s = _AGAIN_S * len(shards)
        for shard, time_s in zip(shards, self._timed(shards, threads, budget_s), strict=True):
            known_s = self._times_s.get((shard, threads), time_s)
            self._times_s[shard, threads] = min(time_s, known_s)
        return [self._times_s[shard, threads] for shard in shards]

    def _timed(self, shards: Sequence[ShardName], threads: int, budget_s: float) -> list[float]:
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            paths = [
                self.write(shard, Path(folder) / f"shard-{index}.onnx")
                for index, shard in enumerate(shards)
            ]
            return time_shards(paths, threads=threads, budget_s=budget_s)

    def write(self, shard: ShardName, path: Path) -> Path:
        """Write ``shard`` as an ONNX file at ``path``."""
        folded = self._under(shard)
        cuts, index = self._cuts(shard)
        path.write_bytes(to_bytes(split_model(folded.model, folded.workload, cuts)[index]))
        return path

    def ops(self, shard: ShardName) -> tuple[Workload, tuple[int, ...]]:
        """The workload of the shard's strategy, and the shard's operators in it."""
        cuts, index = self._cuts(shard)
        workload = self._under(shard).workload
        return workload, partition(workload, cuts)[index]

    def _cuts(self, shard: ShardName) -> tuple[list[Cut], int]:
        """The cuts around a shard, and its place between them."""
        variant = self._under(shard).variant
        ends = [variant.crossing(names) for names in (shard.after, shard.until) if names]
        return [resolve_cut(variant.workload, names) for names in ends], int(bool(shard.after))

    def _under(self, shard: ShardName) -> _Folded:
        key = (shard.strategy, shard.precision)
        if key not in self._folded:
            if shard.precision != "fp32":
                raise PlanError(
                    f"the bench has no graph in {shard.precision} under {shard.strategy}",
                    hint="plan with --measure never",
                )
            model = self._loaded
            if self._findings.blocks:
                model = folded_alike(model, self._findings, parse_strategy(shard.strategy))
            self._folded[key] = _Folded(model, Variant(shard.strategy, workload_of(model)))
        return self._folded[key]
