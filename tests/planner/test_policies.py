"""Baseline planners: each decides as its authors say, and none is better than our plan."""

import dataclasses
import itertools

import pytest

from edgekit.builder.load import load_model
from edgekit.builder.plan_inputs import variants_of
from edgekit.planner.ablations import ablate
from edgekit.planner.cost_table import CostTable
from edgekit.planner.policies import POLICIES, compare
from edgekit.planner.pricing import Bests, Step, objective_value, price_pipeline
from edgekit.planner.scenario import Scenario, Variant
from edgekit.planner.search import plan, plan_with
from edgekit.planner.two_devices import by_strength, pair_of, reference_curve, roofs
from edgekit.profiler.library import load_profile, shipped_folder
from edgekit.spec.fleet import Device, Fleet, Link
from edgekit.spec.planning import Candidate, FrameCost, Goal
from edgekit.spec.profile import Ceiling, DeviceProfile
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.workload import KernelShape, OpCost, Workload
from tests.planner.brute_force import random_scenario
from tests.world import data

FRAMES = (
    FrameCost(codec="raw", nbytes=60_000),
    FrameCost(codec="jpeg-90", nbytes=9_000, encode_s=1e-4, decode_s=1e-4),
)


def network(channels: tuple[int, ...], sizes: tuple[int, ...]) -> Workload:
    """A chain of 3x3 convolutions; entry i has ``channels[i]`` and ``sizes[i]`` px a side."""
    tensors = [
        TensorSpec(name=f"t{i}", dtype="float32", shape=(1, channels[i], sizes[i], sizes[i]))
        for i in range(len(channels))
    ]
    ops = []
    for index, (given, made) in enumerate(itertools.pairwise(tensors)):
        weights = 9 * given.shape[1] * made.shape[1]
        ops.append(
            OpCost(
                name=f"conv{index}",
                op_type="Conv",
                inputs=(given.name,),
                outputs=(made.name,),
                work_flop=2 * weights * made.shape[2] ** 2,
                traffic_bytes=4 * weights + given.nbytes + made.nbytes,
                weight_bytes=4 * weights,
                parameter_count=weights,
                kernel=KernelShape(
                    key=f"Conv 3x3 s{given.shape[2] // made.shape[2]} d1 dense",
                    sizes=(given.shape[1], made.shape[1], made.shape[2], made.shape[2], 1),
                ),
            )
        )
    return Workload(
        model="chain",
        model_sha256="0" * 64,
        ops=tuple(ops),
        tensors=tuple(tensors),
        inputs=("t0",),
        outputs=(tensors[-1].name,),
    )


def board(name: str, gflops: float, gbytes: float) -> DeviceProfile:
    return DeviceProfile(
        name=name,
        source="datasheet",
        reference="test",
        processor="test",
        memory="4 GB",
        memory_bandwidth=f"{gbytes} GB/s",
        ceiling=(Ceiling(precision="fp32", compute=f"{gflops} Gflop/s"),),
    )


PROFILES = {
    "camera": board("camera", 10, 4),
    "hub": board("hub", 40, 10),
    "box": board("box", 90, 20),
}
MODEL = network((3, 16, 32, 32, 64, 64, 8), (64, 64, 32, 32, 16, 16, 8))


def scenario(*names: str, bandwidth: str = "100 Mbit/s", **more: object) -> Scenario:
    """``MODEL`` on some of the three boards, all linked; frames begin at the first."""
    links = tuple(
        Link(source=one, target=other, bandwidth=bandwidth)
        for index, one in enumerate(names)
        for other in names[index + 1 :]
    )
    fleet = Fleet(name="test", device=tuple(Device(name=name) for name in names), link=links)
    ready = Scenario(
        model="chain",
        model_sha256="0" * 64,
        variants=(Variant("S3", MODEL),),
        fleet=fleet,
        profiles={name: PROFILES[name] for name in names},
        frames=FRAMES,
    )
    return dataclasses.replace(ready, **more)  # type: ignore[arg-type]


def decided(world: Scenario, policy: str, goal: Goal | None = None) -> Candidate:
    return POLICIES[policy](CostTable(world), goal or Goal())


def assert_never_worse(table: CostTable, goal: Goal) -> None:
    """No baseline that keeps the limits has a smaller objective than our plan."""
    results = compare(table, goal)
    assert [one.policy for one in results] == list(POLICIES)
    report = plan_with(table, goal)
    bests = Bests(latency_s=report.best_latency_s, interval_s=report.best_interval_s)
    for result in results:
        if result.candidate is None or result.note:
            assert result.note
            continue
        assert report.chosen is not None, result
        own, other = (
            objective_value(goal, one, bests) for one in (report.chosen, result.candidate)
        )
        assert own <= other * (1 + 1e-9), (result.policy, str(result.candidate))


