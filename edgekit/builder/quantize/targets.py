"""Which recipe a device of a fleet takes, told by its provider and its processor's name.

In:  a Device, its DeviceProfile if it has one.  Out: the name of a recipe.  Pure but for asking
this machine what it is, where nothing else is said.
Source: Arm's Technical Reference Manuals (SDOT/UDOT: A55, A75, A76 and later, Carmel);
NVIDIA's explicit quantization for GPUs.
"""

import re

from edgekit.builder.quantize.recipes import Recipe, target_here
from edgekit.spec.agent_config import Optimization
from edgekit.spec.fleet import Device
from edgekit.spec.profile import DeviceProfile

_ARM = re.compile(r"Cortex-A|Neoverse|Carmel|Denver|Apple M")
_DOT = re.compile(r"Cortex-A(55|65|7[5-8]|[57]1[05]|[57]20|725)|Cortex-X|Neoverse|Carmel|Apple M")
_GPU = ("cuda", "gpu")
_TENSORRT = "tensorrt"
"""How the providers begin that run it: alone, on an accelerator, or inside of ONNX Runtime."""


def target_of(device: Device, profile: DeviceProfile | None = None) -> str:
    """The recipe for ``device``; that of this machine for one without a profile.

    An x86 processor of another machine gets weights of 7 bits, which are right with VNNI and
    without; one of this kind gets what this machine takes.
    """
    is_gpu = device.provider in _GPU or device.provider.startswith(_TENSORRT)
    if is_gpu or (profile is not None and profile.roof("fp32") is None):
        return "tensorrt"
    here = target_here()
    if profile is None:
        return here
    if _ARM.search(profile.processor):
        return "arm-dot" if _DOT.search(profile.processor) else "arm"
    return here if here.startswith("x86") and _is_like_here(profile) else "x86"


def _is_like_here(profile: DeviceProfile) -> bool:
    """Integer kernels at more than twice the speed of floats: dot products."""
    floats, integers = profile.roof("fp32"), profile.roof("int8")
    return bool(floats and integers and integers.flop_per_s > 2 * floats.flop_per_s)


def level_here(recipe: Recipe) -> Optimization:
    """The level at which this machine gives the numbers that the recipe's device will give.

    An x86 processor without VNNI adds two 8-bit products in 16 bits and cuts the sum off: integer
    kernels of weights with 8 bits are wrong here, though right on the device. At level "none"
    the runtime computes with the floats that the integers stand for, and leaves nothing out.
    """
    return "none" if target_here() == "x86" and not recipe.seven_bit_weights else "all"
