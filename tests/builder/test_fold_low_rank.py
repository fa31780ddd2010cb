"""Low-rank factors: what they compute, what they lose and what they cost."""

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.builder.fold import low_rank
from edgekit.builder.fold.algebra import Kernel
from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.fold.low_rank import (
    Budget,
    Factors,
    cheapest_factors,
    factor_channels,
    factor_rows_and_columns,
    factor_tucker,
    sequence_work_flop,
)
from edgekit.builder.fold.merge import merge_pointwise_last
from edgekit.errors import ConfigError, ModelError
from tests.kernels import SEEDS, SMALL, convolve

Way = Callable[[Kernel, Budget], Factors]
WAYS: list[Way] = [factor_channels, factor_rows_and_columns, factor_tucker]


@st.composite
def geometries(draw: st.DrawFn) -> ConvGeometry:
    return ConvGeometry(
        kernel=(draw(st.sampled_from((1, 2, 3, 5, 7))), draw(st.sampled_from((1, 3, 4, 5)))),
        stride=(draw(SMALL), draw(SMALL)),
        padding=(draw(st.integers(0, 3)), draw(st.integers(0, 3))),
        dilation=(draw(SMALL), draw(SMALL)),
    )


def random_kernel(geometry: ConvGeometry, seed: int, *, ins: int = 5, outs: int = 7) -> Kernel:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=geometry.weight_shape(ins, outs))
    return Kernel(geometry=geometry, weight=weight, bias=rng.normal(size=outs))


def image(seed: int, channels: int = 5) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(1, channels, 33, 31)))


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=40, deadline=None)
@given(geometry=geometries(), seed=SEEDS)
def test_all_ranks_kept_change_nothing(way: Way, geometry: ConvGeometry, seed: int) -> None:
    """Over any size, stride, padding and dilation, at the border too."""
    kernel, x = random_kernel(geometry, seed), image(seed)
    factors = way(kernel, Budget(energy=1))
    assert factors.relative_error <= 1e-12
    want, got = convolve(x, kernel), x
    for factor in factors.kernels:
        got = convolve(got, factor)
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=40, deadline=None)
@given(geometry=geometries(), seed=SEEDS, energy=st.floats(0.01, 1))
def test_the_energy_asked_for_is_kept(
    way: Way, geometry: ConvGeometry, seed: int, energy: float
) -> None:
    """The error that is reported is that of the weights: relative error^2 <= 1 - energy."""
    kernel = random_kernel(geometry, seed)
    factors = way(kernel, Budget(energy=energy))
    assert factors.relative_error**2 <= 1 - energy + 1e-12


@pytest.mark.parametrize("way", WAYS)
def test_one_rank_less_would_not_keep_the_energy(way: Way) -> None:
    """Otherwise every factorisation is slower than it need be."""
    kernel = random_kernel(ConvGeometry.square(3), 0, ins=12, outs=16)
    factors = way(kernel, Budget(energy=0.8))
    if way is factor_tucker:  # what is left over in one cut may not be enough for the other
        assert factors.relative_error**2 >= 0.08
    else:
        fewer = way(kernel, Budget(rank=factors.ranks[0] - 1))
        assert fewer.relative_error**2 > 0.2


@pytest.mark.parametrize("way", WAYS)
def test_the_error_falls_with_every_rank(way: Way) -> None:
    """And the ranks are what was asked for."""
    kernel = random_kernel(ConvGeometry.square(3), 1, ins=6, outs=6)
    found = [way(kernel, Budget(rank=rank)) for rank in range(1, 7)]
    assert [set(factors.ranks) for factors in found] == [{rank} for rank in range(1, 7)]
    errors = [factors.relative_error for factors in found]
    assert all(one > other for one, other in itertools.pairwise(errors))


def test_the_svd_of_a_pointwise_layer_is_the_best_of_its_rank() -> None:
    """Eckart and Young: the error is what the other singular values hold."""
    kernel = random_kernel(ConvGeometry.square(1), 2, ins=20, outs=30)
    singular = np.linalg.svd(kernel.weight[:, :, 0, 0], compute_uv=False)
    factors = factor_channels(kernel, Budget(rank=8))
    want = np.sqrt((singular[8:] ** 2).sum() / (singular**2).sum())
    assert factors.relative_error == pytest.approx(want, rel=1e-12)


def test_a_kernel_that_has_low_rank_is_found_exactly() -> None:
    """Separable, or few channels inside: the rank itself is found from the energy."""
    rng = np.random.default_rng(3)
    geometry = ConvGeometry.square(3, stride=2)
    column, row = rng.normal(size=(4, 10, 3)), rng.normal(size=(14, 4, 3))
    core, ins, outs = (
        rng.normal(size=(3, 2, 3, 3)),
        rng.normal(size=(2, 10)),
        rng.normal(size=(14, 3)),
    )
    separable = np.einsum("ria,orb->oiab", column, row)
    narrow = np.einsum("xyab,yi,ox->oiab", core, ins, outs)
    tall = np.einsum("or,riab->oiab", rng.normal(size=(14, 2)), rng.normal(size=(2, 10, 3, 3)))
    cases: list[tuple[Way, np.ndarray, tuple[int, ...]]] = [
        (factor_rows_and_columns, separable, (4,)),
        (factor_tucker, narrow, (2, 3)),
        (factor_channels, tall, (2,)),
    ]
    for way, weight, ranks in cases:
        kernel = Kernel(geometry=geometry, weight=weight, bias=np.zeros(14))
        factors = way(kernel, Budget(energy=1))
        assert factors.ranks == ranks
        assert factors.relative_error <= 1e-12
        assert factors.work_flop((32, 32)) < sequence_work_flop([kernel], (32, 32))


