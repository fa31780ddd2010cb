"""Long tables in TOML files stay readable, and say what was saved."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.spec.base import load, parse_toml, save, to_toml
from edgekit.spec.profile import Ceiling, DeviceProfile, KernelTime

_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)


def _profile(kernels: tuple[KernelTime, ...]) -> DeviceProfile:
    return DeviceProfile(
        name="board",
        source="measured",
        reference="somebody",
        processor="some",
        memory="1 GB",
        memory_bandwidth="10 GB/s",
        ceiling=(Ceiling(precision="fp32", compute="10 Gflop/s"),),
        runtime="onnxruntime 1.0",
        kernel=kernels,
    )


@settings(max_examples=50, deadline=None)
@given(
    key=_TEXT,
    sizes=st.lists(st.integers(0, 2**40), min_size=1, max_size=5),
    time_s=st.floats(1e-9, 1e3),
    count=st.integers(1, 120),
)
def test_a_kernel_table_of_any_length_is_read_as_it_was_saved(
    key: str, sizes: list[int], time_s: float, count: int
) -> None:
    """Short ones are written as TOML tables, long ones a kernel a line."""
    kernels = tuple(
        KernelTime(key=f"{key}{index}", sizes=tuple(sizes), time_s=time_s) for index in range(count)
    )
    profile = _profile(kernels)
    assert parse_toml(to_toml(profile), DeviceProfile, origin="here") == profile


def test_a_long_kernel_table_takes_a_line_a_kernel(tmp_path: Path) -> None:
    """It is data that people look through and compare."""
    kernels = tuple(
        KernelTime(key='Conv "3x3" \\ s1', sizes=(index, 2), time_s=1e-5) for index in range(100)
    )
    path = tmp_path / "board.toml"
    save(_profile(kernels), path)
    lines = path.read_text().splitlines()
    assert sum("time_s" in line for line in lines) == 100
    assert len(lines) < 150
    assert load(path, DeviceProfile).kernel == kernels
