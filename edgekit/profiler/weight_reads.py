"""Measure what a byte of weights costs that other weights have pushed out of the caches.

In:  threads and a time budget.  Out: WeightReads, one per footprint.
A chain of equal convolutions, each with weights of its own, runs again and again: with few of them
the weights stay in a cache, with many every run reads them anew. What a convolution then takes
longer, divided by its weights, is the cost of a byte at that footprint.
"""

import numpy as np

from edgekit.profiler.onnx_writer import Node, write_model
from edgekit.profiler.probe_session import interleaved_times_s, probe_run
from edgekit.spec.profile import WeightRead
from edgekit.spec.tensors import TensorSpec

_CHANNELS, _SIDE_PX = 256, 7
"""Deep layers have many channels and few pixels: there weights are most of what is read."""
_LAYER_BYTES = 4 * _CHANNELS**2
_LENGTHS = (1, 2, 4, 8, 16, 32, 64, 128)


def weight_reads(*, threads: int = 1, budget_s: float = 4.0) -> tuple[WeightRead, ...]:
    """Seconds per byte of weights by footprint [bytes], none less than the one before.

    Raises: ModelError if the runtime refuses the chain.
    """
    runs = [probe_run(_chain(length), threads=threads) for length in _LENGTHS]
    times_s = interleaved_times_s(runs, budget_s=budget_s)
    each_s = [time_s / length for time_s, length in zip(times_s, _LENGTHS, strict=True)]
    # The first ones hold the cost of the inference itself: the fastest one is the warm one.
    warm_s = min(each_s)
    found, dearest = [], 0.0
    for length, one_s in zip(_LENGTHS, each_s, strict=True):
        is_past_the_fastest = length >= _LENGTHS[each_s.index(warm_s)]
        dearest = max(dearest, (one_s - warm_s) / _LAYER_BYTES if is_past_the_fastest else 0.0)
        found.append(WeightRead(footprint_bytes=length * _LAYER_BYTES, s_per_byte=dearest))
    return tuple(found)


def _chain(length: int) -> bytes:
    generator = np.random.default_rng(length)
    shape = (1, _CHANNELS, _SIDE_PX, _SIDE_PX)
    weights = {
        f"w{index}": generator.standard_normal((_CHANNELS, _CHANNELS, 1, 1), np.float32) / 16
        for index in range(length)
    }
    nodes = [
        Node(op_type="Conv", inputs=(f"t{index}", f"w{index}"), outputs=(f"t{index + 1}",))
        for index in range(length)
    ]
    ends = [TensorSpec(name=f"t{end}", dtype="float32", shape=shape) for end in (0, length)]
    return write_model(nodes, inputs=ends[:1], outputs=ends[1:], weights=weights)
