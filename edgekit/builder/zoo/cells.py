"""From distances in cells to boxes in pixels; the one place, for training and for export.

In:  distances to the left, top, right and bottom side, in units of the cell's stride, and the grid
of cells of an input size.  Out: boxes in input pixels.  Cells come level by level, row by row.
Source: Tian et al., "FCOS", ICCV 2019, section 3.1; the layout is that of Ultralytics v8.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class CellGrid:
    """Where each of N cells looks. Shapes: centres_px (2, N), x then y; strides_px (N,)."""

    centres_px: Tensor
    strides_px: Tensor


def cell_grid(strides: Sequence[int], height_px: int, width_px: int) -> CellGrid:
    """All cells of an input of this size, float32 on the CPU."""
    centres, sizes = [], []
    for stride in strides:
        rows, columns = height_px // stride, width_px // stride
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centres.append((torch.stack([x.flatten(), y.flatten()]) + 0.5) * stride)
        sizes.append(torch.full((rows * columns,), float(stride)))
    return CellGrid(centres_px=torch.cat(centres, dim=1), strides_px=torch.cat(sizes))


def flat_levels(levels: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Join the levels of a detector.

    Shapes: per level (B, 4, h, w) and (B, C, h, w).
    Returns: distances (B, 4, N) and class logits (B, C, N).
    """
    return (
        torch.cat([distances.flatten(2) for distances, _ in levels], dim=2),
        torch.cat([logits.flatten(2) for _, logits in levels], dim=2),
    )


def centre_boxes(distances: Tensor, grid: CellGrid) -> Tensor:
    """Boxes as centre x, centre y, width, height.

    Shapes: distances (B, 4, N) left, top, right, bottom, in cells. Returns: (B, 4, N) in px.
    """
    before, after = distances[:, :2], distances[:, 2:]
    centres = (after - before) / 2 * grid.strides_px + grid.centres_px
    return torch.cat([centres, (before + after) * grid.strides_px], dim=1)


def corner_boxes(distances: Tensor, grid: CellGrid) -> Tensor:
    """As centre_boxes, as x1, y1, x2, y2."""
    boxes = centre_boxes(distances, grid)
    half = boxes[:, 2:] / 2
    return torch.cat([boxes[:, :2] - half, boxes[:, :2] + half], dim=1)


def answers(levels: Sequence[tuple[Tensor, Tensor]], grid: CellGrid) -> Tensor:
    """Ultralytics v8 layout: centre x, centre y, width, height in px, then class probabilities.

    Shapes: as flat_levels. Returns: (B, 4 + C, N).
    """
    distances, logits = flat_levels(levels)
    return torch.cat([centre_boxes(distances, grid), logits.sigmoid()], dim=1)
