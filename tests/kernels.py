"""Random kernels for tests of the folding algebra, and torch's own convolution to judge them."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import strategies as st
from torch.nn import functional

from edgekit.builder.fold.algebra import BatchNorm, Kernel
from edgekit.builder.fold.geometry import ConvGeometry

SMALL = st.integers(1, 3)
SEEDS = st.integers(0, 2**32 - 1)
GROUPS = (1, 2, 3, 6)
CHANNELS = 6


@st.composite
def geometries(draw: st.DrawFn, *, odd: bool = False, padded: bool | None = None) -> ConvGeometry:
    """Any convolution over 6 channels; unpadded if ``padded`` is False."""
    sizes = (1, 3, 5, 7) if odd else (1, 2, 3, 4, 5, 7)
    most = 0 if padded is False else 4
    least = 1 if padded else 0
    return ConvGeometry(
        kernel=(draw(st.sampled_from(sizes)), draw(st.sampled_from(sizes))),
        stride=(draw(SMALL), draw(SMALL)),
        padding=(draw(st.integers(least, most)), draw(st.integers(least, most))),
        dilation=(draw(SMALL), draw(SMALL)),
        groups=draw(st.sampled_from(GROUPS)),
    )


def points() -> st.SearchStrategy[ConvGeometry]:
    """Any unpadded 1x1 convolution over 6 channels."""
    return st.builds(
        lambda stride, groups: ConvGeometry(
            kernel=(1, 1), padding=(0, 0), stride=stride, groups=groups
        ),
        st.tuples(SMALL, SMALL),
        st.sampled_from(GROUPS),
    )


def random_kernel(
    geometry: ConvGeometry,
    rng: np.random.Generator,
    *,
    ins: int = CHANNELS,
    outs: int = CHANNELS,
    bias: bool = True,
) -> Kernel:
    weight = rng.normal(size=geometry.weight_shape(ins, outs))
    return Kernel(geometry=geometry, weight=weight, bias=rng.normal(size=outs) * bias)


def random_norm(rng: np.random.Generator, channels: int = CHANNELS) -> BatchNorm:
    gamma, beta, mean = rng.normal(size=(3, channels))
    variance = rng.uniform(0.1, 4, channels)
    return BatchNorm(gamma=gamma, beta=beta, mean=mean, variance=variance, epsilon=1e-5)


def convolve(x: torch.Tensor, kernel: Kernel) -> torch.Tensor:
    g = kernel.geometry
    return functional.conv2d(
        x, torch.from_numpy(kernel.weight.copy()), torch.from_numpy(kernel.bias.copy()),
        stride=g.stride, padding=g.padding, dilation=g.dilation, groups=g.groups,
    )  # fmt: skip


def normalise(x: torch.Tensor, norm: BatchNorm) -> torch.Tensor:
    parts = [torch.from_numpy(v) for v in (norm.mean, norm.variance, norm.gamma, norm.beta)]
    return functional.batch_norm(x, *parts, eps=norm.epsilon)


def image(seed: int, channels: int = CHANNELS) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(1, channels, 61, 57)))


def assert_equal(got: torch.Tensor, want: torch.Tensor) -> None:
    assert got.shape == want.shape
    scale = max(1.0, float(want.abs().max()))
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=0, atol=1e-10 * scale)


def rounded(kernel: Kernel) -> Kernel:
    """As stored in a model file."""
    return replace(
        kernel, weight=kernel.weight.astype(np.float32), bias=kernel.bias.astype(np.float32)
    )
