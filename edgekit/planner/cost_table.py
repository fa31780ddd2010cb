"""Prices of every shard and hop of a scenario: the tables that the search adds up.

In:  a Scenario.  Out: a CostTable: candidate cuts, seconds and losses of shards between any two of
them on any device, what the device limits allow, and what crosses each cut under each codec.
Pure. Nodes: 0 is the model's start, i + 1 is ``cuts[i]``, the last is the model's end.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgekit.errors import PlanError
from edgekit.planner.accuracy import drops_pp
from edgekit.planner.candidates import candidate_cuts
from edgekit.planner.crossings import (
    FLOATS,
    SORTS_OF_INTEGERS,
    integer_shards,
    integers_at,
    names_crossing,
)
from edgekit.planner.geometry import Geometry
from edgekit.planner.memory import ASSUMED, peak_activation_bytes, predict_memory
from edgekit.planner.scenario import Scenario
from edgekit.planner.shard_costs import ShardCosts, predictor_of
from edgekit.spec.fleet import Device
from edgekit.spec.plan import Cut
from edgekit.spec.planning import CodecCost, StagePlan
from edgekit.spec.profile import DeviceProfile, Precision
from edgekit.spec.tensors import Array
from edgekit.units import parse_size

_MAX_CUTS = 250
_MAX_CUT_OPS = 40_000
"""Cuts x operators: each cut is lowered on both sides, which costs that much."""
_MAX_STEPS = 4e9
"""Sets of devices x cuts x cuts: what one run of the search goes through."""
_MEMORY_MARGIN = 1.25
"""A part of a model takes less memory than all of it, if not always at every moment."""
_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
_INTEGER_KERNEL = "QLinear"
"""Begins the keys of kernels that work on integers."""


@dataclass(frozen=True, eq=False)
class Option:
    """One way to run a shard on one device. Matrices have shape (nodes, nodes)."""

    strategy: str
    precision: Precision
    geometry: Geometry
    costs: ShardCosts
    time_s: Array
    """Infinite where there is no shard."""
    is_measured: Array
    drop_pp: Array
    """Infinite where it is not known."""
    is_allowed: Array
    """By the limits of the device."""


class CostTable:
    """Prices of all shards and hops of a scenario."""

    def __init__(self, scenario: Scenario, *, max_cuts: int | None = None) -> None:
        self.scenario = scenario
        bound = _bound_on_cuts(scenario) if max_cuts is None else max_cuts
        self.cuts, found = candidate_cuts(scenario.variants, bound)
        self.notes: tuple[str, ...] = (*found, *_assumptions(scenario))
        self.cut_names = tuple(str(cut) for cut in self.cuts)
        crossing = names_crossing(scenario.variants, self.cuts)
        self.geometries = tuple(
            Geometry(one.workload, names)
            for one, names in zip(scenario.variants, crossing, strict=True)
        )
        self.is_shard: Array = np.logical_and.reduce(
            [self.geometries[index].is_shard for index in self._indices("fp32")]
        )
        """Of the variants in floats; a quantized one may lack some."""
        self._memory: dict[tuple[str, int, int, int], int] = {}
        self._costs: dict[tuple[int, Precision, int], ShardCosts] = {}
        self._kinds: list[tuple[DeviceProfile, str]] = []
        self._codecs: dict[tuple[str, str, int], Array] = {}
        """Figures of codecs for every cut, by name of the codec: asked for at every hop."""
        self.options: Mapping[str, tuple[Option, ...]] = {
            device.name: self._options(device) for device in scenario.devices if device.can_run
        }
        """By device; empty for one whose profile knows no usable ceiling."""

    @property
    def node_count(self) -> int:
        """Start, cuts and end."""
        return len(self.cuts) + 2

    @cached_property
    def device(self) -> dict[str, Device]:
        """By name."""
        return {device.name: device for device in self.scenario.devices}

    def option(self, device: str, strategy: str | None, precision: Precision) -> list[Option]:
        """The options of ``device`` of that precision, and of that strategy if one is named.

        Raises: PlanError if there is none.
        """
        if device not in self.options:
            raise PlanError(
                f"device {device!r} cannot run a shard",
                hint=f"use one of {', '.join(self.options)}",
            )
        found = [
            one
            for one in self.options[device]
            if one.precision == precision and strategy in (None, one.strategy)
        ]
        if not found:
            raise PlanError(
                f"device {device!r} has no way to run {precision} "
                f"{strategy or 'under any strategy'}",
                hint="look at the ceilings of its profile with `edgekit profile show`",
            )
        return found

    def float_geometry(self, strategy: str) -> Geometry:
        """Of the variant in floats under that strategy."""
        variants = self.scenario.variants
        index = next(i for i in self._indices("fp32") if variants[i].strategy == strategy)
        return self.geometries[index]

    # -- shards ------------------------------------------------------------------------------
    def _options(self, device: Device) -> tuple[Option, ...]:
        profile = self.scenario.profiles[device.name]
        return tuple(
            self._option(device, index, precision)
            for precision in _PRECISIONS
            if profile.roof(precision, device.provider) and self._has_accuracy(precision)
            if precision != "int8" or _knows_integers(profile)
            for index in self._indices(precision)
        )

    def _indices(self, precision: Precision) -> list[int]:
        """Of the variants that run in that precision; fp16 runs what fp32 does."""
        wanted = "int8" if precision == "int8" else "fp32"
        found = [one.precision for one in self.scenario.variants]
        return [index for index, one in enumerate(found) if one == wanted]

    def _has_accuracy(self, precision: Precision) -> bool:
        rows = self.scenario.accuracy.drop
        return precision == "fp32" or any(row.precision == precision for row in rows)

    def _option(self, device: Device, index: int, precision: Precision) -> Option:
        geometry, strategy = self.geometries[index], self.scenario.variants[index].strategy
        costs = self._shard_costs(device, index, precision)
        is_shard = self.is_shard & geometry.is_shard
        factor = self.scenario.slower.get((device.name, precision), 1.0)
        time_s = np.where(is_shard, costs.time_s * factor, np.inf)
        is_measured = np.zeros_like(self.is_shard)
        for (name, how, what, after, until), seconds in self.scenario.measured.items():
            if (name, how, what) != (device.name, strategy, precision):
                continue
            begin, end = self._node(after, at_start=True), self._node(until, at_start=False)
            if begin is not None and end is not None and is_shard[begin, end]:
                time_s[begin, end], is_measured[begin, end] = seconds, True
        drop_pp = drops_pp(
            self.scenario.accuracy, strategy, precision, geometry.work_flop, self.cut_names,
            self.is_shard,
        )  # fmt: skip
        return Option(
            strategy=strategy,
            precision=precision,
            geometry=geometry,
            costs=costs,
            time_s=time_s,
            is_measured=is_measured,
            drop_pp=drop_pp,
            is_allowed=self._allowed(device, geometry, time_s)
            & np.isfinite(drop_pp)
            & integer_shards(self.scenario.variants[index], geometry),
        )

    def _shard_costs(self, device: Device, index: int, precision: Precision) -> ShardCosts:
        profile = self.scenario.profiles[device.name]
        if (profile, device.provider) not in self._kinds:
            self._kinds.append((profile, device.provider))
        key = self._kinds.index((profile, device.provider)), precision, index
        if key not in self._costs:
            predictor = predictor_of(profile, precision, device.provider)
            roof = profile.roof(precision, device.provider)
            if roof is None:
                raise PlanError(f"{profile.name} has no {precision}", hint="measure it")
            self._costs[key] = ShardCosts(self.geometries[index], predictor, roof)
        return self._costs[key]

    def parameter_count(self, stage: StagePlan) -> int:
        """Trained numbers of a stage."""
        begin = self._node(",".join(stage.after), at_start=True)
        end = self._node(",".join(stage.until), at_start=False)
        count = self.float_geometry(stage.strategy).parameter_count
        return 0 if begin is None or end is None else int(count[end] - count[begin])

    def _node(self, name: str, *, at_start: bool) -> int | None:
        if not name:
            return 0 if at_start else self.node_count - 1
        return self.cut_names.index(name) + 1 if name in self.cut_names else None

    def memory_limit_bytes(self, device: str) -> int:
        """What shards may take there."""
        limit = self.device[device].memory
        return parse_size(limit) if limit else self.scenario.profiles[device].memory_bytes

    def memory_bytes(self, device: str, geometry: Geometry, begin: int, end: int) -> int:
        """Predicted peak of a shard on ``device``, over a process that runs nothing."""
        key = device, id(geometry), begin, end
        if key not in self._memory:
            ops, profile = geometry.ops_between(begin, end), self.scenario.profiles[device]
            self._memory[key] = predict_memory(geometry.workload, ops, profile).rss_bytes
        return self._memory[key]

    def memory_could_bind(self, device: str) -> bool:
        """Whether the whole model comes near the device's limit under any strategy."""
        limit, last = self.memory_limit_bytes(device), self.node_count - 1
        whole = [self.memory_bytes(device, one, 0, last) for one in self.geometries]
        return max(whole) * _MEMORY_MARGIN > limit

    def _memory_bounds(self, device: str, geometry: Geometry) -> tuple[Array, Array]:
        """Bytes that shards take at least and at most, by first and last node.

        What is alive in a shard is alive in the whole model too, but for what leaves it.
        """
        workload = geometry.workload
        known = self.scenario.profiles[device].session_memory or ASSUMED
        factor = {True: known.conv_weight_factor, False: 1.0}
        above = geometry.summed(
            [
                known.operator_bytes + factor[op.op_type == "Conv"] * op.weight_bytes
                for op in workload.ops
            ]
        )
        least = known.base_bytes + above[None, :] - above[:, None]
        ends = [workload.inputs, *geometry.cuts, workload.outputs]
        crossing = np.array([sum(workload.tensor[one].nbytes for one in names) for names in ends])
        peak = peak_activation_bytes(workload, range(len(workload.ops)))
        running = known.activation_factor * (peak + crossing)[None, :]
        running = running + crossing[None, :] + crossing[:, None]
        largest = max(op.weight_bytes for op in workload.ops)
        return least, least + np.maximum(largest, running)

    def _allowed(self, device: Device, geometry: Geometry, time_s: Array) -> Array:
        """Shards within the limits of ``device``."""
        allowed: Array = self.is_shard & geometry.is_shard
        if self.memory_could_bind(device.name):
            limit = self.memory_limit_bytes(device.name)
            least, most = self._memory_bounds(device.name, geometry)
            allowed = allowed & (least <= limit)
            # A shard takes milliseconds to look at closely: only where the bounds leave it open.
            for begin, end in np.argwhere(allowed & (most > limit)):
                needed = self.memory_bytes(device.name, geometry, int(begin), int(end))
                allowed[begin, end] = needed <= limit
        if device.max_params:
            count = geometry.parameter_count
            allowed = allowed & (count[None, :] - count[:, None] <= device.max_params)
        if device.max_macs:
            work = geometry.work_flop
            allowed = allowed & (work[None, :] - work[:, None] <= 2 * device.max_macs)
        if device.max_ms:
            allowed = allowed & (time_s <= device.max_ms / 1e3)
        return allowed

    # -- hops --------------------------------------------------------------------------------
    @cached_property
    def integer_node(self) -> Array:
        """Per node, whether integers can cross there: some quantized variant can be cut."""
        found = [self.geometries[index].has_node for index in self._indices("int8")]
        result: Array = np.logical_or.reduce([np.zeros(self.node_count, bool), *found])
        return result

    @cached_property
    def _elements(self) -> dict[int, tuple[Array, Array]]:
        """By sort of crossing, per cut: elements that codecs rewrite, which are the floats, or what
        crosses as integers; and bytes of everything else, which they leave alone.
        """
        quantized = [
            (one, geometry.cuts)
            for one, geometry in zip(self.scenario.variants, self.geometries, strict=True)
            if one.precision == "int8"
        ]
        integers = [integers_at(quantized, at, cut) for at, cut in enumerate(self.cuts)]
        found = {}
        for sort in (FLOATS, *SORTS_OF_INTEGERS):
            coded, others = np.zeros((2, len(self.cuts)))
            for at, cut in enumerate(self.cuts):
                for one in cut.tensors:
                    is_float = sort == FLOATS and one.dtype == "float32"
                    if is_float or one.name in integers[at][sort]:
                        coded[at] += one.element_count
                    else:
                        others[at] += one.nbytes
            found[sort] = coded, others
        return found

    def codec_bytes(self, codec: CodecCost, sort: int = FLOATS) -> Array:
        """Per cut, the whole bytes that cross under ``codec``, a crossing being of that sort."""
        key = ("bytes", codec.name, sort)
        if key not in self._codecs:
            coded, others = self._elements[sort]
            ratios = [codec.by_cut.get(name, codec.bytes_per_element) for name in self.cut_names]
            self._codecs[key] = np.ceil(coded * np.array(ratios, float)) + others
        return self._codecs[key]

    def codec_drop_pp(self, codec: CodecCost) -> Array:
        """Per cut, the loss of accuracy."""
        key = ("drop", codec.name, FLOATS)
        if key not in self._codecs:
            drops = [codec.drop_at(name) for name in self.cut_names]
            self._codecs[key] = np.array(drops, float)
        return self._codecs[key]

    def encode_s(self, codec: CodecCost, device: str, sort: int = FLOATS) -> Array:
        """Per cut, the time that coding takes on ``device``; a device of speed 2 takes half."""
        coded = self._elements[sort][0]
        return coded * 4 / (codec.encode_bytes_per_s * self.speed(device))

    def decode_s(self, codec: CodecCost, device: str, sort: int = FLOATS) -> Array:
        """Per cut, the time that decoding takes on ``device``."""
        coded = self._elements[sort][0]
        return coded * 4 / (codec.decode_bytes_per_s * self.speed(device))

    def speed(self, device: str) -> float:
        """Relative speed, by which coding times scale."""
        return self.device[device].relative_speed


