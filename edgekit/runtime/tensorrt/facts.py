"""What an engine depends on: the key under which it is found again.

In: a recipe and this board.  Out: EngineFacts, and a digest of all of it.
"""

import hashlib
import platform
from contextlib import suppress
from pathlib import Path

from edgekit.spec.base import Spec, to_json
from edgekit.spec.engine import EngineRecipe, ShapeRange

_REVISION = 1
"""Of the way engines are built here: raise it when the same recipe gives another engine."""


class EngineFacts(Spec, frozen=True, kw_only=True):
    """What an engine fits, apart from its recipe."""

    module: str
    """Name of the Python module."""
    library: str
    """With version, "TensorRT 10.3.0"."""
    capability: str
    """Compute capability, "8.7"."""
    driver: str
    """CUDA version of the driver; empty when built for another GPU."""
    release: str = ""
    """Driver and board software as the system tells them: NVIDIA's kernel module, L4T."""
    machine: str = ""
    """"x86_64", "aarch64"."""


class _Ingredients(Spec, frozen=True, kw_only=True):
    """All that decides what an engine is."""

    revision: int
    facts: EngineFacts
    shard_sha256: str
    precision: str
    tf32: bool
    shapes: tuple[ShapeRange, ...]
    workspace_bytes: int
    optimization_level: int
    dla_core: int


def board_release(root: Path = Path("/")) -> str:
    """What the system says of NVIDIA's driver and of L4T; empty where it says nothing."""
    found = []
    for name in ("proc/driver/nvidia/version", "etc/nv_tegra_release"):
        with suppress(OSError):
            lines = (root / name).read_text(errors="replace").splitlines()
            found += [" ".join(lines[0].split())] if lines else []
    return "; ".join(found)


def facts_of(module: str, library: str, *, capability: str, driver: str) -> EngineFacts:
    """The facts of this board."""
    return EngineFacts(
        module=module,
        library=library,
        capability=capability,
        driver=driver,
        release=board_release() if driver else "",
        machine=platform.machine(),
    )


def engine_key(recipe: EngineRecipe, facts: EngineFacts) -> str:
    """Digest of all that decides what an engine is: another driver, another key."""
    ingredients = _Ingredients(
        revision=_REVISION,
        facts=facts,
        shard_sha256=recipe.shard_sha256,
        precision=recipe.precision,
        tf32=recipe.tf32,
        shapes=recipe.shapes,
        workspace_bytes=recipe.workspace_bytes,
        optimization_level=recipe.optimization_level,
        dla_core=recipe.dla_core,
    )
    return hashlib.sha256(to_json(ingredients, indent=0)).hexdigest()
