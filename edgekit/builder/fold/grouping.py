"""The same convolution written with fewer groups.

In:  kernels whose groups differ.  Out: kernels of the same function whose groups agree, so that a
depthwise branch folds into a dense one; the weights that the groups left out are zeros.
Pure, float64; inputs are never changed.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgekit.builder.fold.algebra import Kernel
from edgekit.errors import ModelError


def regroup(kernel: Kernel, groups: int) -> Kernel:
    """``kernel`` with ``groups`` groups, which must divide its own.

    Each new group joins neighbouring old ones: a block-diagonal matrix per tap, exact in any
    number format. Its work grows by the factor by which the groups shrink.
    Shapes: weight (O, I / g, kH, kW) becomes (O, I / groups, kH, kW).
    Raises: ModelError if ``groups`` is no divisor of the kernel's groups.
    """
    old = kernel.geometry.groups
    if groups < 1 or old % groups:
        raise ModelError(
            f"a convolution of {old} groups cannot be written with {groups}",
            hint=f"choose a divisor of {old}",
        )
    joined = old // groups
    out_count, width, *taps = kernel.weight.shape
    blocks = kernel.weight.reshape(groups, joined, out_count // old, width, *taps)
    weight = np.zeros((groups, joined, out_count // old, joined, width, *taps))
    member = np.arange(joined)
    # Two index arrays with a slice between them put their axis first: (joined, groups, ...).
    weight[:, member, :, member] = blocks.swapaxes(0, 1)
    return Kernel(
        geometry=replace(kernel.geometry, groups=groups),
        weight=weight.reshape(out_count, joined * width, *taps),
        bias=kernel.bias,
    )


def ungrouped(kernel: Kernel) -> Kernel:
    """``kernel`` as a dense convolution: one group, zeros where the groups read nothing."""
    return regroup(kernel, 1)


def align_groups(kernels: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """``kernels`` with the largest number of groups that all of them can be written with.

    This is the greatest common divisor: the finest cut of the channels into equal neighbouring
    groups that no kernel reaches across whatever its weights.
    """
    groups = math.gcd(*(kernel.geometry.groups for kernel in kernels))
    return tuple(
        kernel if kernel.geometry.groups == groups else regroup(kernel, groups)
        for kernel in kernels
    )
