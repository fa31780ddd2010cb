"""The demo without a page, as scripts and CI use it: the sample model, the embedded broker."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(170)]


def test_the_sample_runs_headless_and_writes_summary_detections_and_video(tmp_path: Path) -> None:
    """Nothing from outside the repository: no model, no broker, no camera."""
    summary, lines, video = (tmp_path / name for name in ("s.json", "d.jsonl", "v.mp4"))
    done = subprocess.run(
        [
            sys.executable, "-m", "edgekit", "demo", "--headless", "--frames", "20",
            "--source", "scene:yard?seed=7&mode=every", "--json", str(summary),
            "--detections", str(lines), "--save", str(video),
        ],
        capture_output=True, text=True, timeout=160, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(summary.read_text())
    assert document["frames_captured"] == document["frames_answered"] == 20
    assert document["frames_dropped"] == {}
    assert len(document["stages"]) == 2 and len(document["hops"]) == 1
    assert document["hops"][0]["bytes"] > 0 and document["cut"]
    answers = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [answer["frame"] for answer in answers] == list(range(20))
    labels = {found["label"] for answer in answers for found in answer["detections"]}
    assert labels == {"helmet", "person"}
    capture = cv2.VideoCapture(str(video))
    count = 0
    while capture.read()[0]:
        count += 1
    capture.release()
    assert count == 20
    assert not list(tmp_path.glob(".*"))


def test_unequal_emulated_devices_and_an_unsplit_run(tmp_path: Path) -> None:
    """A camera four times slower than its gateway; then everything on one device."""
    for options, stage_count in ((["--devices", "camera=1,gateway=4"], 2), (["--cut", "none"], 1)):
        summary = tmp_path / "s.json"
        done = subprocess.run(
            [
                sys.executable, "-m", "edgekit", "demo", "--headless", "--frames", "8",
                "--source", "scene:yard?mode=every", "--json", str(summary), *options,
            ],
            capture_output=True, text=True, timeout=80, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        document = json.loads(summary.read_text())
        assert document["frames_answered"] == 8
        assert len(document["stages"]) == stage_count
