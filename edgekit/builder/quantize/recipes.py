"""Which integers a runtime on a kind of device takes: one recipe per target.

In:  the name of a target.  Out: a Recipe.  Pure; how it is written into a graph is ``qdq.py``.
Weights are symmetric int8 per output channel everywhere: measured closer than per tensor on every
network tried, at the same speed.
Source: ONNX Runtime's guide to quantization (U8S8 and its 16-bit saturation without VNNI);
NVIDIA's guide to explicit quantization (symmetric int8, no integer biases).
"""

import platform
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a graph is quantized for one target."""

    target: str
    unsigned_activations: bool
    symmetric_activations: bool
    """Zero points of 0: half of the range is lost where a tensor is never negative."""
    seven_bit_weights: bool
    """Two products of 8 bits each overflow the 16-bit sum of processors without VNNI."""
    quantize_bias: bool
    why: str
    weights_per_channel: bool = True
    """One scale for each output channel. False only to show what that is worth."""


_ARM = ("aarch64", "arm64")

RECIPES = {
    recipe.target: recipe
    for recipe in (
        Recipe(
            target="x86",
            unsigned_activations=True,
            symmetric_activations=False,
            seven_bit_weights=True,
            quantize_bias=True,
            why="without VNNI two 8-bit products overflow 16 bits, so weights have 7",
        ),
        Recipe(
            target="x86-vnni",
            unsigned_activations=True,
            symmetric_activations=False,
            seven_bit_weights=False,
            quantize_bias=True,
            why="unsigned activations are faster and closer than signed ones",
        ),
        Recipe(
            target="arm",
            unsigned_activations=True,
            symmetric_activations=False,
            seven_bit_weights=False,
            quantize_bias=True,
            why="the same numbers as x86 with VNNI; without dot products it may not be faster",
        ),
        Recipe(
            target="arm-dot",
            unsigned_activations=True,
            symmetric_activations=False,
            seven_bit_weights=False,
            quantize_bias=True,
            why="the same numbers as x86 with VNNI",
        ),
        Recipe(
            target="tensorrt",
            unsigned_activations=False,
            symmetric_activations=True,
            seven_bit_weights=False,
            quantize_bias=False,
            why="TensorRT takes signed integers with zero points of 0, and float biases",
        ),
    )
}


def recipe_for(target: str) -> Recipe:
    """The recipe of ``target``. Raises: ConfigError listing the known ones."""
    if target not in RECIPES:
        raise ConfigError(f"there is no target {target!r}", hint=f"use one of {', '.join(RECIPES)}")
    return RECIPES[target]


def target_here() -> str:
    """The target that this machine is, as the kernel names its processor's instructions."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        flags = set()
    if platform.machine() in _ARM:
        return "arm-dot" if "asimddp" in flags else "arm"
    return "x86-vnni" if flags & {"avx512_vnni", "avx_vnni"} else "x86"


def is_timed_here(recipe: Recipe) -> bool:
    """True if this machine runs what the recipe is for; else only the device can say its speed.

    A file with 7-bit weights runs at the same speed with VNNI.
    """
    here = target_here()
    return recipe.target == here or (recipe.target == "x86" and here == "x86-vnni")
