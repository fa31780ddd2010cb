"""The algebra of folding: linear branches over one input are one convolution.

In:  kernels and BatchNorm statistics as arrays.  Out: new kernels; inputs are never changed.
Everything is float64: the one rounding to float32 happens where a result is stored.
Pure: no torch, no ONNX, so that both front ends share it.
Source: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021, section 3.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.errors import ModelError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kernel:
    """The numbers of one convolution. Shapes: weight (O, I / groups, kH, kW), bias (O,).

    Numbers of any real type may be given; they are kept in float64.
    Raises: ModelError if the shapes do not fit the geometry, or a number is not finite.
    """

    geometry: ConvGeometry
    weight: Floats
    bias: Floats

    def __post_init__(self) -> None:
        _keep_float64(self, "weight", "bias")
        shape, groups = self.weight.shape, self.geometry.groups
        fits = len(shape) == 4 and shape[2:] == self.geometry.kernel and shape[0] % groups == 0
        if not fits or self.bias.shape != shape[:1]:
            raise ModelError(
                f"weight {shape} and bias {self.bias.shape} do not fit a kernel "
                f"{self.geometry.kernel} in {groups} groups",
                hint="give weight (O, I / groups, kH, kW) and bias (O,)",
            )
        _refuse_nan("kernel", self.weight, self.bias)

    @property
    def in_count(self) -> int:
        """Input channels of all groups together."""
        return int(self.weight.shape[1]) * self.geometry.groups


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BatchNorm:
    """What a BatchNorm does in evaluation mode. Shapes: each array (C,).

    Numbers of any real type may be given; they are kept in float64.
    Raises: ModelError if the shapes differ, or the statistics define no function.
    """

    gamma: Floats
    beta: Floats
    mean: Floats
    variance: Floats
    epsilon: float

    def __post_init__(self) -> None:
        _keep_float64(self, "gamma", "beta", "mean", "variance")
        shapes = {value.shape for value in (self.gamma, self.beta, self.mean, self.variance)}
        if len(shapes) != 1 or self.gamma.ndim != 1:
            raise ModelError(
                f"a BatchNorm has arrays of shapes {sorted(shapes)}",
                hint="give gamma, beta, mean and variance with one number per channel",
            )
        _refuse_nan("BatchNorm", self.gamma, self.beta, self.mean, self.variance)
        if self.variance.size and not (self.variance.min() >= 0 and self.spread.min() > 0):
            raise ModelError(
                f"a BatchNorm has the variance {self.variance.min():.3g} and epsilon "
                f"{self.epsilon:.3g}: no square root to divide by",
                hint="train it on real data, or set its epsilon to 1e-5",
            )

    @property
    def spread(self) -> Floats:
        """sqrt(variance + epsilon), what activations are divided by."""
        total: Floats = np.sqrt(self.variance + self.epsilon)
        return total


def fold_batch_norm(kernel: Kernel, norm: BatchNorm) -> Kernel:
    """Fold the BatchNorm after a convolution into it.

    gamma (W x + b - mean) / s + beta = (gamma / s) W x + (gamma / s) (b - mean) + beta.
    Shapes: the norm has one number for each of the kernel's O outputs.
    Returns: a kernel of the same geometry and the same function up to rounding.
    Raises: ModelError if the channel counts differ.
    Source: Ding et al., CVPR 2021, section 3.3, equation 3.
    """
    if norm.gamma.shape != kernel.bias.shape:
        raise ModelError(
            f"the convolution has {len(kernel.bias)} outputs, the BatchNorm {len(norm.gamma)}",
            hint="check that this BatchNorm directly follows this convolution",
        )
    scale = norm.gamma / norm.spread
    return replace(
        kernel,
        weight=kernel.weight * scale[:, None, None, None],
        bias=(kernel.bias - norm.mean) * scale + norm.beta,
    )


def identity_kernel(channel_count: int, geometry: ConvGeometry) -> Kernel:
    """The identity over ``channel_count`` channels, as the 1x1 companion of ``geometry``.

    Returns: output o reads channel o, which is number o mod (I / groups) of its own group.
    Raises: ModelError if ``geometry`` changes the size, or its groups do not divide the channels.
    Source: Ding et al., CVPR 2021, section 3.3 ("an identity can be viewed as a 1x1 conv").
    """
    if not geometry.keeps_size:
        raise ModelError(
            f"an identity cannot stand beside a kernel {geometry.kernel} with stride "
            f"{geometry.stride} and padding {geometry.padding}: the sizes differ",
            hint="use stride 1 and a padding that keeps the size",
        )
    point = geometry.pointwise
    weight = np.zeros(point.weight_shape(channel_count, channel_count))
    channel = np.arange(channel_count)
    weight[channel, channel % (channel_count // geometry.groups), 0, 0] = 1.0
    return Kernel(geometry=point, weight=weight, bias=np.zeros(channel_count))


def embed(kernel: Kernel, geometry: ConvGeometry) -> Kernel:
    """The same function with the larger kernel of ``geometry``: taps moved, the rest zero.

    Returns: a kernel of ``geometry``.
    Raises: ModelError if strides, groups or output sizes differ, or a tap has no place.
    Source: Ding et al., CVPR 2021, section 3.3 (zero-padding of 1x1); ConvGeometry.taps_in.
    """
    rows, columns = kernel.geometry.taps_in(geometry)
    weight = np.zeros((*kernel.weight.shape[:2], *geometry.kernel))
    weight[:, :, np.array(rows)[:, None], np.array(columns)[None, :]] = kernel.weight
    return Kernel(geometry=geometry, weight=weight, bias=kernel.bias)


def add_branches(branches: Sequence[Kernel], geometry: ConvGeometry) -> Kernel:
    """One convolution whose output is the sum of those of ``branches`` over the same input.

    Returns: a kernel of ``geometry``, into which each branch is embedded first.
    Raises: ModelError if there is no branch, or one does not fit the geometry or the channels.
    Source: Ding et al., CVPR 2021, section 3.3 (convolution is linear in its kernel).
    """
    if not branches:
        raise ModelError("a block without branches has no function", hint="check the model")
    channels = {(kernel.in_count, len(kernel.bias)) for kernel in branches}
    if len(channels) > 1:
        raise ModelError(
            f"branches have different channels (in, out): {sorted(channels)}",
            hint="only branches over one input and into one sum fold together",
        )
    wide = [embed(kernel, geometry) for kernel in branches]
    return Kernel(
        geometry=geometry,
        weight=reduce(np.add, (kernel.weight for kernel in wide)),
        bias=reduce(np.add, (kernel.bias for kernel in wide)),
    )


def _keep_float64(numbers: "Kernel | BatchNorm", *names: str) -> None:
    """A float32 array would carry its rounding through the whole fold."""
    for name in names:
        object.__setattr__(numbers, name, np.asarray(getattr(numbers, name), np.float64))


def _refuse_nan(what: str, *values: Floats) -> None:
    if not all(np.isfinite(value).all() for value in values):
        raise ModelError(
            f"a {what} holds NaN or infinity", hint="go back to a checkpoint from before it did"
        )
