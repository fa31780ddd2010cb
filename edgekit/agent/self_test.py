"""Does this device compute what the bundle was proved with? The golden vectors of one shard tell.

In: a session and golden vectors.  Out: nothing, or the output that is off.

Floats: other instruction sets add in another order, which moves an output by less than a thousandth
of its range. A shard in float that ends in QuantizeLinear rounds numbers that differ so little to
the same step or to the one beside it. In half precision a number has 11 bits: processors that
compute in it and those that compute in float and round differ by some thousandths of the range.

A shard in int8 is another matter. Its rounding steps are 1/255 of each layer's range, a number that
lies between two steps falls to either side, and what falls differently in the first layers moves
many numbers by some steps in the last. So the output as a whole is looked at: root mean square of
the error over standard deviation of what was to come. Measured on three detectors (float arithmetic
against integer kernels of the same files): where both are right, up to 0.15 in 8-bit outputs,
single numbers being off by up to 21 steps, and 0.32 in the float outputs of a head; with kernels
that saturate (weights of 8 bits on a processor without VNNI) 0.15 to 0.60 and 0.14 to 1.08; other
weights, swapped tensors or zeros give 1 and more.
"""

import numpy as np

from edgekit.bundle.golden import Golden
from edgekit.errors import TrustError
from edgekit.runtime.session import Session
from edgekit.spec.profile import Precision
from edgekit.spec.tensors import Array

_MAX_RELATIVE_ERROR = 1e-3
"""Between boards, not between cuts."""
_MAX_HALF_ERROR = 2e-2
"""Of fp16 shards: some hundred roundings of 2^-11 in a row, which add up like a random walk."""
_MAX_STEP_NOISE = 0.2
"""Of 8-bit outputs of an int8 shard: error in standard deviations of the output."""
_MAX_FLOAT_NOISE = 0.35
"""Of its other outputs."""


def self_test(session: Session, golden: Golden, *, device: str, precision: Precision) -> None:
    """Run the golden inputs and compare with the golden outputs.

    Raises: TrustError naming the first output that is off; DeviceError if the runtime fails.
    """
    got = session.run(dict(golden.inputs))
    for name, want in golden.outputs.items():
        what = _objection(got[name].astype(np.float64), want, precision)
        if what:
            raise TrustError(
                f"self-test on {device}: output {name!r} is off by {what}",
                hint="update onnxruntime on this device; do not serve from it as it is",
            )


def _objection(got: Array, want: Array, precision: Precision) -> str:
    """By how much ``got`` is off, if that is too much. Comparisons are such that NaN fails them."""
    wide = want.astype(np.float64)
    if got.shape != wide.shape:
        return f"its shape, {got.shape} instead of {wide.shape}"
    off = np.abs(got - wide)
    is_steps = want.dtype.kind in "iu" and want.dtype.itemsize == 1
    if precision == "int8":
        floor = 8.0 if is_steps else float(np.abs(wide).max()) / 255 or 1.0
        noise = float(np.sqrt(np.mean(off**2))) / max(float(wide.std()), floor)
        limit = _MAX_STEP_NOISE if is_steps else _MAX_FLOAT_NOISE
        return "" if noise <= limit else f"{noise:.2f} of its standard deviation"
    if is_steps:
        steps = float(off.max())
        return "" if steps <= 1.0 else f"{steps:.0f} of 255 steps"
    error = float(off.max()) / (float(np.abs(wide).max()) or 1.0)
    limit = _MAX_HALF_ERROR if precision == "fp16" else _MAX_RELATIVE_ERROR
    return "" if error <= limit else f"{error:.1e} of its range"
