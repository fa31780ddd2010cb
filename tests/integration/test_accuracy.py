"""Accuracy through the split pipeline, on labelled frames: it must not move boxes."""

import csv
from pathlib import Path

import pytest

from edgekit.builder.evaluate import average_precision_50
from edgekit.spec.messages import Detection
from tests.integration.test_split_equals_whole import run_split
from tests.world import DETECTORS, Detector, data

FRAMES = 69
TRUTH = "video/vtest_pedestrians/gt_frames1-69_480x360.csv"


def pedestrians() -> list[tuple[Detection, ...]]:
    """The labelled boxes of the first 69 frames."""
    boxes: list[list[Detection]] = [[] for _ in range(FRAMES)]
    with data(TRUTH).open() as rows:
        for row in csv.DictReader(rows):
            x, y, width, height = (float(row[key]) for key in ("x", "y", "w", "h"))
            box = (x, y, x + width, y + height)
            boxes[int(row["frame"]) - 1].append(Detection(label="person", score=1.0, box=box))
    return [tuple(found) for found in boxes]


@pytest.mark.integration
def test_person_ap50_of_split_yolox_nano_on_labelled_pedestrians_is_at_least_080(
    mosquitto_url: str, tmp_path: Path
) -> None:
    """Unsplit: 0.83 (../shared/data/MODELS.md)."""
    detector = Detector("yolox", DETECTORS[1].model, "video/vtest_pedestrians/vtest.mp4")
    _, reports = run_split(detector, ("auto",), mosquitto_url, tmp_path, frames=FRAMES)
    found = [tuple(one for one in report.detections if one.label == "person") for report in reports]
    assert len(found) == FRAMES
    precision = average_precision_50(found, pedestrians(), ("person",))["person"]
    assert precision >= 0.80
