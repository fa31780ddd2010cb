"""Where the taps of a convolution lie: the one value that all branches of a block are made from.

In:  kernel, stride, padding, dilation, groups.  Out: weight shapes, output sizes, at which taps of
a larger kernel a smaller one sits, and the kernel that covers several.  Pure: no weights, no torch.
Padding is with zeros and the same on both sides of an axis; (rows, columns) order everywhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit.errors import ModelError

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvGeometry:
    """Everything about a 2-D convolution except its channels and weights."""

    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        for name in ("kernel", "stride", "dilation"):
            if min(getattr(self, name)) < 1:
                raise ModelError(
                    f"a convolution's {name} must be at least 1, got {getattr(self, name)}",
                    hint=f"give {name} as two positive whole numbers, rows first",
                )
        if min(self.padding) < 0 or self.groups < 1:
            raise ModelError(
                f"a convolution has padding {self.padding} and groups {self.groups}",
                hint="use padding of 0 or more and at least 1 group",
            )

    @classmethod
    def square(
        cls, kernel: int, *, stride: int = 1, dilation: int = 1, groups: int = 1
    ) -> "ConvGeometry":
        """An odd square kernel, padded so that stride 1 keeps the size.

        Raises: ModelError if ``kernel`` is even: then no padding keeps the size.
        """
        if kernel % 2 == 0:
            raise ModelError(f"a {kernel}x{kernel} kernel has no centre", hint="use an odd kernel")
        padding = dilation * (kernel - 1) // 2
        return cls(
            kernel=(kernel, kernel),
            stride=(stride, stride),
            padding=(padding, padding),
            dilation=(dilation, dilation),
            groups=groups,
        )

    @property
    def pointwise(self) -> "ConvGeometry":
        """The 1x1 convolution that reads the centre tap of this one: same stride and groups.

        Raises: ModelError if the kernel has no centre, or its output is smaller than a 1x1's.
        """
        rows, columns = self._margin
        if rows % 2 or columns % 2 or min(rows, columns) < 0 or not self._has_centre:
            raise ModelError(
                f"no 1x1 convolution stands beside a kernel {self.kernel} with padding "
                f"{self.padding} and dilation {self.dilation}",
                hint="use an odd kernel, padded by at least dilation * (kernel - 1) / 2",
            )
        return replace(self, kernel=(1, 1), padding=(rows // 2, columns // 2), dilation=(1, 1))

    @property
    def keeps_size(self) -> bool:
        """True if the output has the size of the input, as an identity branch needs."""
        return self.stride == (1, 1) and self._margin == (0, 0)

    @property
    def tap_count(self) -> int:
        """Multiply-adds that each output takes per input channel of its group."""
        return self.kernel[0] * self.kernel[1]

    def output_size(self, size: Pair) -> Pair:
        """Rows and columns of the output for an input of ``size``.

        Raises: ModelError if the padded input is smaller than the kernel.
        """
        rows, columns = (
            (size[axis] - 1 + self._margin[axis]) // self.stride[axis] + 1 for axis in (0, 1)
        )
        if min(rows, columns) < 1:
            raise ModelError(
                f"an input of {size} is smaller than a kernel {self.kernel} with padding "
                f"{self.padding} and dilation {self.dilation}",
                hint="give the model a larger input",
            )
        return rows, columns

    @property
    def _has_centre(self) -> bool:
        return self.kernel[0] % 2 == 1 and self.kernel[1] % 2 == 1

    @property
    def _margin(self) -> Pair:
        """By how much padding exceeds what the kernel takes away, per axis."""
        rows, columns = (
            2 * self.padding[axis] - self.dilation[axis] * (self.kernel[axis] - 1)
            for axis in (0, 1)
        )
        return rows, columns

    def weight_shape(self, in_count: int, out_count: int) -> tuple[int, int, int, int]:
        """(O, I / groups, kH, kW). Raises: ModelError if groups do not divide the channels."""
        if in_count % self.groups or out_count % self.groups:
            raise ModelError(
                f"{self.groups} groups divide neither or only one of {in_count} input and "
                f"{out_count} output channels",
                hint="choose channel counts that are multiples of groups",
            )
        return (out_count, in_count // self.groups, *self.kernel)

    def taps_in(self, larger: "ConvGeometry") -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Rows and columns of ``larger``'s kernel at which this kernel's taps lie.

        Output o reads input stride * o - padding + dilation * tap, so tap t of this kernel is tap
        (P - p + d t) / D of the larger one (capitals: larger).
        Raises: ModelError if the outputs differ in size, or a tap falls outside or between.
        """
        self._refuse_other_grid(larger)
        return self._axis_taps(larger, 0), self._axis_taps(larger, 1)

    def _refuse_other_grid(self, other: "ConvGeometry") -> None:
        if (self.stride, self.groups) != (other.stride, other.groups):
            raise ModelError(
                f"stride {self.stride} and groups {self.groups} differ from stride "
                f"{other.stride} and groups {other.groups}",
                hint="only branches of equal stride and groups fold into one kernel",
            )
        if self._margin != other._margin:
            raise ModelError(
                f"a kernel {self.kernel} with padding {self.padding} and dilation {self.dilation} "
                f"gives another output size than {other.kernel}, {other.padding}, "
                f"{other.dilation}",
                hint="pad each branch so that their outputs have one size",
            )

    def _axis_taps(self, larger: "ConvGeometry", axis: int) -> tuple[int, ...]:
        shift = larger.padding[axis] - self.padding[axis]
        taps = []
        for tap in range(self.kernel[axis]):
            position, between = divmod(shift + self.dilation[axis] * tap, larger.dilation[axis])
            if between or not 0 <= position < larger.kernel[axis]:
                raise ModelError(
                    f"tap {tap} of a kernel {self.kernel} with dilation {self.dilation} is no tap "
                    f"of the kernel {larger.kernel} with dilation {larger.dilation}",
                    hint="fold into a kernel that covers all taps, or keep this branch live",
                )
            taps.append(position)
        return tuple(taps)


