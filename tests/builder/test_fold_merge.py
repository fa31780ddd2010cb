"""Merged convolutions against torch's own, one after the other, in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from edgekit.builder.fold.algebra import Floats, Kernel
from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.fold.merge import (
    average_pool_kernel,
    fold_batch_norm_before,
    merge_pointwise_first,
    merge_pointwise_last,
    merge_separable,
    scale_kernel,
    split_concat,
    sum_branches,
)
from edgekit.errors import ModelError
from tests.kernels import (
    CHANNELS,
    GROUPS,
    SEEDS,
    assert_equal,
    convolve,
    geometries,
    image,
    normalise,
    points,
    random_kernel,
    random_norm,
)


@settings(max_examples=80, deadline=None)
@given(first=points(), geometry=geometries(), seed=SEEDS, pads_bias=st.booleans())
def test_a_pointwise_and_the_conv_after_it_are_one_conv(
    first: ConvGeometry, geometry: ConvGeometry, seed: int, pads_bias: bool
) -> None:
    """Over any strides and groups of both; with a bias between them where the border allows it."""
    rng = np.random.default_rng(seed)
    pads = geometry.padding != (0, 0)
    one = random_kernel(first, rng, bias=pads_bias or not pads)
    two = random_kernel(geometry, rng, outs=12)
    x = image(seed)
    between = convolve(x, one)
    if pads_bias:
        rows, columns = geometry.padding
        edged = functional.pad(between, (columns, columns, rows, rows), value=torch.nan)
        bias = torch.from_numpy(one.bias)[None, :, None, None].expand_as(edged)
        between = torch.where(edged.isnan(), bias, edged)
    bare = replace(two, geometry=replace(geometry, padding=(0, 0))) if pads_bias else two
    got = merge_pointwise_first(one, two, pads_bias=pads_bias)
    assert_equal(convolve(x, got), convolve(between, bare))


@settings(max_examples=60, deadline=None)
@given(geometry=geometries(), padding=st.tuples(*[st.integers(0, 3)] * 2), seed=SEEDS)
def test_a_pointwise_that_pads_hands_its_padding_on(
    geometry: ConvGeometry, padding: tuple[int, int], seed: int
) -> None:
    """So trained, the border between the two is the pointwise's bias, and they merge exactly."""
    rng = np.random.default_rng(seed)
    point = ConvGeometry(kernel=(1, 1), padding=padding, groups=2)
    bias = geometry.padding == (0, 0)
    one, two, x = random_kernel(point, rng, bias=bias), random_kernel(geometry, rng), image(seed)
    merged = merge_pointwise_first(one, two)
    assert merged.geometry.kernel == geometry.kernel
    assert_equal(convolve(x, merged), convolve(convolve(x, one), two))


@settings(max_examples=80, deadline=None)
@given(geometry=geometries(), last=points(), seed=SEEDS, bias=st.booleans())
def test_a_conv_and_the_pointwise_after_it_are_one_conv(
    geometry: ConvGeometry, last: ConvGeometry, seed: int, bias: bool
) -> None:
    """Always, also at the border."""
    rng = np.random.default_rng(seed)
    one = random_kernel(geometry, rng, outs=12, bias=bias)
    two = random_kernel(last, rng, ins=12, outs=6, bias=bias)
    x = image(seed)
    assert_equal(convolve(x, merge_pointwise_last(one, two)), convolve(convolve(x, one), two))


@settings(max_examples=60, deadline=None)
@given(geometry=geometries(), rows_first=st.booleans(), seed=SEEDS)
def test_a_column_and_a_row_are_one_rectangle(
    geometry: ConvGeometry, rows_first: bool, seed: int
) -> None:
    """Each with its own stride, padding and dilation on its axis."""
    rng = np.random.default_rng(seed)

    def along(axis: int) -> Kernel:
        pick = {
            name: tuple(
                value if here == axis else default
                for here, value in enumerate(getattr(geometry, name))
            )
            for name, default in (("kernel", 1), ("stride", 1), ("padding", 0), ("dilation", 1))
        }
        return random_kernel(replace(geometry, **pick), rng)

    one, two = (along(0), along(1)) if rows_first else (along(1), along(0))
    if two.geometry.padding != (0, 0):
        one = replace(one, bias=np.zeros(CHANNELS))
    x = image(seed)
    merged = merge_separable(one, two)
    assert merged.geometry.tap_count == geometry.tap_count
    assert_equal(convolve(x, merged), convolve(convolve(x, one), two))


