"""Where the taps of one convolution lie in a larger one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.builder.fold.geometry import ConvGeometry, covering_geometry, filled_tap_count
from edgekit.errors import ModelError


def test_a_pointwise_branch_sits_on_the_centre_tap() -> None:
    """The case of every RepVGG block, whatever its stride, dilation and groups."""
    for kernel, stride, dilation in ((3, 1, 1), (3, 2, 1), (5, 2, 3), (1, 2, 1)):
        geometry = ConvGeometry.square(kernel, stride=stride, dilation=dilation, groups=2)
        assert geometry.pointwise.taps_in(geometry) == ((kernel // 2,), (kernel // 2,))
        assert geometry.pointwise.stride == geometry.stride
        assert geometry.pointwise.groups == 2


def test_a_dilated_kernel_lands_between_the_taps_of_a_dense_one() -> None:
    """3x3 dilated by 2 covers the corners, edges and centre of a 5x5."""
    small = ConvGeometry.square(3, dilation=2)
    assert small.taps_in(ConvGeometry.square(5)) == ((0, 2, 4), (0, 2, 4))


def test_a_dense_kernel_does_not_fit_into_a_dilated_one() -> None:
    """Folding it would silently drop the taps in between."""
    with pytest.raises(ModelError, match="no tap"):
        ConvGeometry.square(3).taps_in(ConvGeometry.square(3, dilation=2))


@pytest.mark.parametrize(
    ("branch", "why"),
    [
        (ConvGeometry.square(1, stride=2), "stride"),
        (ConvGeometry.square(1, groups=2), "groups"),
        (ConvGeometry(kernel=(1, 1), padding=(1, 1)), "output size"),
        (ConvGeometry.square(5), "no tap"),
    ],
)
def test_branches_that_do_not_line_up_are_refused(branch: ConvGeometry, why: str) -> None:
    """Each of these once folded into a wrong kernel in somebody's code."""
    with pytest.raises(ModelError, match=why):
        branch.taps_in(ConvGeometry.square(3))


@pytest.mark.parametrize(
    "geometry",
    [ConvGeometry(kernel=(2, 2)), ConvGeometry(padding=(0, 0)), ConvGeometry(kernel=(3, 4))],
)
def test_a_kernel_without_a_centre_has_no_pointwise_companion(geometry: ConvGeometry) -> None:
    """A 1x1 branch beside it would give another size."""
    with pytest.raises(ModelError, match="no 1x1 convolution"):
        _ = geometry.pointwise


@pytest.mark.parametrize(
    "fields",
    [{"kernel": (0, 1)}, {"stride": (1, 0)}, {"dilation": (-1, 1)}, {"padding": (0, -1)},
     {"groups": 0}],
)  # fmt: skip
def test_a_geometry_that_is_no_convolution_is_refused_at_birth(fields: dict[str, object]) -> None:
    """Nothing downstream has to check again."""
    with pytest.raises(ModelError):
        ConvGeometry(**fields)  # type: ignore[arg-type]


def test_groups_must_divide_both_channel_counts() -> None:
    """Otherwise torch would complain later, without the block's name."""
    geometry = ConvGeometry.square(3, groups=4)
    assert geometry.weight_shape(8, 12) == (12, 2, 3, 3)
    for channels in ((6, 8), (8, 6)):
        with pytest.raises(ModelError, match="4 groups"):
            geometry.weight_shape(*channels)


def test_only_a_layer_that_keeps_the_size_can_stand_beside_an_identity() -> None:
    """Stride 2 and unpadded kernels change it."""
    assert ConvGeometry.square(3).keeps_size
    assert ConvGeometry.square(5, dilation=2).keeps_size
    assert not ConvGeometry.square(3, stride=2).keeps_size
    assert not ConvGeometry(padding=(0, 1)).keeps_size


def test_the_covering_kernel_is_the_smallest_that_holds_every_tap() -> None:
    """What each costs: taps of the cover, and how many of them hold a weight."""
    square = ConvGeometry.square
    row = ConvGeometry(kernel=(1, 3), padding=(0, 1))
    column = ConvGeometry(kernel=(3, 1), padding=(1, 0))
    even = ConvGeometry(kernel=(2, 2), padding=(0, 0))
    cases = [
        ([square(3), square(1)], (3, 3), (1, 1), 9),
        ([row, column], (3, 3), (1, 1), 5),
        ([square(3, dilation=2), square(1)], (3, 3), (2, 2), 9),
        ([square(3, dilation=2), square(3)], (5, 5), (1, 1), 17),
        ([square(3, dilation=2), square(3, dilation=3)], (7, 7), (1, 1), 17),
        ([square(3, dilation=2), square(3, dilation=4)], (5, 5), (2, 2), 17),
        ([square(5), square(7), square(3), square(1)], (7, 7), (1, 1), 49),
        ([even, ConvGeometry(kernel=(4, 4))], (4, 4), (1, 1), 16),
        ([square(1)], (1, 1), (1, 1), 1),
    ]  # fmt: skip
    for parts, kernel, dilation, filled in cases:
        cover = covering_geometry(parts)
        assert (cover.kernel, cover.dilation) == (kernel, dilation)
        assert filled_tap_count(parts) == filled <= cover.tap_count


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([], "without branches"),
        ([ConvGeometry.square(3), ConvGeometry.square(3, stride=2)], "stride"),
        ([ConvGeometry.square(3), ConvGeometry.square(3, groups=2)], "groups"),
        ([ConvGeometry.square(3), ConvGeometry.square(5), ConvGeometry(padding=(0, 0))], "size"),
    ],
)
def test_what_no_kernel_covers_is_refused(parts: list[ConvGeometry], why: str) -> None:
    """Branches on different grids have no sum."""
    with pytest.raises(ModelError, match=why):
        covering_geometry(parts)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.integers(1, 7), stride=st.integers(1, 3), padding=st.integers(0, 4),
    dilation=st.integers(1, 3), size=st.integers(1, 24),
)  # fmt: skip
def test_the_output_size_is_that_of_torch(
    kernel: int, stride: int, padding: int, dilation: int, size: int
) -> None:
    """And an image smaller than the kernel is refused instead of giving a negative size."""
    geometry = ConvGeometry(
        kernel=(kernel, 1), stride=(stride, 1), padding=(padding, 0), dilation=(dilation, 1)
    )
    conv = torch.nn.Conv2d(1, 1, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1))
    try:
        want = tuple(conv(torch.zeros(1, 1, size, 5)).shape[2:])
    except RuntimeError:
        with pytest.raises(ModelError, match="smaller than a kernel"):
            geometry.output_size((size, 5))
    else:
        assert geometry.output_size((size, 5)) == want