def covering_geometry(geometries: Sequence[ConvGeometry]) -> ConvGeometry:
    """The smallest kernel with a tap wherever one of ``geometries`` has one.

    Branches of one output size are centred on the same point, so on each axis the widest one gives
    the extent; the spacing is the greatest common divisor of all distances between taps. Branches
    of one dilation keep it; 3x3 kernels dilated by 2 and by 3 need a dense 7x7.
    Returns: a geometry into which each of ``geometries`` embeds. It costs its ``tap_count`` per
    output, of which ``filled_tap_count(geometries)`` are not zero; kept apart, the branches cost
    the sum of theirs.
    Raises: ModelError if there is none, or strides, groups or output sizes differ.
    """
    if not geometries:
        raise ModelError("a block without branches has no kernel", hint="check the model")
    first = geometries[0]
    for other in geometries[1:]:
        other._refuse_other_grid(first)
    rows, columns = (_covering_axis(geometries, axis) for axis in (0, 1))
    return replace(
        first,
        kernel=(rows[0], columns[0]),
        padding=(rows[1], columns[1]),
        dilation=(rows[2], columns[2]),
    )


def filled_tap_count(geometries: Sequence[ConvGeometry]) -> int:
    """Taps of the covering kernel that hold a weight; the others are zeros that cost time."""
    cover = covering_geometry(geometries)
    tap_sets = [geometry.taps_in(cover) for geometry in geometries]
    return len({(row, column) for rows, columns in tap_sets for row in rows for column in columns})


def _covering_axis(geometries: Sequence[ConvGeometry], axis: int) -> tuple[int, int, int]:
    """Kernel, padding and dilation on one axis."""
    padding = max(geometry.padding[axis] for geometry in geometries)
    between = [padding - geometry.padding[axis] for geometry in geometries]
    between += [one.dilation[axis] for one in geometries if one.kernel[axis] > 1]
    dilation = math.gcd(*between) or 1
    extent = 2 * padding - geometries[0]._margin[axis]
    return extent // dilation + 1, padding, dilation
