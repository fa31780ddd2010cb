"""What integration tests share: real data, real cuts, and the unsplit model to compare with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgekit.builder.load import load_model
from edgekit.builder.workload import workload_of
from edgekit.planner.cuts import legal_cuts
from edgekit.planner.dag import Dag
from edgekit.planner.kernel_groups import inner_names
from edgekit.runtime.ort import OrtSession
from edgekit.spec.agent_config import Optimization
from edgekit.spec.messages import Detection
from edgekit.spec.plan import Cut
from edgekit.vision.answers import detections_of
from edgekit.vision.cards import resolve_card
from edgekit.vision.preprocess import preprocess
from edgekit.vision.sources import EndOfSource, open_source

DATA = Path(__file__).parent.parent / "../shared/data"


def data(relative: str) -> Path:
    """A real file of ../shared/data, or a skip with the reason."""
    path = DATA / relative
    if not path.exists():
        pytest.skip(f"needs ../shared/data/{relative}")
    return path


def is_same_to_the_last_digit(
    one: tuple[Detection, ...], other: tuple[Detection, ...], *, digits: int = 1
) -> bool:
    """Same labels in the same order; scores and boxes within ``digits`` of their last digit."""
    if [found.label for found in one] != [found.label for found in other]:
        return False
    for a, b in zip(one, other, strict=True):
        score_off = abs(a.score - b.score) / 1e-4
        box_off = max(abs(p - q) for p, q in zip(a.box, b.box, strict=True)) / 1e-2
        if max(score_off, box_off) > digits + 0.01:
            return False
    return True


@dataclass(frozen=True)
class Detector:
    """A real pretrained detector and the video it is tried on."""

    name: str
    model: str
    video: str
    decoder: str | None = None


DETECTORS = (
    Detector(
        "fastestdet", "models/fastestdet/FastestDet.onnx", "video/vtest_pedestrians/vtest.mp4"
    ),
    Detector(
        "yolox",
        "models/yolox_nano/yolox_nano_416x416.onnx",
        "video/intel_bottle/bottle-detection.mp4",
    ),
    Detector(
        "nanodet",
        "models/nanodet_m/nanodet_m_320.onnx",
        "video/intel_one_by_one_person/one-by-one-person-detection.mp4",
    ),
    Detector("yunet", "models/yunet/yunet_n_320_320.onnx", "video/intel_asl/help.mkv"),
    Detector("ultraface", "models/ultraface/version-RFB-320.onnx", "video/intel_asl/eat.mkv"),
    Detector(
        "lightperson",
        "models/light_person_detector/light_person_detector.onnx",
        "video/vtest_pedestrians/vtest.mp4",
    ),
)


def three_cuts(model: Path) -> tuple[Cut, Cut, Cut]:
    """An early and a late single-tensor cut, and a multi-tensor cut near the middle.

    None lies inside what the runtime merges into one kernel: there a cut is exact to 1e-5, not to
    the last bit.
    """
    workload = workload_of(load_model(model))
    inner = inner_names(Dag(workload))
    cuts = [cut for cut in legal_cuts(workload).cuts if inner.isdisjoint(cut.names)]
    single = [cut for cut in cuts if len(cut.tensors) == 1]
    multi = [cut for cut in cuts if len(cut.tensors) > 1]

    def nearest(candidates: Sequence[Cut], share: float) -> Cut:
        target = share * workload.work_flop
        return min(candidates, key=lambda cut: abs(cut.work_flop_before - target))

    return nearest(single, 0.25), nearest(single, 0.7), nearest(multi, 0.5)


def unsplit_detections(
    model: Path, source: str, *, decoder: str | None = None, optimization: Optimization = "extended"
) -> list[tuple[Detection, ...]]:
    """What one plain ONNX Runtime session of the file ``model`` finds in every frame."""
    session = OrtSession(model, optimization=optimization)
    card, _ = resolve_card(model, decoder=decoder, inputs=session.inputs, outputs=session.outputs)
    (model_input,) = session.inputs
    height_px, width_px = model_input.shape[2:]
    opened, found = open_source(source), []
    try:
        while True:
            image = opened.read().image
            tensor = preprocess(image, card.input, height_px=height_px, width_px=width_px)
            outputs = session.run({model_input.name: tensor})
            found.append(
                detections_of(
                    outputs,
                    card,
                    model_input=model_input,
                    source_height_px=image.shape[0],
                    source_width_px=image.shape[1],
                )
            )
    except EndOfSource:
        return found
    finally:
        opened.close()
