"""A codec with its parameters, from calibration activations of the cut that it is for.

In: what was asked for, and tensors of the cut for some frames.  Out: a CodecSpec.
Pure. Give it frames as various as those to come: what lies far outside is cut off or sent coarsely.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from edgekit.errors import ConfigError
from edgekit.spec.codec import (
    BASIS_CHANNELS_MAX,
    RANGE_LIMIT,
    ChannelBasis,
    CodecRequest,
    CodecSpec,
    Packing,
)
from edgekit.spec.tensors import Array
from edgekit.transport.codecs import steps
from edgekit.transport.codecs.calibrate import calibrate
from edgekit.transport.codecs.klt import channels_first

_QUIET = 0.25
"""A component whose deviation is below this many steps is left out: it would be nearly all zero."""


def fit_codec(request: CodecRequest, frames: Iterable[Mapping[str, Array]]) -> CodecSpec:
    """The codec that ``request`` asks for, with all its parameters.

    Raises: ConfigError as ``calibrate`` and ``fit_klt``; ModelError if a tensor holds NaN.
    """
    if request.element == "klt" and request.relative_step is not None:
        return fit_klt(frames, relative_step=request.relative_step, packing=request.packing)
    plain = CodecSpec(element=request.element, packing=request.packing, quality=request.quality)
    return calibrate(plain, frames)


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
            axis = steps.channel_axis(tensor.shape)
            if tensor.dtype.kind != "f" or axis is None or tensor.shape[axis] > BASIS_CHANNELS_MAX:
                continue
            steps.measured(name, tensor, None)
            channels = channels_first(tensor, axis).astype(np.float64)
            sums.setdefault(name, _Moments(name, len(channels))).add(channels)
    bases = tuple(moments.basis(relative_step) for moments in sums.values())
    if not bases:
        raise ConfigError(
            "no tensor of the calibration frames has channels to be transformed",
            hint="use uint8, or give frames of a cut between convolutions",
        )
    return CodecSpec(
        element="klt", packing=packing, bases=bases, relative_step=float(relative_step)
    )


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