@settings(max_examples=60, deadline=None)
@given(geometry=geometries(padded=False), seed=SEEDS)
def test_a_batch_norm_before_an_unpadded_conv_folds_into_it(
    geometry: ConvGeometry, seed: int
) -> None:
    """Its groups stay: a depthwise scale reaches across none."""
    rng = np.random.default_rng(seed)
    kernel, norm, x = random_kernel(geometry, rng), random_norm(rng), image(seed)
    folded = fold_batch_norm_before(norm, kernel)
    assert folded.geometry == geometry
    assert_equal(convolve(x, folded), convolve(normalise(x, norm), kernel))


@settings(max_examples=30, deadline=None)
@given(geometry=geometries(padded=True), seed=SEEDS)
def test_a_batch_norm_before_a_padded_conv_folds_only_if_it_does_not_shift(
    geometry: ConvGeometry, seed: int
) -> None:
    """Padding puts 0 where the BatchNorm would have put its shift."""
    rng = np.random.default_rng(seed)
    kernel, norm, x = random_kernel(geometry, rng), random_norm(rng), image(seed)
    with pytest.raises(ModelError, match=r"pads with zeros.*border"):
        fold_batch_norm_before(norm, kernel)
    pure = replace(norm, mean=np.zeros(CHANNELS), beta=np.zeros(CHANNELS))
    folded = fold_batch_norm_before(pure, kernel)
    assert_equal(convolve(x, folded), convolve(normalise(x, pure), kernel))


@settings(max_examples=60, deadline=None)
@given(geometry=geometries(), seed=SEEDS)
def test_an_average_pool_is_a_conv(geometry: ConvGeometry, seed: int) -> None:
    """For every number of groups, padding counted."""
    rows, columns = (min(geometry.padding[axis], geometry.kernel[axis] // 2) for axis in (0, 1))
    geometry = replace(geometry, dilation=(1, 1), padding=(rows, columns))
    x = image(seed)
    want = functional.avg_pool2d(x, geometry.kernel, geometry.stride, geometry.padding)
    assert_equal(convolve(x, average_pool_kernel(CHANNELS, geometry)), want)


def test_a_pool_that_does_not_count_its_padding_is_refused() -> None:
    """At the border it divides by 4 or 6 instead of 9."""
    with pytest.raises(ModelError, match="does not count the padding"):
        average_pool_kernel(4, ConvGeometry.square(3), count_include_pad=False)
    unpadded = replace(ConvGeometry.square(3), padding=(0, 0))
    assert average_pool_kernel(4, unpadded, count_include_pad=False).weight.max() == 1 / 9


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.tuples(geometries(), st.sampled_from((6, 12))), min_size=1, max_size=4),
    groups=st.sampled_from(GROUPS), seed=SEEDS,
)  # fmt: skip
def test_a_concatenation_and_its_pointwise_are_a_sum_of_convs(
    parts: list[tuple[ConvGeometry, int]], groups: int, seed: int
) -> None:
    """Each reads its own input; one output size comes of kernels of any size and dilation."""
    rng = np.random.default_rng(seed)
    kernels = [
        random_kernel(replace(geometry, stride=(1, 1)), rng, outs=outs) for geometry, outs in parts
    ]
    point = ConvGeometry.square(1, groups=groups)
    last = random_kernel(point, rng, ins=sum(outs for _, outs in parts), outs=12)
    total = (40, 40)
    inputs = [
        torch.from_numpy(rng.normal(size=(1, CHANNELS, *size)))
        for size in (_input_size(kernel.geometry, total) for kernel in kernels)
    ]
    between = [convolve(x, kernel) for x, kernel in zip(inputs, kernels, strict=True)]
    want = convolve(torch.cat(between, dim=1), last)
    merged = split_concat(kernels, last)
    assert len(merged) == len(kernels)
    assert not any(kernel.bias.any() for kernel in merged[1:])
    assert [kernel.geometry.kernel for kernel in merged] == [g.kernel for g, _ in parts]
    got = [convolve(x, kernel) for x, kernel in zip(inputs, merged, strict=True)]
    assert_equal(sum(got[1:], got[0]), want)


def _input_size(geometry: ConvGeometry, output: tuple[int, int]) -> tuple[int, ...]:
    """Of a convolution with stride 1 that gives ``output``."""
    taken = [d * (k - 1) for d, k in zip(geometry.dilation, geometry.kernel, strict=True)]
    return tuple(o + t - 2 * p for o, t, p in zip(output, taken, geometry.padding, strict=True))


