"""Folded kernels against torch's own convolution and BatchNorm, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.builder.fold.algebra import (
    BatchNorm,
    Floats,
    Kernel,
    add_branches,
    embed,
    fold_batch_norm,
    identity_kernel,
)
from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.errors import ModelError

small = st.integers(1, 3)


@st.composite
def geometries(draw: st.DrawFn, *, identity: bool = False) -> ConvGeometry:
    """Any convolution with odd kernels, padded by at least as much as a 1x1 branch needs."""
    kernel = draw(st.sampled_from((1, 3, 5))), draw(st.sampled_from((1, 3, 5, 7)))
    dilation = draw(small), draw(small)
    more = (0, 0) if identity else (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    rows, columns = (dilation[axis] * (kernel[axis] - 1) // 2 + more[axis] for axis in (0, 1))
    return ConvGeometry(
        kernel=kernel,
        stride=(1, 1) if identity else (draw(small), draw(small)),
        padding=(rows, columns),
        dilation=dilation,
        groups=draw(small),
    )


def random_kernel(
    geometry: ConvGeometry, rng: np.random.Generator, in_count: int, out_count: int
) -> Kernel:
    shape = geometry.weight_shape(in_count, out_count)
    return Kernel(geometry=geometry, weight=rng.normal(size=shape), bias=rng.normal(size=out_count))


def random_norm(rng: np.random.Generator, channels: int) -> BatchNorm:
    return BatchNorm(
        gamma=rng.normal(size=channels),
        beta=rng.normal(size=channels),
        mean=rng.normal(size=channels),
        variance=rng.uniform(0, 4, size=channels),
        epsilon=1e-5,
    )


def convolve(x: torch.Tensor, kernel: Kernel) -> Floats:
    g = kernel.geometry
    out = torch.nn.functional.conv2d(
        x, torch.from_numpy(kernel.weight), torch.from_numpy(kernel.bias),
        stride=g.stride, padding=g.padding, dilation=g.dilation, groups=g.groups,
    )  # fmt: skip
    return out.numpy()


def normalise(y: Floats, norm: BatchNorm) -> Floats:
    parts = [torch.from_numpy(v) for v in (norm.mean, norm.variance, norm.gamma, norm.beta)]
    return torch.nn.functional.batch_norm(torch.from_numpy(y), *parts, eps=norm.epsilon).numpy()


def image(rng: np.random.Generator, channels: int) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=(2, channels, 19, 23)))


@settings(max_examples=60, deadline=None)
@given(geometry=geometries(), seed=st.integers(0, 2**32 - 1), per_group=small, outs=small)
def test_conv_and_batch_norm_fold_into_one_conv(
    geometry: ConvGeometry, seed: int, per_group: int, outs: int
) -> None:
    """Over any stride, padding, dilation and groups."""
    rng = np.random.default_rng(seed)
    in_count, out_count = per_group * geometry.groups, outs * geometry.groups
    kernel, norm = random_kernel(geometry, rng, in_count, out_count), random_norm(rng, out_count)
    x = image(rng, in_count)
    want = normalise(convolve(x, kernel), norm)
    got = convolve(x, fold_batch_norm(kernel, norm))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-11 * max(1.0, float(abs(want).max())))


@settings(max_examples=60, deadline=None)
@given(geometry=geometries(), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_the_sum_of_branches_is_one_conv(
    geometry: ConvGeometry, seed: int, data: st.DataObject
) -> None:
    """Kernels of any smaller size whose taps are taps of the largest, moved where they belong."""
    rng = np.random.default_rng(seed)
    in_count, out_count = 2 * geometry.groups, 3 * geometry.groups
    shrunk = []
    for _ in range(data.draw(st.integers(0, 3))):
        kernel = tuple(data.draw(st.sampled_from(range(1, k + 1, 2))) for k in geometry.kernel)
        padding = tuple(
            geometry.padding[a] - geometry.dilation[a] * (geometry.kernel[a] - kernel[a]) // 2
            for a in (0, 1)
        )
        shrunk.append(
            ConvGeometry(
                kernel=(kernel[0], kernel[1]), padding=(padding[0], padding[1]),
                stride=geometry.stride, dilation=geometry.dilation, groups=geometry.groups,
            )
        )  # fmt: skip
    parts = [geometry, geometry.pointwise, *shrunk]
    branches = [random_kernel(part, rng, in_count, out_count) for part in parts]
    x = image(rng, in_count)
    want = sum(convolve(x, branch) for branch in branches)
    got = convolve(x, add_branches(branches, geometry))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(geometry=geometries(identity=True), seed=st.integers(0, 2**32 - 1), per_group=small)
def test_an_identity_is_a_conv_that_changes_nothing(
    geometry: ConvGeometry, seed: int, per_group: int
) -> None:
    """With groups, a channel's own weight sits at its index inside its group."""
    rng = np.random.default_rng(seed)
    channels = per_group * geometry.groups
    x = image(rng, channels)
    kernel = embed(identity_kernel(channels, geometry), geometry)
    assert np.array_equal(convolve(x, kernel), x.numpy())


