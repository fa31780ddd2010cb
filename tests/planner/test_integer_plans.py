"""Plans with shards of integers: what crosses, what is charged, what is refused, and the words."""

from dataclasses import replace

import msgspec
import pytest

from edgekit.errors import PlanError
from edgekit.planner.accuracy import accuracy_notes, measured_frames
from edgekit.planner.cost_table import CostTable
from edgekit.planner.crossings import BOTH, MADE, WANTED
from edgekit.planner.explain import explain
from edgekit.planner.flips import find_flips
from edgekit.planner.policies import compare
from edgekit.planner.pricing import Step, price_pipeline
from edgekit.planner.scenario import Scenario, Variant
from edgekit.planner.search import plan
from edgekit.planner.wording import describe
from edgekit.spec.fleet import Device, Fleet, Link
from edgekit.spec.planning import (
    QDQ,
    RAW_FP32,
    AccuracyDrop,
    AccuracyTable,
    Candidate,
    CodecCost,
    FrameCost,
    Goal,
)
from edgekit.spec.profile import Ceiling, DeviceProfile, KernelTime
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.workload import KernelShape, OpCost, Workload
from tests.spec.test_accuracy_report import REPORT

COUNT = 10_000


def chain(*, quantized: bool) -> Workload:
    """Three convolutions; in integers t0 and t1 are quantized."""
    names = ["image", "t0", "t1", "t2"]
    tensors = [TensorSpec(name=name, dtype="float32", shape=(COUNT,)) for name in names]
    ops: list[OpCost] = []

    def add(name: str, kind: str, read: str, made: str, flop: int) -> None:
        kernel = KernelShape(key=kind, sizes=(1, COUNT))
        if kind == "Blend":
            kernel = KernelShape(key="Conv 3x3 s1 d1 dense", sizes=(64, 32, 16, 64, 1))
        ops.append(
            OpCost(name=name, op_type=kind, inputs=(read,), outputs=(made,), work_flop=flop,
                   traffic_bytes=100, weight_bytes=0, parameter_count=0, kernel=kernel)
        )  # fmt: skip

    for index in range(3):
        read, made = names[index], names[index + 1]
        if quantized and index:
            integers = f"{read}_QuantizeLinear_Output"
            tensors.append(TensorSpec(name=integers, dtype="uint8", shape=(COUNT,)))
            tensors.append(TensorSpec(name=f"{read} back", dtype="float32", shape=(COUNT,)))
            add(f"q{index}", "QuantizeLinear", read, integers, 1)
            add(f"d{index}", "DequantizeLinear", integers, f"{read} back", 1)
            read = f"{read} back"
        add(f"op{index}", "Blend", read, made, 10_000_000)
    return Workload(
        model="net", model_sha256="ab" * 32, ops=tuple(ops), tensors=tuple(tensors),
        inputs=("image",), outputs=("t2",),
    )  # fmt: skip


def board(*, int8: str = "4 Gop/s", has_kernels: bool = True) -> DeviceProfile:
    ceilings = [Ceiling(precision="fp32", compute="1 Gflop/s")]
    ceilings += [Ceiling(precision="int8", compute=int8)] if int8 else []
    kernels = [KernelTime(key="QLinearAdd", sizes=(1000,), time_s=1e-5)] if has_kernels else []
    return DeviceProfile(
        name="board", source="measured", reference="made up", processor="p", memory="1 GB",
        runtime="made up", memory_bandwidth="1 GB/s", ceiling=tuple(ceilings),
        kernel=tuple(kernels),
    )  # fmt: skip


def scenario(drop_pp: float = 0.5, profile: DeviceProfile | None = None) -> Scenario:
    devices = (Device(name="camera"), Device(name="gateway"))
    link = Link(source="camera", target="gateway", bandwidth="8 Mbit/s", rtt="0 ms")
    uint8 = CodecCost(
        name="uint8", bytes_per_element=1.0, encode_bytes_per_s=1e9, decode_bytes_per_s=1e9,
        accuracy_drop_pp=3.0, drop_by_cut={"t0": 0.1},
    )  # fmt: skip
    return Scenario(
        model="net", model_sha256="ab" * 32,
        variants=(
            Variant("S3", chain(quantized=False)), Variant("S3", chain(quantized=True), "int8")
        ),
        fleet=Fleet(name="two", device=devices, link=(link,)),
        profiles={one.name: profile or board() for one in devices},
        codecs=(RAW_FP32, uint8),
        accuracy=AccuracyTable(
            drop=(AccuracyDrop(strategy="S3", precision="int8", drop_pp=drop_pp),)
        ),
    )  # fmt: skip


