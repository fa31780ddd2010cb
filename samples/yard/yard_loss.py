"""Which cell answers for which box, and how wrong it is.

In:   predicted boxes and class logits of every cell, and the truth of each picture.
Out:  one loss.  Every operation is deterministic on the CPU.
Source: task-aligned assignment after Feng et al., "TOOD", ICCV 2021, as in the YOLOv8 loss; complete
IoU after Zheng et al., AAAI 2020. Boxes narrower than a cell also take cells whose centre is
near, because a helmet of 6 px often lies between the centres of stride 8.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

CANDIDATES = 10
SCORE_POWER, OVERLAP_POWER = 0.5, 6.0
NEAR_STRIDES = 0.75
"""On the finest level, a cell this many strides from a box's centre may always answer for it."""
BOX_GAIN, CLASS_GAIN = 7.5, 0.5


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
    Returns: for each cell the row of its box (B, A), -1 for background, and its target score (B, A).
    """
    used = classes >= 0
    low, high = truth[..., :2], truth[..., 2:]
    middle, half = (low + high) / 2, (high - low) / 2
    finest = (strides == strides.min()).to(truth.dtype) * NEAR_STRIDES * strides
    reach = torch.maximum(half[:, :, None], finest[None, None, :, None])
    near = ((centres[None, None] - middle[:, :, None]).abs() < reach).all(dim=-1)
    near &= used[:, :, None]
    iou, _ = complete_iou(truth[:, :, None], boxes[:, None])
    picked = scores.transpose(1, 2).gather(
        1, classes.clamp(min=0)[:, :, None].expand(-1, -1, scores.shape[1])
    )
    fit = picked.pow(SCORE_POWER) * iou.pow(OVERLAP_POWER) * near
    # Before anything overlaps, nearness decides; too small to matter later.
    spread = ((centres[None, None] - middle[:, :, None]) / (half[:, :, None] + 4)).square().sum(-1)
    fit = fit + 1e-9 * near / (1 + spread)
    best = fit.topk(min(CANDIDATES, fit.shape[-1]), dim=-1)
    mask = torch.zeros_like(fit).scatter(-1, best.indices, 1.0).bool() & near
    contested = torch.where(mask, iou + 1e-6, torch.zeros_like(iou))
    strongest, row = contested.max(dim=1)
    taken = strongest > 0
    own = mask & (row[:, None] == torch.arange(truth.shape[1])[None, :, None])
    fit, overlap = fit * own, iou * own
    peak = fit.amax(dim=-1, keepdim=True).clamp(min=1e-12)
    target = (fit / peak * overlap.amax(dim=-1, keepdim=True)).amax(dim=1)
    return torch.where(taken, row, -1), target


def detection_loss(
    boxes: Tensor, logits: Tensor, centres: Tensor, strides: Tensor, truth: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss per picture, with its box and class parts for the log. Shapes as in ``assign``."""
    rows, targets = assign(boxes.detach(), logits.detach().sigmoid(), centres, strides, truth, classes)
    positive = rows >= 0
    row = rows.clamp(min=0)
    label = classes.clamp(min=0).gather(1, row)
    wanted = functional.one_hot(label, logits.shape[-1]) * (targets * positive)[..., None]
    total = wanted.sum().clamp(min=1.0)
    class_loss = functional.binary_cross_entropy_with_logits(
        logits, wanted.to(logits.dtype), reduction="sum"
    ) / total
    own = truth.gather(1, row[..., None].expand(-1, -1, 4))
    _, ciou = complete_iou(boxes, own)
    # At least a little weight, so that boxes learn before they overlap anything.
    weight = torch.where(positive, targets.clamp(min=0.05), torch.zeros_like(targets))
    box_loss = ((1 - ciou) * weight).sum() / total
    return BOX_GAIN * box_loss + CLASS_GAIN * class_loss, box_loss.detach(), class_loss.detach()
