"""Everything besides a sum of branches that folds into one convolution.

In:  kernels in sequence, pools, concatenations, per-channel scales.  Out: kernels of the same
function; inputs are never changed.  Pure, float64, no torch and no ONNX.
What is not exact at the border of the image is refused: between two convolutions the second one
pads with zeros, while the first would have given its bias there.
Source: Ding et al., "Diverse Branch Block: Building a Convolution as an Inception-like Unit",
CVPR 2021, section 3.2, transforms I to VI.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import numpy as np

from edgekit.builder.fold.algebra import (
    BatchNorm,
    Floats,
    Kernel,
    add_branches,
    identity_kernel,
)
from edgekit.builder.fold.geometry import ConvGeometry, covering_geometry
from edgekit.builder.fold.grouping import align_groups, ungrouped
from edgekit.errors import ModelError


def sum_branches(branches: Sequence[Kernel]) -> Kernel:
    """One convolution for the sum of ``branches`` over one input, whatever their shapes.

    Kernels of any size and dilation (3x3, 1x3 + 3x1, dilated beside dense), any groups (depthwise
    beside dense) and any number of copies: the smallest kernel that has a place for each tap.
    Raises: ModelError if there is none, or strides, channels or output sizes differ.
    Source: DBB, transforms II and VI; copies: Vasu et al., "MobileOne: An Improved One Millisecond
    Mobile Backbone", CVPR 2023, section 3; 1x3 + 3x1: Ding et al., "ACNet", ICCV 2019, section 3.2.
    """
    if not branches:
        raise ModelError("a block without branches has no function", hint="check the model")
    aligned = align_groups(branches)
    return add_branches(aligned, covering_geometry([kernel.geometry for kernel in aligned]))


def merge_pointwise_first(pointwise: Kernel, kernel: Kernel, *, pads_bias: bool = False) -> Kernel:
    """A 1x1 convolution and the kxk convolution after it as one kxk convolution.

    K (P x + b) + c = (K P) x + (sum of K's taps) b + c. ``pads_bias``: the image between the two is
    padded with b instead of zeros, as DBB trains it; then any padding is exact.
    Returns: a kernel with the greatest common divisor of both groups; a stride of the pointwise
    spreads the taps of the other, and its padding joins that of the other.
    Raises: ModelError if channels differ, ``pointwise`` is no 1x1 or both pads and strides, or the
    result would be wrong at the border: a kernel that pads with zeros what the bias of the
    pointwise should fill.
    Source: DBB, transform III (sequential convolutions).
    """
    if pointwise.geometry.kernel != (1, 1):
        raise _not_pointwise(pointwise, "first")
    return _in_sequence(pointwise, kernel, pads_bias=pads_bias)


def merge_pointwise_last(kernel: Kernel, pointwise: Kernel) -> Kernel:
    """A kxk convolution and the 1x1 convolution after it as one kxk convolution; always exact.

    P (K x + b) + c = (P K) x + P b + c. A stride of the pointwise multiplies the kernel's.
    Returns: a kernel with the greatest common divisor of both groups.
    Raises: ModelError if channels differ, or ``pointwise`` is no unpadded 1x1.
    Source: DBB, transform III.
    """
    if (pointwise.geometry.kernel, pointwise.geometry.padding) != ((1, 1), (0, 0)):
        raise _not_pointwise(pointwise, "last")
    return _in_sequence(kernel, pointwise)


def merge_separable(first: Kernel, second: Kernel) -> Kernel:
    """A kx1 and a 1xk convolution in sequence (or 1xk, kx1) as one kxk convolution.

    Raises: ModelError if channels differ, both reach along one axis, or the second one pads with
    zeros what the bias of the first should fill.
    Source: Jaderberg et al., "Speeding up Convolutional Neural Networks with Low Rank Expansions",
    BMVC 2014, section 2 (read backwards).
    """
    return _in_sequence(first, second)


def fold_batch_norm_before(norm: BatchNorm, kernel: Kernel) -> Kernel:
    """Fold the BatchNorm before a convolution into it; its groups stay.

    A BatchNorm is a depthwise 1x1 convolution, so this is ``merge_pointwise_first``.
    Raises: ModelError if channels differ, or the kernel pads with zeros and the BatchNorm shifts:
    then no single convolution is equal at the border.
    """
    scale = norm.gamma / norm.spread
    point = ConvGeometry.square(1, groups=len(scale))
    return merge_pointwise_first(scale_kernel(scale, norm.beta - norm.mean * scale, point), kernel)


def scale_kernel(scale: Floats, shift: Floats, geometry: ConvGeometry) -> Kernel:
    """``scale * x + shift`` per channel, as the 1x1 companion of ``geometry``.

    Shapes: scale and shift (C,).
    Raises: ModelError if the lengths differ, ``geometry`` changes the size, or its groups do not
    divide the channels.
    Source: Ding et al., CVPR 2021, section 3.3 (an identity is a 1x1 conv), with its BatchNorm.
    """
    if scale.ndim != 1 or scale.shape != shift.shape:
        raise ModelError(
            f"a scale {scale.shape} and a shift {shift.shape} are not one number per channel each",
            hint="broadcast both to (C,)",
        )
    identity = identity_kernel(len(scale), geometry)
    return replace(identity, weight=identity.weight * scale[:, None, None, None], bias=shift)


def average_pool_kernel(
    channel_count: int, geometry: ConvGeometry, *, count_include_pad: bool = True
) -> Kernel:
    """An average pool over the window, stride and padding of ``geometry``, with its groups.

    Every tap that reads the output's own channel weighs 1 / (kH kW).
    Returns: depthwise if the groups are the channels; else zeros join it to the wider groups.
    Raises: ModelError if groups do not divide the channels, or the pool pads but divides by the
    number of pixels inside the image: at the border it is no convolution.
    Source: DBB, transform V.
    """
    if geometry.padding != (0, 0) and not count_include_pad:
        raise ModelError(
            f"an average pool {geometry.kernel} with padding {geometry.padding} does not count the "
            "padding, so at the border it divides by less than inside",
            hint="train it with count_include_pad=True, or keep this branch live",
        )
    weight = np.zeros(geometry.weight_shape(channel_count, channel_count))
    channel = np.arange(channel_count)
    weight[channel, channel % (channel_count // geometry.groups)] = 1.0 / geometry.tap_count
    return Kernel(geometry=geometry, weight=weight, bias=np.zeros(channel_count))


def split_concat(kernels: Sequence[Kernel], pointwise: Kernel) -> tuple[Kernel, ...]:
    """Convolutions, the concatenation of their outputs, and a 1x1 over it, as convolutions.

    P [K1 x1; K2 x2; ...] = (P1 K1) x1 + (P2 K2) x2 + ..., with P's input channels split as the
    concatenation lies. Each kernel keeps its own input, size and dilation.
    Returns: one kernel for each given; the SUM of their outputs is the whole. All bias, also
    that of the pointwise, is in the first.
    Raises: ModelError if there is none, the channels do not add up, or ``pointwise`` is no 1x1.
    Source: DBB, transforms III and IV; the block of three dilated branches is that of Liu et al.,
    "Receptive Field Block Net for Accurate and Fast Object Detection", ECCV 2018, section 3.
    """
    counts = [len(kernel.bias) for kernel in kernels]
    if not kernels or sum(counts) != pointwise.in_count:
        raise ModelError(
            f"a concatenation of {counts} channels does not feed a 1x1 convolution of "
            f"{pointwise.in_count} inputs",
            hint="give every branch of the concatenation, in its order",
        )
    dense = ungrouped(pointwise)
    parts = np.split(dense.weight, np.cumsum(counts)[:-1], axis=1)
    zero = np.zeros_like(dense.bias)
    merged = [
        merge_pointwise_last(kernel, replace(dense, weight=part, bias=zero))
        for kernel, part in zip(kernels, parts, strict=True)
    ]
    bias = reduce(np.add, (kernel.bias for kernel in merged), dense.bias)
    return (replace(merged[0], bias=bias), *(replace(one, bias=zero) for one in merged[1:]))


def _in_sequence(first: Kernel, second: Kernel, *, pads_bias: bool = False) -> Kernel:
    """One kernel for two in a row, of which on each axis only one is larger than 1."""
    if len(first.bias) != second.in_count:
        raise ModelError(
            f"the first convolution has {len(first.bias)} outputs, the second "
            f"{second.in_count} inputs",
            hint="only convolutions in direct sequence merge",
        )
    if second.geometry.padding != (0, 0) and first.bias.any() and not pads_bias:
        raise ModelError(
            f"a kernel {second.geometry.kernel} pads with zeros (padding "
            f"{second.geometry.padding}) after a convolution with a bias, so no single convolution "
            "is equal at the border",
            hint="remove that bias (or its BatchNorm's shift), pad before both, or keep both live",
        )
    one, two = align_groups((first, second))
    early, late = _matrices(one), _matrices(two)
    matrices = late @ early  # one of the two has a single row, and one a single column, of taps
    weight = matrices.transpose(0, 3, 4, 1, 2).reshape(len(two.bias), -1, *matrices.shape[1:3])
    passed = late.sum(axis=(1, 2)) @ one.bias.reshape(len(early), -1, 1)
    return Kernel(
        geometry=_sequence_geometry(one.geometry, two.geometry),
        weight=weight,
        bias=two.bias + passed.reshape(-1),
    )


def _matrices(kernel: Kernel) -> Floats:
    """The weight as one matrix per group and tap: (groups, kH, kW, O / groups, I / groups)."""
    groups = kernel.geometry.groups
    blocks = kernel.weight.reshape(groups, -1, *kernel.weight.shape[1:])
    matrices: Floats = blocks.transpose(0, 3, 4, 1, 2)
    return matrices


def _sequence_geometry(first: ConvGeometry, second: ConvGeometry) -> ConvGeometry:
    axes = [_sequence_axis(first, second, axis) for axis in (0, 1)]
    kernel, stride, padding, dilation = zip(*axes, strict=True)
    return ConvGeometry(
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=first.groups,
    )


def _sequence_axis(first: ConvGeometry, second: ConvGeometry, axis: int) -> tuple[int, ...]:
    """Kernel, stride, padding, dilation on one axis.

    Output o reads input s1 (s2 o - p2 + d2 t2) - p1 + d1 t1 (1: first, 2: second). If the first
    has one tap this is stride s1 s2, padding p1 + s1 p2, dilation s1 d2; if the second has, and
    does not pad, stride s1 s2, padding p1, dilation d1. Rounding down twice is rounding down once,
    so the output size is the same too, except after a first that both pads and strides.
    """
    step = first.stride[axis]
    stride = step * second.stride[axis]
    if first.kernel[axis] == 1 and (first.padding[axis] == 0 or step == 1):
        padding = first.padding[axis] + step * second.padding[axis]
        return second.kernel[axis], stride, padding, step * second.dilation[axis]
    if second.kernel[axis] == 1 and second.padding[axis] == 0:
        return first.kernel[axis], stride, first.padding[axis], first.dilation[axis]
    raise ModelError(
        f"kernels {first.kernel} and {second.kernel} both reach or pad along "
        f"{('rows', 'columns')[axis]}",
        hint="keep these two convolutions apart",
    )


def _not_pointwise(kernel: Kernel, place: str) -> ModelError:
    return ModelError(
        f"the {place} convolution has a kernel {kernel.geometry.kernel} and padding "
        f"{kernel.geometry.padding}, not an unpadded 1x1",
        hint="only a 1x1 convolution merges into its neighbour; keep the two apart",
    )
