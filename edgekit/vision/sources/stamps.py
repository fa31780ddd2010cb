"""Make a Frame with the time of this moment: one place, so both clocks are read together."""

import time

import numpy as np
from numpy.typing import NDArray

from edgekit.spec.messages import Detection
from edgekit.vision.sources.port import Frame


def stamped(
    image: NDArray[np.uint8], number: int, truth: tuple[Detection, ...] | None = None
) -> Frame:
    """``image`` as captured now."""
    return Frame(
        image=image,
        number=number,
        captured_ns=time.perf_counter_ns(),
        captured_unix_s=time.time(),
        truth=truth,
    )
