"""On real models and two devices: equal to trying every candidate cut."""

from pathlib import Path

import pytest

from edgekit.builder.load import load_model
from edgekit.builder.workload import workload_of
from edgekit.planner.cost_table import CostTable
from edgekit.planner.pricing import Bests, objective_value
from edgekit.planner.scenario import Scenario, Variant
from edgekit.planner.search import best_pipeline, plan
from edgekit.spec.fleet import Device, Fleet, Link
from edgekit.spec.planning import CodecCost, FrameCost, Goal
from edgekit.spec.profile import Ceiling, DeviceProfile
from edgekit.spec.workload import Workload
from tests.planner.brute_force import best_value, every_pipeline

pytestmark = pytest.mark.integration
MODELS = Path(__file__).parents[2] / "../shared/data/models"
LAYOUT = ("layout NCHWc16", "Conv+Relu", "Conv+Add", "Conv+Add+Relu", "Sigmoid*x")
UINT8 = CodecCost(
    name="uint8", bytes_per_element=1.0, encode_bytes_per_s=2e9, decode_bytes_per_s=4e9
)
RAW = CodecCost(name="fp32", bytes_per_element=4.0, encode_bytes_per_s=1e12,
                decode_bytes_per_s=1e12)  # fmt: skip


def profile(name: str, rate: int, *fused: str) -> DeviceProfile:
    return DeviceProfile(
        name=name, source="measured", reference="made up", processor="p", memory="4 GB",
        runtime="made up", memory_bandwidth="8 GB/s", launch_overhead="4 us",
        session_overhead="50 us", copy_bandwidth="4 GB/s", fused=fused,
        ceiling=(Ceiling(precision="fp32", compute=f"{rate} Gflop/s"),),
    )  # fmt: skip


def read(name: str) -> Workload:
    path = MODELS / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return workload_of(load_model(path))


def scenario(workload: Workload) -> Scenario:
    return Scenario(
        model=workload.model, model_sha256=workload.model_sha256,
        variants=(Variant("S3", workload),),
        fleet=Fleet(
            name="two", device=(Device(name="camera"), Device(name="gateway", relative_speed=3.0)),
            link=(Link(source="camera", target="gateway", bandwidth="200 Mbit/s"),),
        ),
        profiles={
            "camera": profile("camera", 20, *LAYOUT), "gateway": profile("gateway", 90, *LAYOUT)
        },
        codecs=(RAW, UINT8),
        frames=(FrameCost(codec="jpeg-90", nbytes=40_000, encode_s=4e-3, decode_s=4e-3),),
    )  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "resnet_cifar10/resnet20_cifar10.onnx",
        "yunet/yunet_s_320_320.onnx",
        "onnx_light_structures/light_squeezenet.onnx",
        "fastestdet/FastestDet.onnx",
        "ultraface/version-RFB-320.onnx",
    ],
)
def test_two_devices_share_a_real_model_as_exhaustive_search_would(name: str) -> None:
    """Each shard lowered and predicted alone, with its own copies between layouts."""
    asked = scenario(read(name))
    table = CostTable(asked)
    found = list(every_pipeline(asked, Goal(), sets=list(table.geometries[0].sets[1:-1])))
    bests = (min(one.latency_s for one in found), min(one.interval_s for one in found))
    goals = [
        Goal(),
        Goal(objective="throughput"),
        Goal(objective="balanced"),
        Goal(min_fps=0.8 / bests[1]),
        Goal(objective="throughput", max_latency_s=1.1 * bests[0]),
    ]
    for goal in goals:
        chosen = best_pipeline(table, goal, Bests(*bests))
        assert chosen is not None
        expected = best_value(found, goal, bests)
        assert objective_value(goal, chosen, Bests(*bests)) == pytest.approx(expected, rel=1e-9)


def test_a_detector_of_hundreds_of_operators_is_planned_with_a_bounded_number_of_cuts() -> None:
    """And the report says that some were left out."""
    report = plan(scenario(read("yolox_nano/yolox_nano_416x416.onnx")), Goal())
    assert report.chosen is not None
    assert report.cut_count <= 250
    assert any("thinned" in note for note in report.notes)
    assert {one.family for one in report.alternatives} >= {"whole", "frames", "pipeline", "farm"}
