"""Principal components of the channels, in steps of one size: fewer bytes than 256 steps, for time.

In: a float array and its ChannelBasis.  Out: bytes that pack well, or floats again.
Pure. y = rows (x - mean) for the channels x of each place; q = round(y / step) as 16 bits, sign
last, all low bytes before all high ones. The step is the rate: larger steps, fewer bytes. As the
rows are orthonormal, with all components kept the channels of a place are together (root of the
sum of squares) off by at most ``sqrt(channels) step / 2``; components that were left out add what
they hold. One of more than 32767 steps, far beyond calibration data, is cut off there.

Source: Goyal, "Theoretical Foundations of Transform Coding", IEEE Signal Processing Magazine 18(5),
2001: the Karhunen-Loeve transform, one uniform step, and a coder of bytes.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ConfigError
from edgekit.spec.codec import (
    BASIS_CHANNELS_MAX,
    RANGE_LIMIT,
    ChannelBasis,
    CodecSpec,
    Packing,
    channel_axis,
)
from edgekit.spec.tensors import Array
from edgekit.transport.codecs import steps

_TOP = 32767
_QUIET = 0.25
"""A component whose deviation is below this many steps is left out: it would be nearly all zero."""


class Klt:
    """A ChannelBasis at work."""

    def __init__(self, basis: ChannelBasis) -> None:
        mean = np.frombuffer(basis.mean, "<f4").astype(np.float32)
        rows = np.frombuffer(basis.rows, "<f4").astype(np.float32).reshape(-1, mean.size)
        self._name = basis.name
        self._mean = mean[:, None]
        self._forth = rows / np.float32(basis.step)
        self._back = np.ascontiguousarray(rows.T * np.float32(basis.step))

    @property
    def channel_count(self) -> int:
        """Channels of the tensor."""
        return len(self._back)

    @property
    def component_count(self) -> int:
        """Components that travel."""
        return len(self._forth)

    def quantize(self, array: Array, axis: int | None) -> NDArray[np.uint8]:
        """Shapes: any with ``channel_count`` along ``axis``. Returns: (2 components places,).

        Raises: ModelError if its numbers are so far from the calibration data that they overflow.
        """
        channels = _channels_first(array, axis)
        with np.errstate(over="ignore", invalid="ignore"):
            whole = np.rint(self._forth @ (channels - self._mean))
        steps.check_finite(self._name, whole.min(), whole.max())
        signed = np.clip(whole, -_TOP, _TOP).astype("<i2")
        folded = ((signed << 1) ^ (signed >> 15)).view(np.uint8).reshape(-1, 2)
        return np.ascontiguousarray(folded.T).reshape(-1)

    def restore(
        self,
        coded: NDArray[np.uint8],
        shape: tuple[int, ...],
        axis: int | None,
        dtype: np.dtype[np.generic],
    ) -> Array:
        """Floats of ``dtype`` and ``shape`` from what ``quantize`` made of such."""
        folded = np.ascontiguousarray(coded.reshape(2, -1).T).view("<u2").reshape(-1)
        signed = (folded >> 1).astype(np.int16) ^ -(folded & 1).astype(np.int16)
        whole = signed.reshape(self.component_count, -1).astype(np.float32)
        before, along, after = steps.layout(shape, axis)
        with np.errstate(over="ignore", invalid="ignore"):  # a hostile sender's numbers
            channels = self._back @ whole + self._mean
            cube = channels.reshape(along, before, after).transpose(1, 0, 2)
            return np.ascontiguousarray(cube.reshape(shape).astype(dtype, copy=False))


def fit_klt(
    frames: Iterable[Mapping[str, Array]], *, relative_step: float, packing: Packing = "zstd"
) -> CodecSpec:
    """A klt codec for the tensors of ``frames``, all of one size.

    ``relative_step`` is the step in root mean squares of the tensor about its channel means: 0.1 is
    fine, 1 coarse. Tensors with few elements a channel, or with too many channels, get no basis.
    Raises: ConfigError if no tensor gets one, or the step is not positive; ModelError for NaN.
    """
    if not 0 < relative_step < math.inf:
        raise ConfigError(f"the relative step is {relative_step}", hint="use 0.05 to 1")
    sums: dict[str, _Moments] = {}
    for frame in frames:
        for name, tensor in frame.items():
            axis = channel_axis(tensor.shape)
            if tensor.dtype.kind != "f" or axis is None or tensor.shape[axis] > BASIS_CHANNELS_MAX:
                continue
            steps.measured(name, tensor, None)
            channels = _channels_first(tensor, axis).astype(np.float64)
            sums.setdefault(name, _Moments(name, len(channels))).add(channels)
    bases = tuple(moments.basis(relative_step) for moments in sums.values())
    if not bases:
        raise ConfigError(
            "no tensor of the calibration frames has channels to be transformed",
            hint="use uint8, or give frames of a cut between convolutions",
        )
    return CodecSpec(element="klt", packing=packing, bases=bases)


class _Moments:
    """Running mean and covariance of the channels of one tensor."""

    def __init__(self, name: str, channel_count: int) -> None:
        self._name, self._count = name, 0
        self._sum = np.zeros(channel_count)
        self._products = np.zeros((channel_count, channel_count))

    def add(self, channels: Array) -> None:
        """Shapes: (channels, places)."""
        if len(channels) != len(self._sum):
            raise ConfigError(
                f"tensor {self._name!r} changes its shape between calibration frames",
                hint="calibrate with frames of one size",
            )
        self._count += channels.shape[1]
        self._sum += channels.sum(axis=1)
        self._products += channels @ channels.T

    def basis(self, relative_step: float) -> ChannelBasis:
        """The components worth sending at this step."""
        mean = self._sum / self._count
        covariance = self._products / self._count - np.outer(mean, mean)
        variances, vectors = np.linalg.eigh(covariance)
        spread = math.sqrt(max(float(np.trace(covariance)) / len(mean), 0.0))
        step = float(np.clip(relative_step * spread, 1 / RANGE_LIMIT, RANGE_LIMIT))
        kept = max(1, int((variances >= (_QUIET * step) ** 2).sum()))
        rows = vectors.T[::-1][:kept]
        return ChannelBasis(
            name=self._name,
            mean=mean.astype("<f4").tobytes(),
            rows=np.ascontiguousarray(rows).astype("<f4").tobytes(),
            step=step,
        )


def _channels_first(array: Array, axis: int | None) -> Array:
    """(channels, places); a view where the channels already come first."""
    before, along, after = steps.layout(array.shape, axis)
    cube = array.reshape(before, along, after)
    channels: Array = cube.transpose(1, 0, 2).reshape(along, before * after)
    return channels