def cut_at(table: CostTable, node: int) -> Cut | None:
    """The cut at a node; None at either end."""
    return table.cuts[node - 1] if 0 < node < table.node_count - 1 else None


def _knows_integers(profile: DeviceProfile) -> bool:
    """Whether kernels on integers were measured: without, a ceiling alone promises too much."""
    return any(one.key.startswith(_INTEGER_KERNEL) for one in profile.kernel)


def _bound_on_cuts(scenario: Scenario) -> int:
    """As many cuts as keep planning a matter of seconds, at least 10."""
    kinds: dict[str, int] = {}
    for device in scenario.devices:
        if device.can_run:
            name = scenario.profiles[device.name].name
            kinds[name] = kinds.get(name, 0) + 1
    sets = math.prod(count + 1 for count in kinds.values()) * len(kinds)
    by_search = math.isqrt(int(_MAX_STEPS / (sets * (len(scenario.frame_costs) + 1))))
    by_search //= len(scenario.float_codecs) + 2 * len(scenario.integer_codecs)
    by_lowering = _MAX_CUT_OPS // max(1, len(scenario.reference.ops))
    return max(10, min(_MAX_CUTS, by_lowering, by_search))


def _assumptions(scenario: Scenario) -> list[str]:
    notes = []
    if not scenario.fleet.link and len(scenario.devices) > 1:
        notes.append("the fleet names no link: 1 Gbit/s and 1 ms are assumed between all devices")
    for device in scenario.devices:
        profile = scenario.profiles.get(device.name)
        if device.can_run and profile is not None and profile.source == "datasheet":
            notes.append(
                f"{device.name}: peaks from the datasheet of {profile.name}, so its times are "
                "lower bounds"
            )
    return notes
