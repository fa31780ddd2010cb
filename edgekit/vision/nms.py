"""From scored candidates to detections: class-wise NMS, clip, order.

In: boxes in source pixels that passed the threshold, their best class, its score.  Out: Detections.
Pure and repeatable: candidates keep the order of the model's rows, equal scores keep that order.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgekit.spec.card import OutputCard
from edgekit.vision.detections import Detections
from edgekit.vision.geometry import Geometry

MAX_CANDIDATES = 3000
"""Enter NMS at most; bounds its time (quadratic) when a threshold is set near 0."""


def suppress(
    boxes_px: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    *,
    card: OutputCard,
    geometry: Geometry,
) -> Detections:
    """The best of overlapping boxes of one class, clipped to the source, best score first.

    Shapes: boxes_px (N, 4) x1 y1 x2 y2 in source pixels, unclipped; scores (N,); class_ids (N,).
    A box that lies outside the source, or has no area in it, is left out.
    """
    if len(scores) > MAX_CANDIDATES:
        best = np.sort(np.argsort(-scores, kind="stable")[:MAX_CANDIDATES])
        boxes_px, scores, class_ids = boxes_px[best], scores[best], class_ids[best]
    clipped = geometry.clip(boxes_px)
    inside = np.all(clipped[:, 2:] > clipped[:, :2], axis=1)
    boxes_px, clipped = boxes_px[inside], clipped[inside]
    scores, class_ids = scores[inside], class_ids[inside]
    kept = _nms(boxes_px, scores, class_ids, card.nms_iou)
    kept = kept[np.argsort(-scores[kept], kind="stable")][: card.max_detections]
    return Detections(
        boxes_px=np.ascontiguousarray(clipped[kept], np.float32),
        scores=scores[kept].astype(np.float32, copy=False),
        class_ids=class_ids[kept].astype(np.int64, copy=False),
    )


def _nms(
    boxes_px: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    iou: float,
) -> NDArray[np.int64]:
    """Indices kept, in row order. OpenCV wants x, y, width, height."""
    if not len(scores):
        return np.zeros(0, np.int64)
    rectangles = boxes_px.astype(np.float64)
    rectangles[:, 2:] -= rectangles[:, :2]
    # The threshold is already applied; a negative one keeps a score of exactly 0.
    nms: Any = cv2.dnn.NMSBoxesBatched  # its type stubs know lists only, it takes arrays
    kept = nms(rectangles, scores.astype(np.float32), class_ids.astype(np.int32), -1.0, iou)
    return np.sort(np.asarray(kept, np.int64).reshape(-1))
