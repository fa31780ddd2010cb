"""What ``edgekit build`` says of the shards that TensorRT runs.

In:  the fleet and its folder, or what was built.  Out: profiles, or a table.
"""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from edgekit.builder.build import BuildResult
from edgekit.builder.tensorrt_build.recipe import wants_engine
from edgekit.cli.render import show_table
from edgekit.profiler.fleet_profiles import fleet_profiles
from edgekit.spec.fleet import Fleet
from edgekit.spec.profile import DeviceProfile
from edgekit.spec.tensors import TensorSpec
from edgekit.units import format_bytes

_COLUMNS = ("device", "precision", "reads", "sends", "workspace", "on")


def engine_profiles(fleet: Fleet, folder: Path) -> dict[str, DeviceProfile]:
    """The profile of each device that runs TensorRT and names one; paths are beside ``folder``.

    Raises: ConfigError naming the device whose profile is not to be had.
    """
    named = tuple(one for one in fleet.device if one.profile and wants_engine(one))
    if not named:
        return {}
    alone = msgspec.structs.replace(fleet, device=named, link=(), source="", sink="", host_speed=0)
    return dict(fleet_profiles(alone, folder).profiles)


def show_engines(result: BuildResult) -> None:
    """The recipes, one line each; nothing where there is none."""
    rows = []
    for placement in result.bundle.plan.placements:
        recipe = result.engines.get(placement.engine)
        if recipe is None:
            continue
        names = {one.name for one in recipe.shapes}
        rows.append(
            (
                placement.device,
                recipe.precision,
                _kinds(one for one in placement.inputs if one.name in names),
                _kinds(placement.outputs),
                format_bytes(recipe.workspace_bytes),
                f"DLA {recipe.dla_core}, else GPU" if recipe.dla_core >= 0 else "GPU",
            )
        )
    if rows:
        show_table("engines, built by TensorRT on the device itself", _COLUMNS, rows, left=4)


def _kinds(specs: Iterable[TensorSpec]) -> str:
    """Types and shapes; the first and how many more, where a table has no room for all."""
    said = [f"{spec.dtype} {'x'.join(map(str, spec.shape))}" for spec in specs]
    return f"{said[0]} and {len(said) - 1} more" if len(said) > 1 else "".join(said)