def two(asked: Scenario, one: str, other: str, codec: str | None = None) -> Candidate:
    steps = [
        Step("camera", 0, precision=one, codec=codec),  # type: ignore[arg-type]
        Step("gateway", None, precision=other),  # type: ignore[arg-type]
    ]
    return price_pipeline(CostTable(asked), Goal(max_accuracy_drop_pp=5.0), steps)


@pytest.mark.parametrize("pair", [("int8", "int8"), ("int8", "fp32"), ("fp32", "int8")])
def test_beside_a_shard_of_integers_they_cross_at_a_byte_each(pair: tuple[str, str]) -> None:
    """Not coded, nothing more lost than the shards lose, and named so."""
    hop = two(scenario(), *pair).hops[0]
    assert (hop.codec, hop.nbytes, hop.encode_s, hop.decode_s) == ("qdq", COUNT, 0.0, 0.0)
    assert hop.accuracy_drop_pp == 0.0


def test_only_what_the_shards_beside_a_cut_round_crosses_as_integers() -> None:
    """Operators left in float round nothing: their results cross at four bytes each."""
    asked = scenario()
    for names, sizes in (({"op0"}, (1, 1, 4)), ({"op1", "op2"}, (1, 4, 1))):
        integer = Variant("S3", chain(quantized=True), "int8", frozenset(names))
        table = CostTable(replace(asked, variants=(asked.variants[0], integer)))
        found = tuple(
            int(table.codec_bytes(QDQ, sort)[0]) // COUNT for sort in (BOTH, MADE, WANTED)
        )
        assert found == sizes


def test_a_shard_without_an_operator_of_integers_is_none_of_int8() -> None:
    """It would be fp32 under another name."""
    asked = scenario()
    integer = Variant("S3", chain(quantized=True), "int8", frozenset({"op1"}))
    table = CostTable(replace(asked, variants=(asked.variants[0], integer)))
    (option,) = table.option("camera", "S3", "int8")
    assert not option.is_allowed[0, 1] and option.is_allowed[0, 2] and option.is_allowed[1, 3]


def test_between_floats_a_codec_is_charged_what_it_loses_at_that_cut() -> None:
    """And at a cut where it was not measured, the worst."""
    asked = scenario()
    assert two(asked, "fp32", "fp32", "uint8").accuracy_drop_pp == 0.1
    steps = [Step("camera", 1, codec="uint8"), Step("gateway", None)]
    assert price_pipeline(CostTable(asked), Goal(), steps).accuracy_drop_pp == 3.0


def test_a_codec_of_floats_between_integers_is_refused_and_the_other_way_round() -> None:
    """What the words of a plan ask for must exist."""
    with pytest.raises(PlanError, match="no codec 'uint8' from int8 to int8"):
        two(scenario(), "int8", "int8", "uint8")
    with pytest.raises(PlanError, match="no codec 'qdq' from fp32 to fp32"):
        two(scenario(), "fp32", "fp32", "qdq")


def test_int8_wins_within_the_accuracy_limit_and_is_refused_beyond_it_by_name() -> None:
    """Four times as fast; half a percentage point."""
    within = plan(scenario(), Goal(max_accuracy_drop_pp=1.0))
    assert within.chosen is not None
    assert describe(within.chosen) == "camera in int8 alone"
    assert within.chosen.accuracy_drop_pp == 0.5
    beyond = plan(scenario(), Goal(max_accuracy_drop_pp=0.3))
    assert beyond.chosen is not None and beyond.chosen.stages[0].precision == "fp32"
    reasons = {one.candidate: one.reason for one in beyond.refusals}
    assert "max_accuracy_drop_pp: 0.5 pp, and 0.3 pp" in reasons["camera in int8"]


