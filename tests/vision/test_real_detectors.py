"""Real detectors on real video: the numbers of the verified recipes, through our own code.

Thresholds lie a little below what the recipes reached (person AP50 on the 69 labelled frames;
frames with exactly one face in four clips of one signer each).
"""

import csv
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from average_precision import average_precision

from edgekit.runtime.ort import OrtSession
from edgekit.spec.card import ModelCard
from edgekit.spec.messages import Detection
from edgekit.spec.tensors import TensorSpec
from edgekit.vision.answers import detections_of
from edgekit.vision.cards import resolve_card
from edgekit.vision.preprocess import preprocess
from edgekit.vision.sources import EndOfSource, Frame, open_source

DATA = Path(__file__).parents[2] / "../shared/data"
VTEST = DATA / "video/vtest_pedestrians"
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the real models and videos in {DATA}"),
]
Detect = Callable[[Frame], tuple[Detection, ...]]


def detector(model: str, *, size: tuple[int, int] | None = None, **output: float) -> Detect:
    """Model, recognised card and preprocessing as one function of a frame."""
    path = DATA / "models" / model
    session = OrtSession(path)
    card, how = resolve_card(path, decoder=None, inputs=session.inputs, outputs=session.outputs)
    assert "recognised" in how
    card = msgspec.structs.replace(card, output=msgspec.structs.replace(card.output, **output))
    given = session.inputs[0]
    shape = given.shape if size is None else (1, 3, *size)
    return _detect(session, card, TensorSpec(name=given.name, dtype=given.dtype, shape=shape))


def _detect(session: OrtSession, card: ModelCard, model_input: TensorSpec) -> Detect:
    height_px, width_px = model_input.shape[2:]

    def detect(frame: Frame) -> tuple[Detection, ...]:
        tensor = preprocess(frame.image, card.input, height_px=height_px, width_px=width_px)
        return detections_of(
            session.run({model_input.name: tensor}),
            card,
            model_input=model_input,
            source_height_px=frame.image.shape[0],
            source_width_px=frame.image.shape[1],
        )

    return detect


def frames_of(uri: str) -> list[Frame]:
    source, frames = open_source(uri), []
    try:
        while True:
            frames.append(source.read())
    except EndOfSource:
        assert source.problem == ""
        return frames


@pytest.fixture(scope="module")
def pedestrians() -> tuple[list[Frame], dict[int, np.ndarray]]:
    """The labelled frames and their boxes; frame 1 of the labels is frame 0 of the video."""
    boxes: dict[int, list[tuple[float, ...]]] = {}
    with (VTEST / "gt_frames1-69_480x360.csv").open() as file:
        for row in csv.DictReader(file):
            x, y, width, height = (float(row[key]) for key in ("x", "y", "w", "h"))
            boxes.setdefault(int(row["frame"]) - 1, []).append((x, y, x + width, y + height))
    frames = frames_of(f"file:{VTEST}/vtest.mp4?frames=69")
    assert len(frames) == 69
    return frames, {number: np.array(rows) for number, rows in boxes.items()}


@pytest.mark.parametrize(
    ("model", "score_threshold", "ap", "recall"),
    [
        ("fastestdet/FastestDet.onnx", 0.05, 0.68, 0.75),
        ("yolox_nano/yolox_nano_416x416.onnx", 0.05, 0.82, 0.88),
        ("yolox_nano/yolox_nano_416x416.onnx", 0.30, 0.80, 0.84),
        ("nanodet_m/nanodet_m_320.onnx", 0.05, 0.75, 0.85),
        ("light_person_detector/light_person_detector.onnx", 0.05, 0.60, 0.66),
    ],
)
def test_people_are_found_as_well_as_the_recipe_found_them(
    pedestrians: tuple[list[Frame], dict[int, np.ndarray]],
    model: str,
    score_threshold: float,
    ap: float,
    recall: float,
) -> None:
    """One pixel of offset, a wrong channel order or a wrong mean costs far more than the margin."""
    frames, truth = pedestrians
    detect = detector(model, score_threshold=score_threshold)
    found = {
        frame.number: [one for one in detect(frame) if one.label == "person"] for frame in frames
    }
    measured = average_precision(found, truth)
    assert measured[0] >= ap, measured
    assert measured[1] >= recall, measured


@pytest.mark.parametrize(
    ("model", "size", "score_threshold", "count"),
    [
        ("yunet/yunet_n_320_320.onnx", None, 0.5, 76),
        ("yunet/yunet_n_320_320.onnx", None, 0.6, 77),
        ("yunet/yunet_s_320_320.onnx", None, 0.5, 75),
        ("yunet/yunet_n_dynamic.onnx", (256, 320), 0.6, 76),
        ("ultraface/version-RFB-320.onnx", None, 0.7, 77),
        ("ultraface/version-slim-320.onnx", None, 0.6, 65),
    ],
)
def test_a_signer_has_one_face(
    signers: list[Frame],
    model: str,
    size: tuple[int, int] | None,
    score_threshold: float,
    count: int,
) -> None:
    detect = detector(model, size=size, score_threshold=score_threshold)
    faces = [detect(frame) for frame in signers]
    assert len(faces) == 78
    assert sum(len(found) == 1 for found in faces) >= count


@pytest.fixture(scope="module")
def signers() -> list[Frame]:
    """Every third of the 233 frames of the four clips."""
    clips = sorted((DATA / "video/intel_asl").glob("*.mkv"))
    frames = [frame for clip in clips for frame in frames_of(str(clip))]
    assert len(frames) == 233
    return frames[::3]


@pytest.mark.parametrize(
    ("video", "count"),
    [
        ("vtest_pedestrians/vtest.mp4", 795),
        ("intel_one_by_one_person/one-by-one-person-detection.mp4", 1394),
        ("intel_bottle/bottle-detection.mp4", 1189),
    ],
)
def test_every_frame_of_a_real_video_is_read(video: str, count: int) -> None:
    source = open_source(str(DATA / "video" / video), start_frame=count - 5)
    with pytest.raises(EndOfSource):
        for number in range(count - 5, count + 1):
            assert source.read().number == number
    assert source.info.frame_count == count
    assert source.problem == ""


def test_a_real_video_cut_short_ends_with_a_report(tmp_path: Path) -> None:
    """Its index lies at the front, so it opens and ends early."""
    short = tmp_path / "short.mp4"
    short.write_bytes((VTEST / "vtest.mp4").read_bytes()[:1_000_000])
    source = open_source(str(short))
    with pytest.raises(EndOfSource):
        for _ in range(795):
            source.read()
    assert "of 795 frames" in source.problem
