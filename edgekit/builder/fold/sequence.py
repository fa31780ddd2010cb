"""Two layers in a row as one convolution, whichever of the two reaches beyond a pixel.

In:  kernels.  Out: a kernel of the same function.  Pure, float64, no torch and no ONNX.
"""

from dataclasses import replace

from edgekit.builder.fold.algebra import Kernel
from edgekit.builder.fold.merge import merge_pointwise_first, merge_pointwise_last, merge_separable
from edgekit.errors import ModelError


def merge_in_sequence(first: Kernel, second: Kernel) -> Kernel:
    """``second`` after ``first``; a 1x1 that pads for the second hands its padding on to it.

    Raises: ModelError if the channels differ, both reach along one axis, or the border would be
    wrong: the second pads with zeros what the bias of the first should fill.
    Source: Ding et al., "Diverse Branch Block", CVPR 2021, transform III.
    """
    early, late = first.geometry, second.geometry
    if late.kernel == (1, 1) and late.padding == (0, 0):
        return merge_pointwise_last(first, second)
    if early.kernel != (1, 1):
        return merge_separable(first, second)
    if early.padding == (0, 0):
        return merge_pointwise_first(first, second)
    if late.padding != (0, 0) or early.stride != (1, 1):
        raise ModelError(
            f"a 1x1 convolution with padding {early.padding} and stride {early.stride} is followed "
            f"by a kernel {late.kernel} with padding {late.padding}",
            hint="let one of the two do the padding, and the second the stride",
        )
    bare = replace(first, geometry=replace(early, padding=(0, 0)))
    merged = merge_pointwise_first(bare, second)
    return replace(merged, geometry=replace(merged.geometry, padding=early.padding))
