"""Average precision at IoU 0.5, as PASCAL VOC 2010 defines it, for one class.

Source: Everingham et al., "The PASCAL Visual Object Classes Challenge", IJCV 88(2), 2010, sec. 4.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.spec.messages import Detection

Boxes = NDArray[np.float64]


def average_precision(
    found: Mapping[int, Sequence[Detection]], truth: Mapping[int, Boxes], *, iou: float = 0.5
) -> tuple[float, float]:
    """AP and recall over the frames of ``truth``; boxes x1 y1 x2 y2."""
    hits: list[bool] = []
    taken = {frame: np.zeros(len(boxes), bool) for frame, boxes in truth.items()}
    ranked = sorted(
        ((detection.score, frame, detection.box) for frame in truth for detection in found[frame]),
        key=lambda item: -item[0],
    )
    for _, frame, box in ranked:
        overlaps = _overlaps(np.array(box), truth[frame])
        best = int(overlaps.argmax()) if len(overlaps) else -1
        hit = best >= 0 and overlaps[best] >= iou and not taken[frame][best]
        if hit:
            taken[frame][best] = True
        hits.append(bool(hit))
    if not hits:
        return 0.0, 0.0
    correct = np.cumsum(hits)
    recall = correct / sum(map(len, truth.values()))
    precision = correct / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(np.concatenate([[0.0], recall]))
    return float((envelope * steps).sum()), float(recall[-1])


def _overlaps(box: Boxes, others: Boxes) -> Boxes:
    if not len(others):
        return np.zeros(0)
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - shared
    overlap: Boxes = shared / union
    return overlap
