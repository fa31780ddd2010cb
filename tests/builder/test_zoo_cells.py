"""From distances in cells to boxes in pixels."""

import torch

from edgekit.builder.zoo.cells import answers, cell_grid, centre_boxes, corner_boxes


def test_cells_come_level_by_level_row_by_row() -> None:
    """The order of the Ultralytics layout, which the decoder relies on only through boxes."""
    grid = cell_grid((4, 8), 8, 16)
    assert grid.centres_px[:, :5].T.tolist() == [[2, 2], [6, 2], [10, 2], [14, 2], [2, 6]]
    assert grid.centres_px[:, 8:].T.tolist() == [[4, 4], [12, 4]]
    assert grid.strides_px.tolist() == [4.0] * 8 + [8.0] * 2


def test_a_box_is_where_its_distances_say() -> None:
    """Left 1, top 0.5, right 2, bottom 1.5 cells of 4 px, seen from the cell at (6, 2)."""
    grid = cell_grid((4,), 4, 8)
    distances = torch.zeros(1, 4, 2)
    distances[0, :, 1] = torch.tensor([1.0, 0.5, 2.0, 1.5])
    assert corner_boxes(distances, grid)[0, :, 1].tolist() == [2.0, 0.0, 14.0, 8.0]
    assert centre_boxes(distances, grid)[0, :, 1].tolist() == [8.0, 4.0, 12.0, 8.0]


def test_training_and_export_read_the_same_box() -> None:
    """Corner form is derived from centre form: there is one decoding."""
    grid = cell_grid((4, 8, 16), 64, 96)
    distances = torch.rand(2, 4, grid.strides_px.numel()) * 5
    corners, centres = corner_boxes(distances, grid), centre_boxes(distances, grid)
    torch.testing.assert_close((corners[:, :2] + corners[:, 2:]) / 2, centres[:, :2])
    torch.testing.assert_close(corners[:, 2:] - corners[:, :2], centres[:, 2:])


def test_answers_hold_boxes_then_probabilities() -> None:
    """Rows 0-3 in pixels, the rest after sigmoid."""
    levels = [(torch.ones(1, 4, 2, 2), torch.zeros(1, 3, 2, 2))]
    out = answers(levels, cell_grid((8,), 16, 16))
    assert out.shape == (1, 7, 4)
    assert out[0, :, 0].tolist() == [4.0, 4.0, 16.0, 16.0, 0.5, 0.5, 0.5]
