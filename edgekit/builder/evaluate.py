"""How good detections are: average precision at an overlap of one half.

In:   detections and truth per frame, as ``edgekit.spec.messages.Detection``.
Out:  AP50 per label, 0..1.
Never touches files or models; pycocotools does the counting.
Source: Lin et al., "Microsoft COCO", ECCV 2014; the COCO detection evaluation at IoU 0.50.
"""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edgekit.errors import ConfigError
from edgekit.spec.messages import Detection

MAX_DETECTIONS = 300
"""Per frame and label; more are cut off, lowest scores first."""


def average_precision_50(
    predictions: Sequence[Sequence[Detection]],
    truths: Sequence[Sequence[Detection]],
    labels: Sequence[str],
    *,
    area_px2: tuple[float, float] = (0.0, float("inf")),
) -> dict[str, float]:
    """AP at IoU 0.50 for each label, over all frames together.

    predictions, truths: one sequence of boxes per frame, the same frames in the same order.
    area_px2: only truth boxes from the first area up to the second count; others, and detections
        of other sizes that match nothing, are neither right nor wrong (COCO's rule).
    Returns: label -> AP in 0..1; nan for a label without any truth box that counts.
    Raises: ConfigError if the numbers of frames differ or a label is given twice.
    """
    if len(predictions) != len(truths):
        raise ConfigError(
            f"{len(predictions)} frames of detections for {len(truths)} frames of truth",
            hint="give one list per frame on both sides, empty where nothing is seen",
        )
    if len(set(labels)) != len(labels):
        raise ConfigError(f"labels {list(labels)} repeat", hint="name each label once")
    evaluation = _evaluate(predictions, truths, labels, area_px2)
    if evaluation is None:
        return {label: float("nan") for label in labels}
    # Axes: overlap, recall, class, area, detections per frame; -1 where there is no truth.
    precision: np.ndarray[Any, Any] = evaluation.eval["precision"][0, :, :, 0, 0]
    means = precision.mean(axis=0).tolist()
    return {
        label: mean if mean >= 0 else float("nan")
        for label, mean in zip(labels, means, strict=True)
    }


def _evaluate(
    predictions: Sequence[Sequence[Detection]],
    truths: Sequence[Sequence[Detection]],
    labels: Sequence[str],
    area_px2: tuple[float, float],
) -> Any:
    """A finished COCOeval, or None when no truth box has one of the labels."""
    class_ids = {label: index + 1 for index, label in enumerate(labels)}
    annotations = _records(truths, class_ids)
    if not annotations:
        return None
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports by printing
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": frame} for frame in range(len(truths))],
            "categories": [{"id": number, "name": name} for name, number in class_ids.items()],
            "annotations": annotations,
        }
        truth.createIndex()
        found = COCO()
        found.dataset = {**truth.dataset, "annotations": _records(predictions, class_ids)}
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.imgIds = list(range(len(truths)))
        evaluation.params.catIds = list(class_ids.values())
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng = [[area_px2[0], min(area_px2[1], 1e10)]]
        evaluation.params.areaRngLbl = ["asked"]
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _records(
    frames: Sequence[Sequence[Detection]], class_ids: dict[str, int]
) -> list[dict[str, Any]]:
    """COCO's form of every box with a known label; ids count from 1, as COCOeval needs."""
    records: list[dict[str, Any]] = []
    for frame, detections in enumerate(frames):
        for detection in detections:
            if detection.label not in class_ids:
                continue
            x1, y1, x2, y2 = detection.box
            records.append(
                {
                    "id": len(records) + 1,
                    "image_id": frame,
                    "category_id": class_ids[detection.label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "score": detection.score,
                    "iscrowd": 0,
                }
            )
    return records