def test_what_an_accuracy_point_is_worth_is_weighed_against_time() -> None:
    """The paper's multiplier: 86 ms are gained, for half a point at 200 ms a point."""
    goal = Goal(max_accuracy_drop_pp=1.0, lambda1_s_per_pp=0.2)
    chosen = plan(scenario(), goal).chosen
    assert chosen is not None and chosen.accuracy_drop_pp == 0.0


@pytest.mark.parametrize("profile", [board(has_kernels=False), board(int8="")])
def test_a_profile_without_integer_kernels_or_ceiling_has_no_int8(profile: DeviceProfile) -> None:
    """A ceiling alone would promise what no kernel keeps."""
    table = CostTable(scenario(profile=profile))
    assert {one.precision for one in table.options["camera"]} == {"fp32"}


def test_a_cut_that_the_quantized_graph_lacks_is_still_one_for_floats() -> None:
    """There the floats of t0 are read as well, so its integers alone are no cut."""
    asked = scenario()
    lacking = chain(quantized=True)
    ops = tuple(
        msgspec.structs.replace(op, inputs=("t0", "t0 back")) if op.name == "op1" else op
        for op in lacking.ops
    )
    broken = msgspec.structs.replace(lacking, ops=ops)
    table = CostTable(replace(asked, variants=(asked.variants[0], Variant("S3", broken, "int8"))))
    assert table.is_shard[0, 1] and not table.integer_node[1] and table.integer_node[2]
    with pytest.raises(PlanError, match="no shard in int8"):
        price_pipeline(table, Goal(), [Step("camera", 0, precision="int8"), Step("gateway", None)])


def test_the_reference_and_one_codec_must_be_of_floats() -> None:
    """Raw activations are always possible, and cuts are named by the float model."""
    asked = scenario()
    with pytest.raises(PlanError, match="in floats"):
        replace(asked, variants=asked.variants[::-1])
    with pytest.raises(PlanError, match="in floats"):
        replace(asked, codecs=(QDQ,))


def test_words_name_precision_codec_and_loss() -> None:
    """In the headline, the sentences, and what would change the decision."""
    asked = scenario()
    fleet = msgspec.structs.replace(
        asked.fleet, source="camera",
        device=(Device(name="camera", max_macs=6_000_000), Device(name="gateway")),
    )  # fmt: skip
    asked = replace(asked, fleet=fleet, frames=(FrameCost(codec="raw", nbytes=900_000),))
    goal = Goal(max_accuracy_drop_pp=1.0)
    report = plan(asked, goal)
    assert report.chosen is not None
    assert describe(report.chosen) == (
        "camera in int8 until t0 -> gateway in int8, activations as qdq"
    )
    text = " ".join(explain(report))
    assert "the integers of the int8 shard (qdq)" in text and "pp of accuracy lost" in text
    assert all(
        stage.precision == "fp32"
        for one in compare(CostTable(asked), goal)
        if one.candidate
        for stage in one.candidate.stages
    )
    notes = accuracy_notes(REPORT, report, asked)
    assert "upper end" in notes[0] and "its share" in notes[-1]


def test_a_precision_that_would_win_elsewhere_is_told() -> None:
    """On a slower camera, half a point is worth what it gains."""
    goal, table = Goal(max_accuracy_drop_pp=1.0, lambda1_s_per_pp=0.2), CostTable(scenario())
    flips = find_flips(table, goal, plan(scenario(), goal))
    assert any("camera" in one and "in int8" in one for one in flips)


def test_frames_are_charged_what_was_measured_and_left_out_where_nothing_was() -> None:
    """Raw pixels lose nothing; nobody measured WebP here."""
    frames = [FrameCost(codec=name, nbytes=1) for name in ("raw", "png", "jpeg-90", "webp-80")]
    found = measured_frames(REPORT, frames)
    assert [(one.codec, one.accuracy_drop_pp) for one in found] == [
        ("raw", 0.0), ("png", 0.0), ("jpeg-90", 0.4),
    ]  # fmt: skip
