"""One convolution as a sequence of cheaper ones: factors of low rank.

In:  a dense kernel, and how many ranks or how much of its energy to keep.  Out: the factors, the
error they make in the weights, and the work before and after.
Unlike a fold this changes the function, unless the weights truly have that rank. Nothing is lost at
the border: only the last factor has a bias, and zeros stay zeros in front of it.
Pure, float64, no torch and no ONNX.
Source: Eckart, Young, Psychometrika 1(3), 1936, for a matrix; the others at their functions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edgekit.builder.fold.algebra import Floats, Kernel
from edgekit.builder.fold.geometry import ConvGeometry, Pair
from edgekit.builder.fold.merge import (
    merge_pointwise_first,
    merge_pointwise_last,
    merge_separable,
)
from edgekit.errors import ConfigError, ModelError

Method = Literal["channel", "spatial", "tucker2"]
_POINT = ConvGeometry.square(1)
_MAX_SVD_ROWS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much of a kernel to keep: its energy, or a rank; exactly one of the two.

    ``energy`` is the share of the squared Frobenius norm, 0 < energy <= 1: 0.99 leaves a relative
    error of at most 0.1 in the weights. ``rank`` is the width of the narrowest factor, cut off
    where the kernel has fewer. ``multiple``: ranks found from an energy are rounded up to it.
    Raises: ConfigError if both or neither is given, or one is out of range.
    """

    energy: float | None = None
    rank: int | None = None
    multiple: int = 1

    def __post_init__(self) -> None:
        if (self.energy is None) == (self.rank is None):
            raise ConfigError("a low-rank factorisation needs an energy or a rank, not both",
                              hint="give the energy to keep, such as 0.95")  # fmt: skip
        if self.energy is not None and not 0 < self.energy <= 1:
            raise ConfigError(f"the energy to keep is {self.energy}",
                              hint="give a share above 0 and at most 1, such as 0.95")  # fmt: skip
        if self.rank is not None and self.rank < 1:
            raise ConfigError(f"a rank of {self.rank} keeps nothing", hint="give at least 1")

    def rank_of(self, singular: Floats, *, losses: int = 1) -> int:
        """Ranks to keep of singular values in falling order, (R,).

        ``losses``: how many truncations share what may be lost.
        """
        if self.energy is None:
            return min(self.rank or 1, len(singular))
        squares = singular**2
        allowed = (1 - self.energy) / losses * squares.sum()
        # tail[r]: the energy that is lost if the first r ranks are kept.
        tail = np.append(np.cumsum(squares[::-1])[::-1], 0.0)
        # Below the rounding of float64 an energy of 1 would keep ranks that are only noise.
        enough = np.flatnonzero(tail <= max(allowed, 1e-24 * squares.sum()))
        needed = max(int(enough[0]), 1)
        return min(-(-needed // self.multiple) * self.multiple, len(singular))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Factors:
    """Convolutions to run one after the other instead of one."""

    method: Method
    kernels: tuple[Kernel, ...]
    relative_error: float
    """||product - original|| / ||original|| of the weights, Frobenius norms; not of any output."""

    @property
    def ranks(self) -> tuple[int, ...]:
        """Channels between the factors."""
        return tuple(len(kernel.bias) for kernel in self.kernels[:-1])

    def work_flop(self, size: Pair) -> int:
        """Work on one input of (rows, columns) ``size``; 1 multiply-add = 2 flop."""
        return sequence_work_flop(self.kernels, size)


def sequence_work_flop(kernels: Sequence[Kernel], size: Pair) -> int:
    """Work of convolutions in sequence on one input of (rows, columns) ``size``.

    Raises: ModelError if the input is smaller than a kernel.
    """
    total = 0
    for kernel in kernels:
        size = kernel.geometry.output_size(size)
        total += 2 * kernel.weight.size * size[0] * size[1]
    return total


def factor_channels(kernel: Kernel, budget: Budget) -> Factors:
    """A kxk convolution into ``rank`` channels, then 1x1: the SVD of the weight as (O, I kH kW).

    For a 1x1 convolution or a Linear layer this is the best factorisation of its rank.
    Raises: ModelError if the kernel has groups, or is zero everywhere.
    Source: Zhang, Zou, He, Sun, "Accelerating Very Deep Convolutional Networks", TPAMI 2016,
    section 3.1, for linear responses and without data.
    """
    _refuse_groups(kernel)
    matrix = kernel.weight.reshape(len(kernel.bias), -1)
    left, right = _split_matrix(matrix, budget)
    first = Kernel(
        geometry=kernel.geometry,
        weight=right.reshape(-1, *kernel.weight.shape[1:]),
        bias=np.zeros(len(right)),
    )
    second = Kernel(geometry=_POINT, weight=left[:, :, None, None], bias=kernel.bias)
    return _checked("channel", kernel, (first, second), merge_pointwise_last(first, second))


def factor_rows_and_columns(kernel: Kernel, budget: Budget) -> Factors:
    """A kx1 convolution into ``rank`` channels, then 1xk: the SVD of the weight as (I kH, O kW).

    Each takes the stride, padding and dilation of its own axis.
    Raises: ModelError if the kernel has groups, or is zero everywhere.
    Source: Jaderberg, Vedaldi, Zisserman, "Speeding up Convolutional Neural Networks with Low Rank
    Expansions", BMVC 2014, scheme 2; closed form by Tai et al., ICLR 2016, section 3.
    """
    _refuse_groups(kernel)
    outs, ins, rows, columns = kernel.weight.shape
    matrix = kernel.weight.transpose(1, 2, 0, 3).reshape(ins * rows, outs * columns)
    left, right = _split_matrix(matrix, budget)
    first = Kernel(
        geometry=_along(kernel.geometry, 0),
        weight=left.reshape(ins, rows, -1).transpose(2, 0, 1)[:, :, :, None],
        bias=np.zeros(len(right)),
    )
    second = Kernel(
        geometry=_along(kernel.geometry, 1),
        weight=right.reshape(-1, outs, columns).transpose(1, 0, 2)[:, :, None, :],
        bias=kernel.bias,
    )
    return _checked("spatial", kernel, (first, second), merge_separable(first, second))


def factor_tucker(kernel: Kernel, budget: Budget, *, refine_count: int = 2) -> Factors:
    """1x1 into fewer channels, kxk between fewer channels, 1x1 back: Tucker-2 of the weight.

    The two bases come of the SVDs of the weight unfolded along its output and its input channels
    (HOSVD); each of ``refine_count`` rounds of higher-order orthogonal iteration then takes the
    best basis on one side for the one on the other. The energy that may be lost is shared by the
    two cuts, so that of the result is at least what was asked for.
    Raises: ModelError if the kernel has groups, or is zero everywhere.
    Source: Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low Power
    Mobile Applications", ICLR 2016, section 3.2; De Lathauwer, De Moor, Vandewalle, SIAM J. Matrix
    Anal. Appl. 21(4), 2000, pages 1253 (HOSVD) and 1324 (iteration).
    """
    _refuse_groups(kernel)
    weight = kernel.weight
    outs, ins = _basis(weight, 0, budget), _basis(weight, 1, budget)
    for _ in range(refine_count):
        outs = _basis(np.tensordot(weight, ins, (1, 0)), 0, Budget(rank=outs.shape[1]))
        ins = _basis(np.tensordot(weight, outs, (0, 0)), 0, Budget(rank=ins.shape[1]))
    core = np.tensordot(np.tensordot(weight, ins, (1, 0)), outs, (0, 0))  # (kH, kW, in, out)
    first = Kernel(geometry=_POINT, weight=ins.T[:, :, None, None], bias=np.zeros(ins.shape[1]))
    middle = Kernel(
        geometry=kernel.geometry, weight=core.transpose(3, 2, 0, 1), bias=np.zeros(outs.shape[1])
    )
    last = Kernel(geometry=_POINT, weight=outs[:, :, None, None], bias=kernel.bias)
    product = merge_pointwise_last(merge_pointwise_first(first, middle), last)
    return _checked("tucker2", kernel, (first, middle, last), product)


def cheapest_factors(kernel: Kernel, budget: Budget, size: Pair) -> Factors:
    """The factorisation of least work among those that reach ``budget``.

    A 1x1 kernel has one way, its SVD. By energy the least work on an input of (rows, columns)
    ``size`` wins; by rank, where the errors differ, the least error among those that save work.
    Raises: ModelError if the kernel has groups, or is zero everywhere.
    """
    ways: list[Callable[[Kernel, Budget], Factors]] = [factor_channels]
    if max(kernel.geometry.kernel) > 1:
        ways += [factor_rows_and_columns, factor_tucker]
    found = [way(kernel, budget) for way in ways]
    work_flop = {id(one): one.work_flop(size) for one in found}
    if budget.rank is None:
        return min(found, key=lambda one: work_flop[id(one)])
    limit_flop = max(sequence_work_flop([kernel], size), min(work_flop.values()) + 1)
    saving = [one for one in found if work_flop[id(one)] < limit_flop]
    return min(saving, key=lambda one: one.relative_error)


def _split_matrix(matrix: Floats, budget: Budget) -> tuple[Floats, Floats]:
    """The best factors (M, rank) and (rank, N) of a matrix.

    Each has half of the scale: float16 and int8 would pay for numbers much larger on one side.
    """
    if matrix.shape[0] > matrix.shape[1]:
        right, left = _split_matrix(matrix.T, budget)
        return left.T, right.T
    basis, singular = _left_singular(matrix)
    left = basis[:, : budget.rank_of(singular)]
    right = left.T @ matrix
    root = np.sqrt(np.linalg.norm(right, axis=1))
    root[root == 0] = 1.0
    return left * root, right / root[:, None]


def _left_singular(matrix: Floats) -> tuple[Floats, Floats]:
    """Left singular vectors (M, R) and singular values (R,), largest first.

    A large wide matrix goes by way of M M^T, many times faster; singular values below about
    1e-7 of the largest then are noise, which is what float32 weights hold there anyway.
    """
    rows, columns = matrix.shape
    if not _MAX_SVD_ROWS < rows <= columns:
        left, singular, _ = np.linalg.svd(matrix, full_matrices=False)
        return left, singular
    squares, vectors = np.linalg.eigh(matrix @ matrix.T)
    return vectors[:, ::-1], np.sqrt(np.maximum(squares[::-1], 0.0))


def _basis(weight: Floats, axis: int, budget: Budget) -> Floats:
    """Orthonormal columns (size of ``axis``, rank) that span most of the tensor along ``axis``."""
    matrix = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    left, singular = _left_singular(matrix)
    basis: Floats = left[:, : budget.rank_of(singular, losses=2)]
    return basis


def _along(geometry: ConvGeometry, axis: int) -> ConvGeometry:
    """The part of ``geometry`` on one axis; the other axis is left as it is."""

    def only(pair: Pair, default: int) -> Pair:
        return (pair[0], default) if axis == 0 else (default, pair[1])

    return replace(
        geometry,
        kernel=only(geometry.kernel, 1),
        stride=only(geometry.stride, 1),
        padding=only(geometry.padding, 0),
        dilation=only(geometry.dilation, 1),
    )


def _checked(
    method: Method, kernel: Kernel, kernels: tuple[Kernel, ...], product: Kernel
) -> Factors:
    """The factors with their error, which comes of multiplying them back, not of a formula."""
    off = float(np.linalg.norm(product.weight - kernel.weight))
    return Factors(
        method=method,
        kernels=kernels,
        relative_error=off / float(np.linalg.norm(kernel.weight)),
    )


def _refuse_groups(kernel: Kernel) -> None:
    if kernel.geometry.groups != 1:
        raise ModelError(
            f"a convolution of {kernel.geometry.groups} groups is not factorised",
            hint="its groups already are a factorisation; keep it",
        )
    if not kernel.weight.any():
        raise ModelError("a kernel is zero everywhere", hint="check the model's weights")
