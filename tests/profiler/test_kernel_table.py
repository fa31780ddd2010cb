"""Single kernels are timed inside the runtime, and a killed run goes on where it stopped."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.planner.launches import Habits, habits_of
from edgekit.profiler.catalogue import catalogue, epilogues
from edgekit.profiler.habits import detect_habits
from edgekit.profiler.kernel_table import Journal, measure_pack, packs
from edgekit.profiler.probe_models import branch_of
from edgekit.spec.profile import Ceiling, DeviceProfile, KernelTime
from edgekit.spec.workload import KernelShape

FUSED = ("Conv+Add", "Conv+Relu", "Conv+Sigmoid", "Sigmoid*x", "layout NCHWc8")
HABITS = Habits(fused=frozenset(FUSED), block=8)
SMALL = KernelShape(key="Conv 3x3 s1 d1 dense blocked", sizes=(16, 16, 8, 8, 1))


def one_of_each_key() -> list[KernelShape]:
    """The smallest kernel of every key of the catalogue."""
    found: dict[str, KernelShape] = {}
    for shape in catalogue(HABITS, most=1500):
        best = found.get(shape.key)
        if best is None or sum(shape.sizes) < sum(best.sizes):
            found[shape.key] = shape
    return list(found.values())


def test_every_kernel_of_the_catalogue_can_be_timed() -> None:
    """A key whose probe the runtime refuses would stop a profile on the board."""
    shapes = one_of_each_key()
    found = {
        (one.key, one.sizes) for pack in packs(shapes) for one in measure_pack(pack, run_count=2)
    }
    assert {(one.key, one.sizes) for one in shapes} <= found


def test_layout_copies_are_timed_along_with_the_kernels() -> None:
    """Where the runtime has a layout of its own."""
    if not any(text.startswith("layout") for text in detect_habits()):
        pytest.skip("this runtime keeps tensors as they are")
    keys = {one.key for one in measure_pack([SMALL], run_count=2)}
    assert keys == {SMALL.key, "ReorderInput", "ReorderOutput"}


def test_more_work_takes_longer() -> None:
    """A hundred times the work: that much survives any disturbance."""
    large = KernelShape(key=SMALL.key, sizes=(64, 64, 20, 20, 1))
    times = {one.sizes: one.time_s for one in measure_pack([SMALL, large], run_count=10)}
    assert times[large.sizes] > 5 * times[SMALL.sizes]


def test_an_unknown_kernel_is_left_out_not_an_error() -> None:
    """The predictor says that it does not know it."""
    assert measure_pack([KernelShape(key="Einsum", sizes=(1, 2))], run_count=1) == []
    assert branch_of("Conv 3x3 s1 d1 dense", (1, 2), "k0_") is None


def test_packs_keep_every_kernel_once_and_stay_small() -> None:
    """Whatever the sizes."""
    shapes = catalogue(HABITS, most=300)
    made = list(packs(shapes))
    assert [one for pack in made for one in pack] == list(shapes)
    assert max(len(pack) for pack in made) <= 24


def test_the_catalogue_is_the_same_each_time_and_begins_with_every_operator() -> None:
    """So that two profiles are alike, and a short one lacks no operator."""
    assert catalogue(HABITS, most=400) == catalogue(HABITS, most=400)
    first = {one.op_type for one in catalogue(HABITS, most=300)}
    assert first >= {"Conv", "QLinearConv", "MaxPool", "Concat", "Add", "Sigmoid", "Transpose"}


def test_the_catalogue_follows_the_layout_of_the_runtime() -> None:
    """Blocked kernels where there are blocks, plain ones where there are none."""
    plain = catalogue(Habits(), most=300)
    assert not any(one.key.endswith(("blocked", "direct")) for one in plain)
    assert {name for name, _, _ in epilogues(HABITS)} == {"Add", "Relu", "Sigmoid"}


def test_the_habits_of_this_runtime_are_read_from_its_graphs() -> None:
    """ONNX Runtime fuses a convolution with the Relu behind it on every processor."""
    found = detect_habits()
    assert "Conv+Relu" in found
    profile = DeviceProfile(
        name="x", source="measured", reference="r", processor="p", memory="1 GB",
        memory_bandwidth="1 GB/s", ceiling=(Ceiling(precision="fp32", compute="1 Gflop/s"),),
        runtime="o", fused=found,
    )  # fmt: skip
    assert habits_of(profile).fused == frozenset(found)


def entry(index: int) -> KernelTime:
    return KernelTime(key="Relu", sizes=(8, index + 1), time_s=1e-6 * (index + 1))


def test_a_journal_is_taken_up_again(tmp_path: Path) -> None:
    """Under the same header only: another runtime's times are not ours."""
    path = tmp_path / "journal"
    Journal(path, header="runtime 1").add([entry(0), entry(1)])
    assert len(Journal(path, header="runtime 1").known) == 2
    assert Journal(path, header="runtime 2").known == {}


def test_the_fastest_of_several_times_counts(tmp_path: Path) -> None:
    """Layout copies come with every model of kernels, now and then disturbed."""
    slow = KernelTime(key="Relu", sizes=(8, 1), time_s=1.0)
    kept = Journal(tmp_path / "journal", header="h")
    kept.add([entry(0), slow])
    assert kept.known["Relu", (8, 1)] == entry(0)
    assert Journal(kept.path, header="h").known == kept.known


@given(cut=st.integers(0, 400))
def test_a_journal_cut_off_anywhere_loses_its_last_lines_only(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    """That is what kill -9 or an empty battery leaves."""
    path = tmp_path_factory.mktemp("journal") / "journal"
    Journal(path, header="h").add([entry(index) for index in range(5)])
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    kept = Journal(path, header="h")
    assert set(kept.known) <= {("Relu", (8, index + 1)) for index in range(5)}
    kept.add([entry(7)])
    again = Journal(path, header="h")
    assert ("Relu", (8, 8)) in again.known
    assert len(again.known) == len(kept.known)
