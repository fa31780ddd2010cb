"""Which cell answers for which box, and how wrong it is.

In:   predicted boxes and class logits of every cell, and the truth of each picture.
Out:  one loss.  Every operation is deterministic on the CPU.
Source: task-aligned assignment after Feng et al., "TOOD", ICCV 2021, as in the YOLOv8 loss;
complete IoU after Zheng et al., AAAI 2020. Boxes narrower than a cell also take cells
whose centre is near, because a helmet of 6 px often lies between the centres of stride 8.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

CANDIDATES = 10
SCORE_POWER, OVERLAP_POWER = 0.5, 6.0
NEAR_STRIDES = 0.75
"""On the finest level, a cell this many strides from a box's centre may always answer for it."""
AREA_LOG = math.log(16.0)
"""A box 16 times as large as another gives way to it even where it overlaps fully."""
LEAST_TARGET = 0.25
"""What a box asks of its best cell while nothing overlaps it yet."""
BOX_GAIN, CLASS_GAIN = 2.0, 1.0
BACKGROUND_GAIN = 0.75


def complete_iou(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and complete IoU of boxes x1 y1 x2 y2, broadcast over leading axes."""
    low = torch.maximum(one[..., :2], other[..., :2])
    high = torch.minimum(one[..., 2:], other[..., 2:])
    overlap = (high - low).clamp(min=0).prod(dim=-1)
    size_one = (one[..., 2:] - one[..., :2]).clamp(min=1e-6)
    size_other = (other[..., 2:] - other[..., :2]).clamp(min=1e-6)
    union = size_one.prod(dim=-1) + size_other.prod(dim=-1) - overlap
    iou = overlap / union.clamp(min=1e-6)
    hull = torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])
    diagonal = hull.square().sum(dim=-1).clamp(min=1e-6)
    offset = (one[..., :2] + one[..., 2:] - other[..., :2] - other[..., 2:]) / 2
    distance = offset.square().sum(dim=-1) / diagonal
    angle = torch.atan(size_other[..., 0] / size_other[..., 1]) - torch.atan(
        size_one[..., 0] / size_one[..., 1]
    )
    shape = 4 / math.pi**2 * angle.square()
    with torch.no_grad():
        weight = shape / (1 - iou + shape).clamp(min=1e-6)
    return iou, iou - distance - weight * shape


@torch.no_grad()
def assign(
    boxes: Tensor, scores: Tensor, centres: Tensor, strides: Tensor, truth: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor]:
    """Choose the cells that answer for each true box.

    Shapes: boxes (B, A, 4) and scores (B, A, C) predicted; centres (A, 2) and strides (A,) in px;
    truth (B, M, 4), classes (B, M) with -1 for unused rows.
    Returns: for each cell the row of its box (B, A), -1 for background, and its target score
        (B, A).
    """
    middle, half = (truth[..., :2] + truth[..., 2:]) / 2, (truth[..., 2:] - truth[..., :2]) / 2
    near = _near(middle, half, centres, strides) & (classes >= 0)[:, :, None]
    # Only these (picture, box, cell) triples can matter: some thousands out of millions.
    picture, row, cell = near.nonzero(as_tuple=True)
    own, answer = truth[picture, row], boxes[picture, cell]
    overlap = complete_iou(own, answer)[0]
    score = scores[picture, cell, classes[picture, row]]
    spread = ((centres[cell] - middle[picture, row]) / (half[picture, row] + 4)).square().sum(-1)
    # Before anything overlaps, nearness decides; the term is too small to matter later.
    fit = score.pow(SCORE_POWER) * overlap.pow(OVERLAP_POWER) + 1e-9 / (1 + spread)
    table = torch.zeros(near.shape).index_put_((picture, row, cell), fit)
    least = table.topk(min(CANDIDATES, table.shape[-1]), dim=-1).values[..., -1]
    chosen = fit >= least[picture, row]
    # A cell wanted by two boxes goes to the one it overlaps more, unless that is much larger and
    # so has cells enough: a helmet must not lose its cells to its wearer.
    area = (own[:, 2:] - own[:, :2]).prod(dim=-1)
    claim = torch.where(chosen, overlap - area.log() / AREA_LOG, -torch.inf)
    table = torch.full(near.shape, -torch.inf).index_put_((picture, row, cell), claim)
    strongest, winner = table.max(dim=1)
    kept = chosen & (winner[picture, cell] == row)
    picture, row, cell, fit, overlap = (each[kept] for each in (picture, row, cell, fit, overlap))
    peak = torch.zeros(near.shape).index_put_((picture, row, cell), fit).amax(dim=-1)
    reached = torch.zeros(near.shape).index_put_((picture, row, cell), overlap).amax(dim=-1)
    ask = fit / peak[picture, row] * reached[picture, row].clamp(min=LEAST_TARGET)
    target = torch.zeros(boxes.shape[:2]).index_put_((picture, cell), ask)
    return torch.where(torch.isfinite(strongest), winner, -1), target


def _near(middle: Tensor, half: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Cells that may answer for each box: their centre is inside it. Shape (B, M, A).

    On the finest level also cells beside the middle of a box that is smaller than they are.
    """
    finest = torch.where(strides == strides.min(), NEAR_STRIDES * strides, 0.0)
    inside = [
        (centres[None, None, :, axis] - middle[:, :, None, axis]).abs()
        < torch.maximum(half[:, :, None, axis], finest)
        for axis in (0, 1)
    ]
    return inside[0] & inside[1]


def _varifocal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy that attends to objects and to false alarms.

    A plain sum is ruled by ten thousand cells of easy background: helmets, a handful of cells in a
    batch, then take thousands of steps to be noticed at all.
    Source: Zhang et al., "VarifocalNet", CVPR 2021, equation 2.
    """
    alarm = BACKGROUND_GAIN * logits.detach().sigmoid().square()
    weight = torch.where(wanted > 0, wanted, alarm)
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return weight * entropy


def detection_loss(
    boxes: Tensor, logits: Tensor, centres: Tensor, strides: Tensor, truth: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss per picture, with its box and class parts for the log. Shapes as in ``assign``."""
    rows, targets = assign(
        boxes.detach(), logits.detach().sigmoid(), centres, strides, truth, classes
    )
    positive = rows >= 0
    row = rows.clamp(min=0)
    label = classes.clamp(min=0).gather(1, row)
    wanted = functional.one_hot(label, logits.shape[-1]) * (targets * positive)[..., None]
    total = wanted.sum().clamp(min=1.0)
    class_loss = _varifocal(logits, wanted.to(logits.dtype)).sum() / total
    own = truth.gather(1, row[..., None].expand(-1, -1, 4))
    _, ciou = complete_iou(boxes, own)
    box_loss = ((1 - ciou) * targets).sum() / total
    return BOX_GAIN * box_loss + CLASS_GAIN * class_loss, box_loss.detach(), class_loss.detach()
