"""Principal components of the channels, in steps of one size: fewer bytes than 256 steps, for time.

In: a float array and its parameters.  Out: whole numbers of components, or floats again.
Pure. y = rows (x - mean) for the channels x of each place; q = round(y / step) as 16 bits. Where
the shards do the transform (``builder/fold_klt.py``), y is what they give and take, and only the
rounding is done here. The step is the rate: larger steps, fewer bytes. As the rows are orthonormal,
with all components kept the channels of a place are together (root of the sum of squares) off by at
most ``sqrt(channels) step / 2``; components that were left out add what they hold. One of more than
32767 steps, far beyond calibration data, is cut off there.

Source: Goyal, "Theoretical Foundations of Transform Coding", IEEE Signal Processing Magazine 18(5),
2001: the Karhunen-Loeve transform, one uniform step, and a coder of bytes.
"""

import numpy as np
from numpy.typing import NDArray

from edgekit.spec.codec import ChannelBasis, Components
from edgekit.spec.tensors import Array
from edgekit.transport.codecs import steps

_TOP = 32767


class Klt:
    """One tensor's transform at work."""

    def __init__(self, given: ChannelBasis | Components) -> None:
        self._name = given.name
        self._step = np.float32(given.step)
        self._mean = self._forth = self._back = None
        self.channel_count: int | None = None
        """Channels that the tensor must have; None: as many as it likes."""
        if isinstance(given, ChannelBasis):
            mean = np.frombuffer(given.mean, "<f4").astype(np.float32)
            self._mean = mean[:, None]
            rows = np.frombuffer(given.rows, "<f4").astype(np.float32).reshape(-1, mean.size)
            self._forth, self._back = rows / self._step, rows.T * self._step
            self.channel_count = mean.size

    @property
    def step(self) -> float:
        """Of every component."""
        return float(self._step)

    def component_count(self, shape: tuple[int, ...], axis: int | None) -> int:
        """Components of a tensor of this shape."""
        return steps.layout(shape, axis)[1] if self._forth is None else len(self._forth)

    def quantize(self, array: Array, axis: int | None) -> NDArray[np.int16]:
        """Shapes: any with ``channel_count`` along ``axis``. Returns: (components, places).

        Raises: ModelError if its numbers are so far from the calibration data that they overflow.
        """
        channels = channels_first(array, axis)
        with np.errstate(over="ignore", invalid="ignore"):
            if self._mean is None or self._forth is None:
                kind = np.result_type(channels.dtype, np.float32)
                whole = np.multiply(channels, 1 / self._step, dtype=kind)
            else:
                whole = self._forth @ (channels - self._mean)
            whole = np.rint(whole, out=whole)
        steps.check_finite(self._name, whole.min(), whole.max())
        limited: NDArray[np.int16] = np.clip(whole, -_TOP, _TOP, out=whole).astype(np.int16)
        return limited

    def restore(
        self,
        whole: NDArray[np.float32],
        shape: tuple[int, ...],
        axis: int | None,
        dtype: np.dtype[np.generic],
    ) -> Array:
        """Floats of ``dtype`` and ``shape`` from components in steps; these are overwritten."""
        before, along, after = steps.layout(shape, axis)
        with np.errstate(over="ignore", invalid="ignore"):  # a hostile sender's numbers
            channels = whole
            if self._mean is None or self._back is None:
                channels *= self._step
            else:
                channels = self._back @ channels
                channels += self._mean
            cube = channels.reshape(along, before, after).transpose(1, 0, 2)
            return np.ascontiguousarray(cube.reshape(shape).astype(dtype, copy=False))


def channels_first(array: Array, axis: int | None) -> Array:
    """(channels, places); a view where the channels already come first."""
    before, along, after = steps.layout(array.shape, axis)
    cube = array.reshape(before, along, after)
    channels: Array = cube.transpose(1, 0, 2).reshape(along, before * after)
    return channels
