"""The main promise: a detector split over two agent processes answers as the whole model does."""

import json
import os
from pathlib import Path

import pytest

from edgekit.builder.load import load_model
from edgekit.builder.probe import to_bytes
from edgekit.fleet.collect import Summary
from edgekit.spec.base import parse_json
from edgekit.spec.fleet import local_fleet
from edgekit.spec.messages import AnswerReport
from edgekit.workflow import DemoOptions, run_demo
from tests.world import (
    DETECTORS,
    Detector,
    data,
    is_same_to_the_last_digit,
    three_cuts,
    unsplit_detections,
)

pytestmark = [pytest.mark.integration]

FRAMES = int(os.environ.get("EDGEKIT_PROOF_FRAMES", "12"))
"""Frames per run; EDGEKIT_PROOF_FRAMES=100000 runs every frame of every video."""


def run_split(
    detector: Detector,
    cut: tuple[str, ...],
    broker: str,
    folder: Path,
    *,
    frames: int = FRAMES,
    device_count: int = 2,
) -> tuple[Summary, list[AnswerReport]]:
    """Real agent processes, Mosquitto, every frame; answers in order of frame number."""
    lines = folder / "answers.jsonl"
    options = DemoOptions(
        model=data(detector.model),
        source=f"file:{data(detector.video)}?frames={frames}",
        fleet=local_fleet(device_count, name=f"proof-{os.getpid()}"),
        cut=cut,
        decoder=detector.decoder,
        broker=broker,
        optimization="extended",
        detections=lines,
        folder=folder,
    )
    summary = run_demo(options, say=lambda text: None, progress=lambda *done: None)
    reports = [
        parse_json(line, AnswerReport, origin=str(lines))
        for line in lines.read_bytes().splitlines()
    ]
    return summary, sorted(reports, key=lambda report: report.frame)


def decoder_of(detector: Detector) -> str:
    """The built-in card that the family of this file has."""
    return {"lightperson": "light_person"}.get(detector.name, detector.name)


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.name)
@pytest.mark.parametrize("which", [0, 1, 2], ids=["early", "late", "multi-tensor"])
@pytest.mark.timeout(3600)
def test_split_detections_equal_those_of_the_whole_model_frame_by_frame(
    detector: Detector, which: int, mosquitto_url: str, tmp_path: Path
) -> None:
    """Exact before fast: the same boxes, labels and scores, to the last printed digit."""
    cut = three_cuts(data(detector.model))[which]
    assert (len(cut.tensors) > 1) == (which == 2)
    summary, reports = run_split(detector, (str(cut),), mosquitto_url, tmp_path)
    source = f"file:{data(detector.video)}?frames={FRAMES}"
    original = unsplit_detections(data(detector.model), source)
    # The same graph in today's form (UltraFace's file of 2019 lets every weight be overridden, so
    # that the runtime cannot merge its BatchNorms): here equality is to the last bit.
    normalised = tmp_path / "whole.onnx"
    normalised.write_bytes(to_bytes(load_model(data(detector.model)).proto))
    whole = unsplit_detections(normalised, source, decoder=decoder_of(detector))
    assert [report.frame for report in reports] == list(range(len(whole)))
    for report, expected, from_file in zip(reports, whole, original, strict=True):
        assert report.detections == expected, f"frame {report.frame} differs"
        assert is_same_to_the_last_digit(report.detections, from_file), f"frame {report.frame}"
    assert summary.frames_captured == summary.frames_answered == len(whole)
    assert summary.frames_dropped == {}
    assert {stage.shard for stage in summary.stages} == {0, 1}
    assert summary.hops[0].bytes == cut.nbytes


@pytest.mark.parametrize("device_count", [1, 3])
def test_one_and_three_devices_answer_as_the_whole_model_does(
    device_count: int, mosquitto_url: str, tmp_path: Path
) -> None:
    """No split at all, and a stage in the middle that passes answers back."""
    detector = DETECTORS[5]
    early, late, _ = three_cuts(data(detector.model))
    cut = (str(early), str(late)) if device_count == 3 else ("none",)
    summary, reports = run_split(detector, cut, mosquitto_url, tmp_path, device_count=device_count)
    source = f"file:{data(detector.video)}?frames={FRAMES}"
    whole = unsplit_detections(data(detector.model), source)
    assert [report.detections for report in reports] == whole
    assert len(summary.stages) == device_count
    assert len(summary.hops) == device_count - 1


def test_the_summary_has_the_documented_keys(mosquitto_url: str, tmp_path: Path) -> None:
    """Scripts read them."""
    cut = three_cuts(data(DETECTORS[5].model))[1]
    summary, _ = run_split(DETECTORS[5], (str(cut),), mosquitto_url, tmp_path, frames=3)
    from edgekit.spec.base import to_json

    document = json.loads(to_json(summary))
    assert set(document) == {
        "frames_captured", "frames_answered", "frames_dropped", "fps", "latency_ms", "stages",
        "hops", "cut", "model", "source",
    }  # fmt: skip
    assert set(document["latency_ms"]) == {"p50", "p95", "p99"}
    assert set(document["stages"][0]) == {"device", "shard", "ms"}
    assert set(document["hops"][0]) == {"from", "to", "bytes", "ms", "encode_ms", "decode_ms"}
