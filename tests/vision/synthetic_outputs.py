"""Raw outputs of each detector family that hold exactly one known box: the decoders, backwards."""

import math

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
Outputs = dict[str, NDArray[np.float32]]
STRIDES = (8, 16, 32)


def cell_of(box: Box, stride: int, width_px: int) -> tuple[int, int, int]:
    """Column, row and index of the cell that holds the centre of ``box``."""
    x, y = int((box[0] + box[2]) / 2 // stride), int((box[1] + box[3]) / 2 // stride)
    return x, y, y * (width_px // stride) + x


def cells(height_px: int, width_px: int, stride: int) -> int:
    return (height_px // stride) * (width_px // stride)


def yolox(box: Box, score: float, class_id: int, *, size: tuple[int, int], classes: int) -> Outputs:
    stride = 16
    x, y, index = cell_of(box, stride, size[1])
    raw = np.zeros((1, sum(cells(*size, s) for s in STRIDES), 5 + classes), np.float32)
    row = raw[0, cells(*size, 8) + index]
    row[0] = (box[0] + box[2]) / 2 / stride - x
    row[1] = (box[1] + box[3]) / 2 / stride - y
    row[2] = math.log((box[2] - box[0]) / stride)
    row[3] = math.log((box[3] - box[1]) / stride)
    row[4], row[5 + class_id] = 1.0, score
    return {"output": raw}


def ultralytics(
    box: Box, score: float, class_id: int, *, size: tuple[int, int], classes: int
) -> Outputs:
    raw = np.zeros((1, 4 + classes, sum(cells(*size, s) for s in STRIDES)), np.float32)
    raw[0, :4, 7] = (
        (box[0] + box[2]) / 2,
        (box[1] + box[3]) / 2,
        box[2] - box[0],
        box[3] - box[1],
    )
    raw[0, 4 + class_id, 7] = score
    return {"output0": raw}


def fastestdet(
    box: Box, score: float, class_id: int, *, size: tuple[int, int], classes: int
) -> Outputs:
    x, y, _ = cell_of(box, 16, size[1])
    raw = np.zeros((1, 5 + classes, size[0] // 16, size[1] // 16), np.float32)
    cell = raw[0, :, y, x]
    cell[1] = math.atanh((box[0] + box[2]) / 2 / 16 - x)
    cell[2] = math.atanh((box[1] + box[3]) / 2 / 16 - y)
    for channel, share in ((3, (box[2] - box[0]) / size[1]), (4, (box[3] - box[1]) / size[0])):
        cell[channel] = math.log(share / (1 - share))
    cell[0], cell[5 + class_id] = score, score  # score^0.6 * score^0.4
    return {"758": raw}


def nanodet(
    box: Box, score: float, class_id: int, *, size: tuple[int, int], classes: int
) -> Outputs:
    outputs: Outputs = {}
    for stride in STRIDES:
        count = cells(*size, stride)
        outputs[f"cls_pred_stride_{stride}"] = np.zeros((1, count, classes), np.float32)
        outputs[f"dis_pred_stride_{stride}"] = np.zeros((1, count, 32), np.float32)
    x, y, index = cell_of(box, 16, size[1])
    outputs["cls_pred_stride_16"][0, index, class_id] = score
    centre = ((x + 0.5) * 16, (y + 0.5) * 16)
    sides = (centre[0] - box[0], centre[1] - box[1], box[2] - centre[0], box[3] - centre[1])
    bins = outputs["dis_pred_stride_16"][0, index].reshape(4, 8)
    bins[:] = -80.0
    for side, distance_px in enumerate(sides):  # two neighbouring bins whose mean is the distance
        low = int(distance_px / 16)
        share = distance_px / 16 - low
        bins[side, low] = math.log(1 - share)
        bins[side, low + 1] = math.log(share) if share else -80.0
    return outputs


def yunet(box: Box, score: float, class_id: int, *, size: tuple[int, int], classes: int) -> Outputs:
    outputs: Outputs = {}
    for stride in STRIDES:
        for kind, columns in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            shape = (1, cells(*size, stride), columns)
            outputs[f"{kind}_{stride}"] = np.zeros(shape, np.float32)
    x, y, index = cell_of(box, 16, size[1])
    outputs["cls_16"][0, index] = outputs["obj_16"][0, index] = score
    outputs["bbox_16"][0, index] = (
        (box[0] + box[2]) / 2 / 16 - x,
        (box[1] + box[3]) / 2 / 16 - y,
        math.log((box[2] - box[0]) / 16),
        math.log((box[3] - box[1]) / 16),
    )
    return outputs


def ultraface(
    box: Box, score: float, class_id: int, *, size: tuple[int, int], classes: int
) -> Outputs:
    scores = np.zeros((1, 4420, 1 + classes), np.float32)
    scores[..., 0] = 1.0
    boxes = np.zeros((1, 4420, 4), np.float32)
    scores[0, 99, 0], scores[0, 99, 1 + class_id] = 1 - score, score
    boxes[0, 99] = np.array(box) / (size[1], size[0], size[1], size[0])
    return {"scores": scores, "boxes": boxes}


FAMILIES = {
    "yolox": yolox,
    "ultralytics": ultralytics,
    "fastestdet": fastestdet,
    "nanodet": nanodet,
    "yunet": yunet,
    "ultraface": ultraface,
}
ONE_CLASS = {"yunet", "ultraface"}
