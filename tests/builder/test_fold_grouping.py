"""Fewer groups, the same function."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.fold.grouping import align_groups, regroup, ungrouped
from edgekit.errors import ModelError
from tests.kernels import (
    GROUPS,
    SEEDS,
    assert_equal,
    convolve,
    geometries,
    image,
    random_kernel,
)


@settings(max_examples=40, deadline=None)
@given(geometry=geometries(), seed=SEEDS)
def test_fewer_groups_change_nothing(geometry: ConvGeometry, seed: int) -> None:
    """Not one bit of any weight: they are moved, and zeros join them."""
    rng = np.random.default_rng(seed)
    kernel, x = random_kernel(geometry, rng, outs=12), image(seed)
    for groups in (g for g in GROUPS if geometry.groups % g == 0):
        wide = regroup(kernel, groups)
        assert wide.geometry == replace(geometry, groups=groups)
        kept = wide.weight[wide.weight != 0]
        assert np.array_equal(np.sort(kept), np.sort(kernel.weight.ravel()))
        assert_equal(convolve(x, wide), convolve(x, kernel))
    assert ungrouped(kernel).geometry.groups == 1


def test_groups_that_do_not_nest_are_refused() -> None:
    """2 groups cannot become 4, nor 3."""
    kernel = random_kernel(ConvGeometry.square(3, groups=2), np.random.default_rng(0))
    for groups in (0, 3, 4):
        with pytest.raises(ModelError, match=f"2 groups cannot be written with {groups}"):
            regroup(kernel, groups)


def test_groups_align_on_their_greatest_common_divisor() -> None:
    """Depthwise beside 2 groups needs 2, beside 3 and 2 needs 1."""
    rng = np.random.default_rng(0)
    kernels = {g: random_kernel(ConvGeometry.square(3, groups=g), rng) for g in GROUPS}
    for chosen, common in (((6, 2), 2), ((6, 3), 3), ((6, 3, 2), 1), ((6, 6), 6)):
        aligned = align_groups([kernels[groups] for groups in chosen])
        assert {kernel.geometry.groups for kernel in aligned} == {common}
