"""All shards of a plan that TensorRT runs: what it would refuse, and the recipes of the others.

In:  a plan, the bytes of its shards, the fleet and profiles.  Out: recipes by their paths in the
bundle; or a refusal that names device, operator, node and the next thing to try.
"""

from collections.abc import Iterator, Mapping, Sequence

import onnx

from edgekit.builder.tensorrt_build.obstacles import obstacles_of
from edgekit.builder.tensorrt_build.parser import parser_obstacles
from edgekit.builder.tensorrt_build.recipe import engine_recipe
from edgekit.bundle.golden import golden_path
from edgekit.errors import ModelError
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.fleet import Fleet
from edgekit.spec.plan import Placement, Plan
from edgekit.spec.profile import DeviceProfile


def refuse_obstacles(plan: Plan, shards: Sequence[bytes]) -> None:
    """Raises: ModelError naming the first operator that a device's TensorRT will not take."""
    for _, placement, data in _engines(plan, shards):
        who = "TensorRT"
        found = obstacles_of(onnx.load_from_string(data))
        if not found:
            who, found = parser_obstacles(data)
        if found:
            first, count = found[0], len(found) - 1
            more = f"; and {count} more operator{'s' * (count > 1)}" if count else ""
            raise ModelError(
                f"{who} on {placement.device} refuses {first.operator} ({first.node}) in "
                f"{placement.shard}: {first.why}{more}",
                hint=first.hint,
            )


def recipes_of(
    plan: Plan, shards: Sequence[bytes], fleet: Fleet, profiles: Mapping[str, DeviceProfile]
) -> dict[str, EngineRecipe]:
    """The recipe of every shard that TensorRT runs, by its path in the bundle.

    Raises: ConfigError if a device is to use an accelerator that it cannot use.
    """
    devices = {device.name: device for device in fleet.device}
    return {
        placement.engine: engine_recipe(
            data,
            placement,
            devices[placement.device],
            golden=golden_path(index),
            profile=profiles.get(placement.device),
        )
        for index, placement, data in _engines(plan, shards)
    }


def _engines(plan: Plan, shards: Sequence[bytes]) -> Iterator[tuple[int, Placement, bytes]]:
    """Index in the plan, placement and file of each shard with an engine."""
    busy = [(index, one) for index, one in enumerate(plan.placements) if one.shard]
    for (index, placement), data in zip(busy, shards, strict=True):
        if placement.engine:
            yield index, placement, data