def test_folding_never_changes_what_it_is_given() -> None:
    """The training-time weights are still needed for the proof."""
    rng = np.random.default_rng(0)
    kernel, norm = random_kernel(ConvGeometry.square(3), rng, 4, 4), random_norm(rng, 4)
    before = [v.copy() for v in (kernel.weight, kernel.bias, norm.gamma, norm.variance)]
    add_branches([kernel, fold_batch_norm(kernel, norm)], kernel.geometry)
    after = [kernel.weight, kernel.bias, norm.gamma, norm.variance]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_batch_norm_of_another_width_is_refused() -> None:
    """numpy would broadcast a single channel over all of them."""
    rng = np.random.default_rng(0)
    kernel = random_kernel(ConvGeometry.square(3), rng, 4, 4)
    with pytest.raises(ModelError, match="4 outputs, the BatchNorm 1"):
        fold_batch_norm(kernel, random_norm(rng, 1))


@pytest.mark.parametrize("variance", [-1.0, 0.0])
def test_a_batch_norm_that_divides_by_nothing_is_refused(variance: float) -> None:
    """It would put NaN or infinity into the kernel."""
    one = np.ones(2)
    with pytest.raises(ModelError, match="variance"):
        BatchNorm(gamma=one, beta=one, mean=one, variance=one * variance, epsilon=0.0)


def test_numbers_that_are_not_finite_are_refused() -> None:
    """NaN spreads through every later layer."""
    rng = np.random.default_rng(0)
    kernel = random_kernel(ConvGeometry.square(1), rng, 2, 2)
    with pytest.raises(ModelError, match="NaN"):
        Kernel(geometry=kernel.geometry, weight=kernel.weight * np.nan, bias=kernel.bias)
    one = np.ones(2)
    with pytest.raises(ModelError, match="NaN"):
        BatchNorm(gamma=one, beta=one * np.inf, mean=one, variance=one, epsilon=1e-5)


def test_shapes_that_are_not_those_of_the_geometry_are_refused() -> None:
    """The error shows both."""
    with pytest.raises(ModelError, match=r"\(2, 2, 3, 3\)"):
        Kernel(geometry=ConvGeometry.square(1), weight=np.zeros((2, 2, 3, 3)), bias=np.zeros(2))
    with pytest.raises(ModelError, match="shapes"):
        BatchNorm(
            gamma=np.ones(2), beta=np.ones(3), mean=np.ones(2), variance=np.ones(2), epsilon=1e-5
        )


def test_branches_of_other_channels_or_none_are_refused() -> None:
    """They are not over one input into one sum."""
    rng = np.random.default_rng(0)
    geometry = ConvGeometry.square(3)
    with pytest.raises(ModelError, match="different channels"):
        add_branches(
            [random_kernel(geometry, rng, 4, 4), random_kernel(geometry, rng, 4, 8)], geometry
        )
    with pytest.raises(ModelError, match="without branches"):
        add_branches([], geometry)


def test_an_identity_beside_a_stride_is_refused() -> None:
    """It has the size of the input, the convolution half of it."""
    with pytest.raises(ModelError, match="sizes differ"):
        identity_kernel(4, ConvGeometry.square(3, stride=2))