def test_refining_never_makes_a_tucker_worse() -> None:
    """Higher-order iteration starts where the HOSVD ends."""
    for seed in range(10):
        kernel = random_kernel(ConvGeometry.square(3), seed, ins=9, outs=11)
        errors = [
            factor_tucker(kernel, Budget(rank=3), refine_count=count).relative_error
            for count in (0, 1, 2, 8)
        ]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < errors[0]


@pytest.mark.parametrize("shape", [(40, 50), (50, 40)])
def test_large_matrices_are_split_as_small_ones_are(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of VGG's Linear layers take minutes by SVD; the product of both ways is the same."""
    kernel = random_kernel(ConvGeometry.square(1), 0, ins=shape[1], outs=shape[0])
    budget = Budget(energy=0.8)
    exact = factor_channels(kernel, budget)
    monkeypatch.setattr(low_rank, "_MAX_SVD_ROWS", 1)
    fast = factor_channels(kernel, budget)
    assert fast.ranks == exact.ranks
    assert fast.relative_error == pytest.approx(exact.relative_error, rel=1e-9)
    products = [merge_pointwise_last(*factors.kernels).weight for factors in (exact, fast)]
    np.testing.assert_allclose(*products, rtol=0, atol=1e-9)
    assert factor_channels(kernel, Budget(energy=1)).relative_error <= 1e-12


def test_both_factors_have_numbers_of_one_size() -> None:
    """A float16 or int8 factor with all of the scale would lose what the rank kept."""
    kernel = random_kernel(ConvGeometry.square(1), 0, ins=32, outs=32)
    kernel = Kernel(geometry=kernel.geometry, weight=kernel.weight * 1e4, bias=kernel.bias)
    first, second = factor_channels(kernel, Budget(rank=8)).kernels
    sizes = np.linalg.norm(first.weight), np.linalg.norm(second.weight)
    assert sizes[0] == pytest.approx(sizes[1])


def test_work_is_counted_where_it_is_done() -> None:
    """2 flop per multiply-add; the stride of a column halves the rows of all that follows."""
    kernel = random_kernel(ConvGeometry.square(3, stride=2), 0, ins=8, outs=16)
    size = (32, 32)
    assert sequence_work_flop([kernel], size) == 2 * 16 * 16 * 16 * 8 * 9
    spatial = factor_rows_and_columns(kernel, Budget(rank=4))
    assert spatial.work_flop(size) == 2 * 16 * 32 * 4 * 8 * 3 + 2 * 16 * 16 * 16 * 4 * 3
    tucker = factor_tucker(kernel, Budget(rank=4))
    inner = 2 * 32 * 32 * 4 * 8 + 2 * 16 * 16 * 4 * 4 * 9 + 2 * 16 * 16 * 16 * 4
    assert tucker.work_flop(size) == inner


@settings(max_examples=30, deadline=None)
@given(geometry=geometries(), seed=SEEDS, energy=st.floats(0.3, 1))
def test_the_cheapest_way_is_the_cheapest(geometry: ConvGeometry, seed: int, energy: float) -> None:
    """Of all that keep the energy."""
    kernel, size, budget = random_kernel(geometry, seed), (29, 31), Budget(energy=energy)
    best = cheapest_factors(kernel, budget, size)
    ways = WAYS if max(geometry.kernel) > 1 else [factor_channels]
    assert best.work_flop(size) == min(way(kernel, budget).work_flop(size) for way in ways)


def test_by_rank_the_most_exact_way_that_saves_work_is_taken() -> None:
    """At rank 4 of 6 a Tucker saves more, a column and a row lose less."""
    kernel = random_kernel(ConvGeometry.square(3), 0, ins=6, outs=6)
    size, budget = (8, 8), Budget(rank=4)
    best = cheapest_factors(kernel, budget, size)
    limit = sequence_work_flop([kernel], size)
    saving = [f for f in (way(kernel, budget) for way in WAYS) if f.work_flop(size) < limit]
    assert best.relative_error == min(factors.relative_error for factors in saving)


@pytest.mark.parametrize(
    ("energy", "rank"), [(None, None), (0.9, 3), (0.0, None), (1.1, None), (float("nan"), None),
                         (None, 0)]
)  # fmt: skip
def test_a_budget_that_says_nothing_is_refused(energy: float | None, rank: int | None) -> None:
    """Exactly one of energy and rank, in range."""
    with pytest.raises(ConfigError):
        Budget(energy=energy, rank=rank)


@pytest.mark.parametrize("way", [*WAYS, partial(cheapest_factors, size=(8, 8))])
def test_what_has_no_rank_to_reduce_is_refused(way: Way) -> None:
    """Groups, and a kernel of zeros."""
    grouped = random_kernel(ConvGeometry.square(3, groups=2), 0, ins=4, outs=4)
    with pytest.raises(ModelError, match="2 groups"):
        way(grouped, Budget(rank=1))
    dense = random_kernel(ConvGeometry.square(3), 0)
    zero = Kernel(geometry=dense.geometry, weight=dense.weight * 0, bias=dense.bias)
    with pytest.raises(ModelError, match="zero everywhere"):
        way(zero, Budget(rank=1))
