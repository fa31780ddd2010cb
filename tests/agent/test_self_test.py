"""The self-test: rounding passes, a wrong computation does not; in float and in integers."""

import numpy as np
import pytest

from edgekit.agent.self_test import self_test
from edgekit.bundle.golden import Golden
from edgekit.errors import TrustError
from edgekit.runtime.echo import EchoSession
from edgekit.spec.profile import Precision
from edgekit.spec.tensors import Array, TensorSpec

NOISE = np.random.default_rng(1)
FLOATS = NOISE.standard_normal((1, 8, 16, 16)).astype(np.float32)
STEPS = NOISE.integers(60, 200, (1, 8, 16, 16)).astype(np.uint8)


def run(want: Array, got: Array, precision: Precision) -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=(1,))
    out = TensorSpec(name="y", dtype=want.dtype.name, shape=want.shape)
    session = EchoSession((spec,), (out,), function=lambda inputs: {"y": got})
    golden = Golden(inputs={"x": np.zeros(1, np.float32)}, outputs={"y": want})
    self_test(session, golden, device="edge-b", precision=precision)


def shifted(array: Array, steps: int, share: float) -> Array:
    """Some numbers moved by so many steps up or down."""
    signs = NOISE.choice([-steps, steps], array.shape)
    return (array + np.where(NOISE.random(array.shape) < share, signs, 0)).astype(array.dtype)


@pytest.mark.parametrize(
    ("want", "got", "precision"),
    [
        (FLOATS, FLOATS, "fp32"),
        (FLOATS, FLOATS + np.float32(1e-3), "fp32"),
        (FLOATS, FLOATS + np.float32(2e-2), "fp16"),
        (STEPS, shifted(STEPS, 1, 1.0), "fp32"),
        (STEPS, shifted(STEPS, 1, 1.0), "int8"),
        (STEPS, shifted(STEPS, 20, 0.1), "int8"),
        (FLOATS, FLOATS + np.float32(0.2) * FLOATS[:, ::-1], "int8"),
        (np.full(9, 7, np.uint8), np.full(9, 7, np.uint8), "int8"),
        (np.zeros(9, np.float32), np.zeros(9, np.float32), "int8"),
    ],
)
def test_rounding_passes(want: Array, got: Array, precision: Precision) -> None:
    run(want, got, precision)


@pytest.mark.parametrize(
    ("want", "got", "precision", "what"),
    [
        (FLOATS, FLOATS * np.float32(1.01), "fp32", "of its range"),
        (FLOATS, FLOATS * np.float32(np.nan), "fp32", "nan of its range"),
        (FLOATS, FLOATS * np.float32(1.05), "fp16", "of its range"),
        (STEPS, shifted(STEPS, 2, 0.1), "fp32", "2 of 255 steps"),
        (STEPS, STEPS[:, ::-1], "int8", "of its standard deviation"),
        (STEPS, np.zeros_like(STEPS), "int8", "of its standard deviation"),
        (STEPS, np.minimum(STEPS, 110), "int8", "of its standard deviation"),
        (FLOATS, FLOATS * np.float32(np.nan), "int8", "nan of its standard deviation"),
        (np.full(9, 7, np.uint8), np.full(9, 9, np.uint8), "int8", "of its standard deviation"),
        (STEPS, STEPS[:, :4], "int8", "its shape"),
    ],
)
def test_what_is_no_rounding_is_refused_by_name(
    want: Array, got: Array, precision: Precision, what: str
) -> None:
    with pytest.raises(TrustError, match=f"self-test on edge-b: output 'y' is off by .*{what}"):
        run(want, got, precision)
