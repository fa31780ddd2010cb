"""The plain server and its client as processes of their own, on a fleet without namespaces."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import DeviceError
from edgekit.spec.card import ModelCard, OutputCard
from edgekit.spec.fleet import Device, Fleet, Link
from edgekit.spec.planning import Goal, PlanReport
from tests.bench.versus_plans import Planned, Ways
from tests.bench.versus_runs import served
from tests.bench.versus_world import Workload
from tests.testbed.plain import PlainBed

pytestmark = pytest.mark.integration
FLEET = Fleet(
    name="two",
    device=(Device(name="camera"), Device(name="gateway", relative_speed=3.0)),
    link=(Link(source="camera", target="gateway"),),
    host_speed=6.0,
)
FRAMES = 12


def network(path: Path) -> None:
    """One convolution that finds the same box with a score of 0.9 in each of 16 cells."""
    weights = np.zeros((5, 3, 8, 8), np.float32)
    bias = np.array([16, 16, 8, 8, 0.9], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["cells"], strides=[8, 8]),
            helper.make_node("Reshape", ["cells", "shape"], ["y"]),
        ],
        "boxes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5, 16])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(bias, "b"),
            numpy_helper.from_array(np.array([1, 5, 16]), "shape"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))


@pytest.fixture
def ways(tmp_path: Path) -> Ways:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((32, 32, 3), 80 * number, np.uint8))
    network(tmp_path / "whole.onnx")
    output = OutputCard(decoder="ultralytics", strides=(8,), score_threshold=0.5)
    report = PlanReport(
        model="m", model_sha256="0", fleet="two", goal=Goal(), chosen=None
    )  # fmt: skip
    return Ways(
        fleet=FLEET,
        workload=Workload(
            name="boxes", detector="", model=tmp_path / "m.pt", folder=folder, truth=((),) * 3,
            card=ModelCard(name="m", labels=("a",), output=output), labels=("a",),
        ),
        home=tmp_path,
        planned=Planned(report=report, candidates={}, notes={}, deadline_ms=1.0, emulated=""),
    )  # fmt: skip


def test_every_frame_comes_back_with_what_the_model_finds(ways: Ways, tmp_path: Path) -> None:
    source = ways.workload.source(FRAMES)
    done = served(PlainBed(FLEET), ways, source, "http", tmp_path, in_flight=2)
    assert sorted(report.frame for report in done.reports) == list(range(FRAMES))
    assert done.accounts.frames_answered == FRAMES
    (found,) = done.reports[0].detections
    assert found.label == "a"
    assert found.score == pytest.approx(0.9, abs=1e-3)
    assert found.box == pytest.approx((12, 12, 20, 20), abs=0.1)


def test_a_server_that_cannot_start_is_an_error_with_a_reason(ways: Ways, tmp_path: Path) -> None:
    (tmp_path / "whole.onnx").write_bytes(b"no model")
    with pytest.raises(DeviceError, match="did not begin to answer"):
        served(PlainBed(FLEET), ways, ways.workload.source(1), "http", tmp_path, in_flight=1)