def test_the_pair_is_the_source_and_the_strongest_other_device() -> None:
    """Whatever the order of the fleet file."""
    table = CostTable(scenario("camera", "hub", "box"))
    assert by_strength(table) == ["box", "hub", "camera"]
    assert pair_of(table) == ("camera", "box")
    assert pair_of(CostTable(scenario("box", "camera", "hub"))) == ("box", "hub")


def test_a_source_that_runs_nothing_gives_way_to_the_second_strongest() -> None:
    """A camera without a processor: two others share the model."""
    world = scenario("camera", "hub", "box")
    devices = (Device(name="camera", can_run=False), *world.fleet.device[1:])
    fleet = Fleet(name="test", device=devices, link=world.fleet.link)
    assert pair_of(CostTable(dataclasses.replace(world, fleet=fleet))) == ("hub", "box")


def test_edge_only_runs_everything_on_the_strongest_device() -> None:
    """And sends the frame in the faster way: here as JPEG."""
    found = decided(scenario("camera", "hub", "box"), "edge-only")
    assert found.devices == ("box",)
    assert [hop.codec for hop in found.hops if hop.carries == "frame"] == ["jpeg-90"]


def test_edge_only_sends_raw_frames_where_that_is_faster() -> None:
    """On a fast link coding costs more than it saves."""
    found = decided(scenario("camera", "box", bandwidth="10 Gbit/s"), "edge-only")
    assert [hop.codec for hop in found.hops if hop.carries == "frame"] == ["raw"]


def test_jpeg_to_server_never_uses_the_source() -> None:
    """Even where the source is the strongest device."""
    found = decided(scenario("box", "camera", "hub"), "jpeg-to-server")
    assert found.devices == ("hub",)
    assert [hop.codec for hop in found.hops if hop.carries == "frame"] == ["jpeg-90"]


def test_jpeg_to_server_without_a_jpeg_says_so() -> None:
    """Unknown bytes are not guessed."""
    (result,) = (
        one
        for one in compare(CostTable(scenario("camera", "box", frames=())), Goal())
        if one.policy == "jpeg-to-server"
    )
    assert result.candidate is None
    assert "JPEG" in result.note


@pytest.mark.parametrize("bandwidth", ["1 Mbit/s", "100 Mbit/s", "10 Gbit/s"])
def test_neurosurgeon_is_the_fastest_of_all_single_cuts(bandwidth: str) -> None:
    """Enumerated here in plain words: on the source, on the server, or cut at any tensor."""
    world = scenario("camera", "box", bandwidth=bandwidth)
    table = CostTable(world)
    last = [Step(device="box", until=None)]
    options = [last, [Step(device="camera", until=None)]]
    options += [
        [Step(device="camera", until=index, codec="fp32"), *last]
        for index in range(len(table.cuts))
    ]
    best_s = min(price_pipeline(table, Goal(), one).latency.time_s for one in options)
    assert decided(world, "neurosurgeon").latency.time_s == pytest.approx(best_s)


def test_mpms_may_choose_another_helper_than_the_strongest() -> None:
    """The strongest device is behind a slow link."""
    world = scenario("camera", "hub", "box")
    links = (
        Link(source="camera", target="hub", bandwidth="1 Gbit/s"),
        Link(source="camera", target="box", bandwidth="1 Mbit/s"),
    )
    fleet = Fleet(name="test", device=world.fleet.device, link=links)
    found = decided(dataclasses.replace(world, fleet=fleet), "mpms")
    assert "hub" in found.devices
    assert "box" not in found.devices


def test_sidd_cuts_in_the_middle_of_the_work() -> None:
    """As near as any single-tensor cut comes."""
    found = decided(scenario("camera", "box"), "sidd")
    share = found.stages[0].work_flop / MODEL.work_flop
    possible = [
        cut.work_flop_before / MODEL.work_flop for cut in CostTable(scenario("camera", "box")).cuts
    ]
    assert abs(share - 0.5) == pytest.approx(min(abs(one - 0.5) for one in possible))


def test_roofsplit_keeps_both_sub_models_right_of_their_ridges() -> None:
    """If any cut does: I_1 >= pi_1 / beta_1 and I_2 >= pi_2 / beta_2."""
    table = CostTable(scenario("camera", "box"))
    found = POLICIES["roofsplit"](table, Goal())
    curve = reference_curve(table)
    ridges = [compute / memory for compute, memory in (roofs(table, "camera"), roofs(table, "box"))]
    allowed = {
        table.cuts[index].work_flop_before
        for index, (above, below) in enumerate(zip(*curve.intensities, strict=True))
        if above >= ridges[0] and below >= ridges[1]
    }
    assert allowed
    assert found.stages[0].work_flop in allowed