def test_the_receptive_field_block_of_ultraface_is_three_dilated_convs() -> None:
    """Concat of 3x3 dilated by 2, 3 and 5 and a 1x1: no dense 11x11 is needed."""
    rng = np.random.default_rng(0)
    branches = [random_kernel(ConvGeometry.square(3, dilation=d), rng) for d in (2, 3, 5)]
    last = random_kernel(ConvGeometry.square(1), rng, ins=18, outs=8)
    merged = split_concat(branches, last)
    assert [kernel.geometry for kernel in merged] == [branch.geometry for branch in branches]
    assert all(kernel.weight.shape == (8, 6, 3, 3) for kernel in merged)


@pytest.mark.parametrize("ins", [17, 19])
def test_a_concatenation_of_other_channels_is_refused(ins: int) -> None:
    """A forgotten branch would shift all others."""
    rng = np.random.default_rng(0)
    branches = [random_kernel(ConvGeometry.square(3), rng) for _ in range(3)]
    with pytest.raises(ModelError, match=r"\[6, 6, 6\] channels.* of \d+ inputs"):
        split_concat(branches, random_kernel(ConvGeometry.square(1), rng, ins=ins))


def test_merging_never_changes_what_it_is_given() -> None:
    """The numbers of the trained model are still needed for the proof."""
    rng = np.random.default_rng(0)
    kernels = [random_kernel(ConvGeometry.square(3, groups=2), rng) for _ in range(2)]
    last = random_kernel(ConvGeometry.square(1), rng, ins=12)
    before = [value.copy() for k in (*kernels, last) for value in (k.weight, k.bias)]
    split_concat(kernels, last)
    sum_branches(kernels)
    after = [value for k in (*kernels, last) for value in (k.weight, k.bias)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_numbers_are_kept_in_float64_whatever_is_given() -> None:
    """A float32 fold would round once per branch."""
    given32: Floats = np.ones((2, 2, 1, 1), np.float32)  # type: ignore[assignment]
    kernel = Kernel(geometry=ConvGeometry.square(1), weight=given32, bias=given32[:, 0, 0, 0])
    assert kernel.weight.dtype == kernel.bias.dtype == np.float64


def _refusals() -> list[tuple[str, object, str]]:
    rng = np.random.default_rng(0)
    three, point = ConvGeometry.square(3), ConvGeometry.square(1)
    kernel, pointwise = random_kernel(three, rng), random_kernel(point, rng)
    fewer = random_kernel(point, rng, ins=4, outs=4)
    both = ConvGeometry(kernel=(1, 1), padding=(1, 1), stride=(2, 2))
    padded = random_kernel(both, rng, bias=False)
    ones = np.ones(6)
    return [
        ("bias", lambda: merge_pointwise_first(pointwise, kernel), "pads with zeros"),
        ("size first", lambda: merge_pointwise_first(kernel, pointwise), "not an unpadded 1x1"),
        ("padding", lambda: merge_pointwise_first(padded, kernel), "reach or pad along"),
        ("last pads", lambda: merge_pointwise_last(kernel, padded), "not an unpadded 1x1"),
        ("size last", lambda: merge_pointwise_last(pointwise, kernel), "not an unpadded 1x1"),
        ("channels", lambda: merge_pointwise_last(kernel, fewer), "6 outputs, the second 4"),
        ("both reach", lambda: merge_separable(replace(kernel, bias=ones * 0), kernel), "rows"),
        ("no branch", lambda: sum_branches([]), "without branches"),
        ("no concat", lambda: split_concat([], pointwise), r"\[\] channels"),
        (
            "stride",
            lambda: sum_branches([kernel, random_kernel(ConvGeometry.square(1, stride=2), rng)]),
            "stride",
        ),
        (
            "size",
            lambda: sum_branches([kernel, random_kernel(replace(point, padding=(1, 1)), rng)]),
            "output size",
        ),
        ("branch channels", lambda: sum_branches([kernel, fewer]), "different channels"),
        ("NaN", lambda: scale_kernel(ones * np.nan, ones, three), "NaN"),
        ("shift", lambda: scale_kernel(ones, ones[:1], three), "one number per channel"),
        ("scale", lambda: scale_kernel(ones, ones, ConvGeometry.square(3, stride=2)), "sizes"),
        ("pool groups", lambda: average_pool_kernel(6, replace(three, groups=4)), "4 groups"),
        (
            "norm",
            lambda: fold_batch_norm_before(random_norm(rng, 5), kernel),
            "5 outputs, the second 6 inputs",
        ),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("attempt", "why"), [pytest.param(run, why, id=name) for name, run, why in _refusals()]
)
def test_what_is_not_exact_is_refused_and_named(attempt: object, why: str) -> None:
    """A wrong border or a shifted channel is found by nobody later."""
    with pytest.raises(ModelError, match=why) as caught:
        attempt()  # type: ignore[operator]
    assert caught.value.hint
