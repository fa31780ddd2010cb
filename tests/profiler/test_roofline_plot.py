"""The plot is drawn for every profile, has what it should, and replaces no file unasked."""

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit.errors import ConfigError
from edgekit.profiler.library import list_profiles
from edgekit.profiler.roofline import Dot
from edgekit.spec.profile import Ceiling, DeviceProfile

pytest.importorskip("matplotlib", reason="plots come with edgekit[builder]")
from edgekit.profiler.roofline_plot import (
    DOTS_PER_INCH,
    SIZE_INCH,
    _spread,
    draw_roofline,
    save_figure,
)

SHIPPED = list_profiles(folders=[Path(__file__).parents[2] / "device_profiles"]).found
MEASURED = DeviceProfile(
    name="board",
    source="measured",
    reference="a test",
    processor="1x core",
    memory="1 GiB",
    memory_bandwidth="9.1 GB/s",
    memory_bandwidth_sustained="7.9 GB/s",
    cache_bandwidth="61 GB/s",
    runtime="onnxruntime 1.31.1",
    ceiling=tuple(
        Ceiling(precision=width, provider=where, compute=f"{rate} Gflop/s", sustained="20 Gflop/s")
        for where in ("cpu", "cuda", "tensorrt", "xnnpack")
        for width, rate in (("fp32", 33.0), ("fp16", 33.1), ("int8", 33.2))
    ),
)
DOTS = (
    Dot(name="a", kind="Conv kxk", work_flop=10**8, traffic_bytes=2e6, roofline_s=4e-3,
        is_memory_bound=False),
    Dot(name="b", kind="Relu", work_flop=10**5, traffic_bytes=4e5, roofline_s=1e-4,
        is_memory_bound=True),
    Dot(name="c", kind="Concat", work_flop=0, traffic_bytes=4e5, roofline_s=1e-4,
        is_memory_bound=True),
)  # fmt: skip


def texts(figure: object) -> str:
    """Every word on the figure."""
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]


def test_a_png_of_the_promised_size_is_written(tmp_path: Path) -> None:
    """And it is neither blank nor black."""
    path = tmp_path / "roofline.png"
    save_figure(draw_roofline(MEASURED, MEASURED.ceiling[0], DOTS, model="net"), path)
    image = cv2.imread(str(path))
    assert image.shape == (SIZE_INCH[1] * DOTS_PER_INCH, SIZE_INCH[0] * DOTS_PER_INCH, 3)
    inked = np.mean(np.any(image < 250, axis=2))
    assert 0.01 < inked < 0.3
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".pdf", ".svg"])
def test_papers_get_vectors(tmp_path: Path, suffix: str) -> None:
    """A raster in a paper is a pity."""
    path = tmp_path / f"roofline{suffix}"
    save_figure(draw_roofline(MEASURED, MEASURED.ceiling[0]), path)
    assert path.read_bytes()[:5] in {b"%PDF-", b"<?xml"}


def test_the_plot_says_where_its_numbers_come_from() -> None:
    """Title, source, roofs, ridge points, and what has no place on the axes."""
    words = texts(draw_roofline(MEASURED, MEASURED.ceiling[0], DOTS, model="net"))
    for expected in (
        "net under the roofline of board", "measured with onnxruntime 1.31.1, 1 thread",
        "fp32 cpu  33.0 Gflop/s", "ridge 3.63 flop/byte", "sustained 20 Gflop/s",
        "memory 9.1 GB/s", "sustained 7.9 GB/s", "cache 61 GB/s",
        "1 Conv kxk: 99.9%", "1 other: < 0.1%",
        "4.2 ms per frame, 5% of it memory-bound", "Kernels without arithmetic, not shown: 1",
        "400.0 kB of 2.8 MB", "operational intensity [flop/byte]",
    ):  # fmt: skip
        assert expected in words


@pytest.mark.parametrize("found", SHIPPED, ids=lambda found: found.profile.name)
def test_every_shipped_profile_can_be_drawn(found: object) -> None:
    """Every roof and every ridge point is inside the axes."""
    profile: DeviceProfile = found.profile  # type: ignore[attr-defined]
    figure = draw_roofline(profile, profile.ceiling[0])
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    for one in profile.ceiling:
        assert low < one.flop_per_s < high
        assert left < profile.ridge_flop_per_byte(one) < right
    assert "Roofline of" in texts(figure)
    if profile.source == "datasheet":
        assert "not measured" in texts(figure)


def test_every_dot_is_inside_the_axes() -> None:
    """Also one far to the left of all ridge points."""
    lone = Dot(name="d", kind="Add", work_flop=10, traffic_bytes=1e6, roofline_s=1e-4,
               is_memory_bound=True)  # fmt: skip
    (axes,) = draw_roofline(MEASURED, MEASURED.ceiling[0], (*DOTS, lone)).axes
    drawn = np.concatenate([one.get_offsets() for one in axes.collections])
    assert len(drawn) == 3
    assert axes.get_xlim()[0] < drawn[:, 0].min()
    assert axes.get_ylim()[0] < drawn[:, 1].min()


def test_a_model_without_arithmetic_is_drawn_as_none() -> None:
    """Nothing to divide by."""
    words = texts(draw_roofline(MEASURED, MEASURED.ceiling[0], DOTS[2:], model="net"))
    assert "share of the work" not in words
    assert "100% of it memory-bound" in words


def test_a_long_name_does_not_run_out_of_the_figure() -> None:
    """Exported models carry their whole history in their names."""
    words = texts(draw_roofline(MEASURED, MEASURED.ceiling[0], DOTS, model="net_" * 40))
    assert "net_net_net_net_net_net_net_net… under the roofline of board" in words


def test_a_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    """A figure of last week may be in a paper."""
    path = tmp_path / "roofline.png"
    path.write_bytes(b"precious")
    figure = draw_roofline(MEASURED, MEASURED.ceiling[0])
    with pytest.raises(ConfigError, match="exists"):
        save_figure(figure, path)
    assert path.read_bytes() == b"precious"
    save_figure(figure, path, overwrite=True)
    assert path.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("name", "words"),
    [("roofline.jpg", "cannot be written"), ("roofline", "cannot be written"),
     ("absent/roofline.png", "no folder"), ("folder.png", "exists")],
)  # fmt: skip
def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path, name: str, words: str) -> None:
    """Before a model is loaded for nothing."""
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ConfigError, match=words):
        save_figure(draw_roofline(MEASURED, MEASURED.ceiling[0]), tmp_path / name, overwrite=True)


@pytest.mark.parametrize(
    ("heights", "gap"),
    [([0.5], 0.1), ([0.1, 0.1, 0.1], 0.1), ([0.9, 0.95, 0.99], 0.2), ([0.5] * 12, 1 / 12)],
)
def test_labels_never_lie_on_each_other(heights: list[float], gap: float) -> None:
    """Twelve ceilings of one board are within a percent of each other."""
    spread = _spread(heights, gap)
    assert all(high - low >= gap - 1e-9 for low, high in itertools.pairwise(spread))
    assert spread[-1] <= 1.0
    if heights == [0.5]:
        assert spread == heights
