"""The sum of branches of any kind against torch's own convolutions, in float64."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.builder.fold.algebra import Kernel, fold_batch_norm
from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.fold.merge import (
    average_pool_kernel,
    merge_pointwise_first,
    scale_kernel,
    sum_branches,
)
from tests.kernels import (
    CHANNELS,
    GROUPS,
    SEEDS,
    SMALL,
    assert_equal,
    convolve,
    image,
    random_kernel,
    random_norm,
    rounded,
)


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_every_subset_of_live_branches_gives_the_same_sum(size: int) -> None:
    """The promise of all strategies: what is not folded stays live, and nothing is dropped.

    Main kernel, copy, 1x1, 1x3, 3x1, depthwise, dilated, pool, 1x1 in sequence, identity with
    BatchNorm: all 512 choices of what folds into the main kernel, in float64 and as stored.
    """
    rng = np.random.default_rng(size)
    for stride, main_groups, bias in ((1, 1, True), (1, 3, False), (2, 2, True)):
        main = ConvGeometry.square(size, stride=stride, groups=main_groups)
        branches = _branches(main, rng, bias=bias)
        x = image(size)[:, :, :13, :11]
        outputs = [convolve(x, branch) for branch in branches]
        want = sum(outputs[1:], outputs[0])
        scale = float(want.abs().max())
        for live in itertools.product((False, True), repeat=len(branches) - 1):
            chosen = [True, *(not stays for stays in live)]
            folded = sum_branches([b for b, folds in zip(branches, chosen, strict=True) if folds])
            apart = [o for o, folds in zip(outputs, chosen, strict=True) if not folds]
            got = sum(apart, convolve(x, folded))
            assert float((got - want).abs().max()) <= 1e-10 * scale
        stored = convolve(x, rounded(sum_branches(branches)))
        assert float((stored - want).abs().max()) <= 1e-5 * scale


def _branches(main: ConvGeometry, rng: np.random.Generator, *, bias: bool) -> list[Kernel]:
    """One of each kind beside ``main``."""
    stride = main.stride[0]
    depthwise = replace(main, groups=CHANNELS)
    row = replace(main, kernel=(1, 3), padding=(0, 1))
    column = replace(main, kernel=(3, 1), padding=(1, 0))
    sequence = random_kernel(ConvGeometry.square(1), rng, bias=False), random_kernel(main, rng)
    found = [
        fold_batch_norm(random_kernel(main, rng, bias=bias), random_norm(rng)),
        random_kernel(main, rng, bias=bias),
        random_kernel(main.pointwise, rng, bias=bias),
        random_kernel(row, rng, bias=bias),
        random_kernel(column, rng, bias=bias),
        random_kernel(depthwise, rng, bias=bias),
        random_kernel(ConvGeometry.square(3, stride=stride, dilation=2), rng, bias=bias),
        average_pool_kernel(CHANNELS, ConvGeometry.square(3, stride=stride, groups=CHANNELS)),
        merge_pointwise_first(*sequence),
    ]
    if stride == 1:
        scale, shift = rng.normal(size=(2, CHANNELS))
        found.append(scale_kernel(scale, shift, main))
    return found


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(
        st.tuples(st.sampled_from((1, 3, 5, 7)), st.sampled_from((1, 3, 5, 7)), SMALL, SMALL,
                  st.sampled_from(GROUPS)),
        min_size=1, max_size=4,
    ),
    stride=st.tuples(SMALL, SMALL), more=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    ins=st.sampled_from((6, 12)), outs=st.sampled_from((6, 12)), seed=SEEDS, bias=st.booleans(),
)  # fmt: skip
def test_random_branches_of_any_shape_sum_to_one_conv(
    shape: list[tuple[int, int, int, int, int]], stride: tuple[int, int], more: tuple[int, int],
    ins: int, outs: int, seed: int, bias: bool,
) -> None:  # fmt: skip
    """Sizes 1 to 7 and rectangles, each with its own dilation and groups."""
    rng = np.random.default_rng(seed)
    branches = [
        random_kernel(
            ConvGeometry(
                kernel=(rows, columns),
                stride=stride,
                padding=(row_step * (rows // 2) + more[0], column_step * (columns // 2) + more[1]),
                dilation=(row_step, column_step),
                groups=groups,
            ),
            rng, ins=ins, outs=outs, bias=bias,
        )
        for rows, columns, row_step, column_step, groups in shape
    ]  # fmt: skip
    x = image(seed, ins)
    outputs = [convolve(x, branch) for branch in branches]
    folded = sum_branches(branches)
    want = sum(outputs[1:], outputs[0])
    assert_equal(convolve(x, folded), want)
    off = float((convolve(x, rounded(folded)) - want).abs().max())
    assert off <= 1e-5 * float(want.abs().max())


def test_copies_of_one_kernel_are_one_kernel() -> None:
    """MobileOne's over-parameterized branches: the sum of their weights, in their own geometry."""
    rng = np.random.default_rng(0)
    copies = [random_kernel(ConvGeometry.square(3, groups=6), rng) for _ in range(4)]
    folded = sum_branches(copies)
    assert folded.geometry == copies[0].geometry
    np.testing.assert_allclose(folded.weight, sum(copy.weight for copy in copies), atol=1e-15)