def test_roofsplit_without_such_a_cut_takes_the_best_of_all() -> None:
    """A device whose ridge lies beyond the model's intensity must not make it absurd."""
    fast = {"camera": board("camera", 9000, 1), "box": board("box", 9000, 1)}
    world = scenario("camera", "box", profiles=fast)
    table = CostTable(world)
    found = POLICIES["roofsplit"](table, Goal(objective="throughput"))
    options = [
        [Step(device="camera", until=index), Step(device="box", until=None)]
        for index in range(len(table.cuts))
    ]
    best_s = min(price_pipeline(table, Goal(), one).interval_s for one in options)
    assert found.interval_s <= 1.5 * best_s


def test_a_broken_limit_is_named() -> None:
    """SIDD knows no limits; its result says which one it breaks."""
    results = compare(CostTable(scenario("camera", "box")), Goal(max_latency_s=1e-6))
    notes = {one.policy: one.note for one in results}
    assert "max_latency_s" in notes["sidd"]


def test_one_device_leaves_policies_for_two_without_a_plan() -> None:
    """Only the whole model on that device remains, and the notes say why."""
    results = {one.policy: one for one in compare(CostTable(scenario("camera")), Goal())}
    assert results["edge-only"].candidate is not None
    assert results["sidd"].candidate is None
    assert "fewer than two devices" in results["sidd"].note


@pytest.mark.parametrize("bandwidth", ["1 Mbit/s", "30 Mbit/s", "1 Gbit/s", "100 Gbit/s"])
@pytest.mark.parametrize("goal", [
    Goal(objective="latency"),
    Goal(objective="throughput"),
    Goal(objective="throughput", max_latency_s=0.02),
    Goal(objective="latency", min_fps=60),
    Goal(objective="latency", arrival_fps=20),
    Goal(objective="balanced"),
])  # fmt: skip
def test_ours_is_never_worse_than_any_baseline(bandwidth: str, goal: Goal) -> None:
    """On three boards, over five orders of magnitude of bandwidth."""
    assert_never_worse(CostTable(scenario("camera", "hub", "box", bandwidth=bandwidth)), goal)


@pytest.mark.parametrize("seed", range(40))
def test_ours_is_never_worse_on_random_instances(seed: int) -> None:
    """DAGs with skips, missing and one-way links, strategies, codecs, lossy precisions."""
    table = CostTable(random_scenario(seed))
    for objective in ("latency", "throughput", "balanced"):
        assert_never_worse(table, Goal(objective=objective, max_accuracy_drop_pp=seed % 3))


def test_ours_is_never_worse_than_its_ablations() -> None:
    """An idea taken away can only hurt."""
    world = scenario("camera", "hub", "box")
    for goal in (Goal(objective="latency"), Goal(objective="throughput")):
        chosen = plan(world, goal).chosen
        assert chosen is not None
        for result in ablate(world, goal):
            assert result.candidate is not None, result
            assert objective_value(goal, chosen) <= objective_value(goal, result.candidate) + 1e-12


@pytest.mark.integration
@pytest.mark.parametrize("model", [
    "yolox_nano/yolox_nano_416x416.onnx",
    "ultraface/version-RFB-320.onnx",
    "mobilenet_v2_int8/mobilenet_v2_quant.onnx",
    "resnet_cifar10/resnet20_cifar10.onnx",
    "onnx_light_structures/light_squeezenet.onnx",
])  # fmt: skip
@pytest.mark.parametrize("bandwidth", ["10 Mbit/s", "1 Gbit/s"])
def test_ours_is_never_worse_on_real_models(model: str, bandwidth: str) -> None:
    """Two Raspberry Pis and a Jetson's processor, from their datasheets."""
    names = ("raspberry-pi-4", "raspberry-pi-5", "jetson-nano")
    variants = variants_of(load_model(data(f"models/{model}")))
    links = tuple(
        Link(source=one, target=other, bandwidth=bandwidth)
        for one, other in itertools.combinations(names, 2)
    )
    world = Scenario(
        model=model,
        model_sha256=variants[0].workload.model_sha256,
        variants=variants,
        fleet=Fleet(name="real", device=tuple(Device(name=name) for name in names), link=links),
        profiles={name: load_profile(name, folders=[shipped_folder()]) for name in names},
        frames=FRAMES,
    )
    table = CostTable(world)
    for objective in ("latency", "throughput", "balanced"):
        assert_never_worse(table, Goal(objective=objective))
