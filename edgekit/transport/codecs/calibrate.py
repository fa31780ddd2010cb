"""Parameters of codecs from calibration activations, so that they need not travel with each frame.

In: a codec, and tensors of the cut for some frames.  Out: the codec with its parameters.
Pure. Numbers of later frames outside these ranges become the nearest end, so give it frames as
various as those to come.
"""

from collections.abc import Iterable, Mapping

import msgspec
import numpy as np

from edgekit.errors import ConfigError
from edgekit.spec.codec import CodecSpec, TensorRange
from edgekit.spec.tensors import Array
from edgekit.transport.codecs import steps


def calibrate(codec: CodecSpec, frames: Iterable[Mapping[str, Array]]) -> CodecSpec:
    """``codec`` with the range of every float tensor over ``frames``; itself if it needs none.

    Raises: ConfigError if there is no frame; ModelError if a tensor holds NaN or infinity.
    """
    if codec.element not in ("uint8", "uint8-channel"):
        return codec
    lows: dict[str, Array] = {}
    highs: dict[str, Array] = {}
    count = 0
    for frame in frames:
        count += 1
        for name, array in frame.items():
            if array.dtype.kind != "f":
                continue
            axis = steps.channel_axis(array.shape) if codec.element == "uint8-channel" else None
            low, high = steps.measured(name, array, axis)
            known = lows.get(name)
            if known is not None and known.shape != low.shape:
                raise ConfigError(
                    f"tensor {name!r} changes its shape between calibration frames",
                    hint="calibrate with frames of one size",
                )
            lows[name] = low if known is None else np.minimum(known, low)
            highs[name] = high if known is None else np.maximum(highs[name], high)
    if not count:
        raise ConfigError(
            f"codec {codec.name!r} was given no calibration frames", hint="give it some, or none"
        )
    ranges = tuple(
        TensorRange(name=name, low=tuple(lows[name].tolist()), high=tuple(highs[name].tolist()))
        for name in lows
    )
    return msgspec.structs.replace(codec, ranges=ranges)
