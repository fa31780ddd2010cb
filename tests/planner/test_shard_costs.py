"""Prefix sums give what the predictor gives shard by shard, whatever layout the runtime keeps."""

import itertools
import random

import pytest

from edgekit.planner.candidates import candidate_cuts
from edgekit.planner.cuts import legal_cuts
from edgekit.planner.geometry import Geometry
from edgekit.planner.scenario import Variant
from edgekit.planner.shard_costs import ShardCosts, predictor_of
from edgekit.spec.profile import Ceiling, DeviceProfile, WeightRead
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.workload import KernelShape, OpCost, Workload
from tests.graphs import workload as by_hand

LAYOUT = ("layout NCHWc8", "Conv+Relu", "Conv+Add", "Conv+Add+Relu", "Sigmoid*x")


def residual_net(seed: int, blocks: int = 4) -> Workload:
    """Convolutions, activations and skips of 16 channels, with some operators that stay plain."""
    rng, ops, at = random.Random(seed), [], "image"
    conv = KernelShape(key="Conv 3x3 s1 d1 dense", sizes=(16, 16, 8, 8, 1))
    for block in range(blocks):
        first = at
        for index in range(rng.randint(1, 3)):
            ops.append(("Conv", (at,), f"c{block}{index}", conv))
            at = f"c{block}{index}"
            kind = rng.choice(["Relu", "Tanh", ""])
            if kind:
                ops.append((kind, (at,), f"a{block}{index}", KernelShape(key=kind, sizes=(1024,))))
                at = f"a{block}{index}"
        if rng.random() < 0.7:
            shape = KernelShape(key="Add same", sizes=(1024,))
            ops.append(("Add", (first, at), f"s{block}", shape))
            at = f"s{block}"
    names = ["image", *(made for _, _, made, _ in ops)]
    return Workload(
        model="net", model_sha256="0" * 64, inputs=("image",), outputs=(at,),
        ops=tuple(
            OpCost(
                name=made, op_type=kind, inputs=tuple(reads), outputs=(made,),
                work_flop=rng.randrange(1, 10**6), traffic_bytes=rng.randrange(1, 10**5),
                weight_bytes=1000, parameter_count=250, kernel=kernel,
            )
            for kind, reads, made, kernel in ops
        ),
        tensors=tuple(TensorSpec(name=n, dtype="float32", shape=(1, 16, 8, 8)) for n in names),
    )  # fmt: skip


def profile(*fused: str) -> DeviceProfile:
    return DeviceProfile(
        name="board", source="measured", reference="made up", processor="p", memory="1 GB",
        runtime="made up", memory_bandwidth="10 GB/s", launch_overhead="3 us",
        session_overhead="20 us", copy_bandwidth="2 GB/s", fused=fused,
        weight_read=(
            WeightRead(footprint_bytes=1000, s_per_byte=0.0),
            WeightRead(footprint_bytes=1_000_000, s_per_byte=1e-9),
        ),
        ceiling=(Ceiling(precision="fp32", compute="50 Gflop/s"),),
    )  # fmt: skip


def costs_of(model: Workload, board: DeviceProfile) -> tuple[Geometry, ShardCosts]:
    cuts = legal_cuts(model).cuts
    geometry = Geometry(model, [cut.names for cut in cuts])
    return geometry, ShardCosts(geometry, predictor_of(board, "fp32", "cpu"), board.ceiling[0])


@pytest.mark.parametrize("seed", range(20))
def test_a_runtime_without_a_layout_of_its_own_is_priced_exactly(seed: int) -> None:
    """Every shard between any two cuts, its interval too."""
    board = profile("Conv+Relu")
    geometry, costs = costs_of(residual_net(seed), board)
    predictor = predictor_of(board, "fp32", "cpu")
    for begin, end in itertools.combinations(range(len(geometry.sets)), 2):
        if geometry.is_shard[begin, end]:
            found = predictor.predict(geometry.workload, geometry.ops_between(begin, end))
            assert costs.time_s[begin, end] == pytest.approx(found.time_s, rel=1e-9)
            widening = costs.detail(begin, end).widening
            assert widening == pytest.approx(found.high_s / found.time_s, rel=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_first_and_last_shards_are_exact_under_a_blocked_layout_too(seed: int) -> None:
    """So two-device plans are; in between, two borders close together may share a copy."""
    board = profile(*LAYOUT)
    geometry, costs = costs_of(residual_net(seed), board)
    predictor, end = predictor_of(board, "fp32", "cpu"), len(geometry.sets) - 1
    for node in range(1, end):
        for shard in ((0, node), (node, end)):
            found = predictor.predict(geometry.workload, geometry.ops_between(*shard))
            assert costs.time_s[shard] == pytest.approx(found.time_s, rel=1e-9)


def test_cuts_are_thinned_to_the_lightest_of_about_the_same_work() -> None:
    """The bound holds, and no bucket of work loses its only cut."""
    model = by_hand(
        [("Gelu", [f"t{i - 1}" if i else "image"], [f"t{i}"]) for i in range(60)],
        outputs=["t59"],
        elements={f"t{i}": 5 if i % 3 == 0 else 50 for i in range(60)},
    )
    cuts, notes = candidate_cuts([Variant("S3", model)], 20)
    assert 10 <= len(cuts) <= 20
    assert all(cut.nbytes == 20 for cut in cuts)
    assert "59 cuts thinned to 20" in notes[0]


def test_cuts_that_one_strategy_does_not_have_are_left_out() -> None:
    """A shard must be the same under every strategy."""
    one = by_hand(
        [("A", ["image"], ["a"]), ("B", ["a"], ["b"]), ("C", ["b"], ["c"])], outputs=["c"]
    )
    other = by_hand([("A", ["image"], ["a"]), ("D", ["a"], ["c"])], outputs=["c"])
    cuts, _ = candidate_cuts([Variant("S3", one), Variant("S3+Ss", other)], 100)
    assert [cut.names for cut in cuts] == [("a",)]
