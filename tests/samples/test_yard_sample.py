import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from edgekit.builder.checkpoint import load_checkpoint
from edgekit.builder.zoo.table6 import Table6Detector
from edgekit.spec.base import load
from edgekit.spec.card import ModelCard
from edgekit.spec.fleet import Fleet
from edgekit.vision.cards import load_card
from edgekit.vision.scene.yard import FIRST_TRAINING_SEED, LABELS

YARD = Path(__file__).parents[2] / "samples" / "yard"


@pytest.fixture(autouse=True)
def _sample_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its scripts import each other as they do when run from the command line."""
    monkeypatch.syspath_prepend(str(YARD))


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


def frame_with(*boxes: tuple[int, int, int, int]) -> Any:
    """A dark frame in which each box is a white rectangle."""
    image = np.full((400, 640, 3), 20, np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 255
    return script("yard_frames").LabelledFrame(
        image, np.array(boxes, np.float32).reshape(-1, 4), np.ones(len(boxes), np.int64)
    )


def test_no_training_scene_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores on scenes that were trained on would say nothing."""
    frames, seen = script("yard_frames"), []
    monkeypatch.setattr(frames, "render_scene", lambda seed: seen.append(seed) or [])
    for seed in (0, 1, 7):
        list(frames.render_scenes(seed, 500, worker_count=0))
    assert min(seen) >= FIRST_TRAINING_SEED
    assert len(set(seen)) == 1500


def test_boxes_follow_their_pixels_through_every_variation() -> None:
    """Crop, scale and mirror move picture and boxes alike, to a pixel: helmets have only six."""
    frames = script("yard_frames")
    frame, checked = frame_with((300, 200, 340, 260)), 0
    for step in range(60):
        crop = frames._crop(frame, np.random.Generator(np.random.PCG64(step)))
        assert crop.image.shape == (frames.CROP_HEIGHT_PX, frames.CROP_WIDTH_PX, 3)
        bright = crop.image.min(axis=2) > 110
        if len(crop.boxes) == 0:
            continue
        rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
        seen = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert np.abs(crop.boxes[0] - seen).max() <= 1.0
        checked += 1
    assert checked > 20


def test_a_batch_depends_on_seed_and_step_only() -> None:
    """So a resumed training sees what an uninterrupted one would have seen."""
    frames, card = script("yard_frames"), load(YARD / "yard.toml", ModelCard)
    material = [frame_with((100, 100, 130, 180)), frame_with(), frame_with((9, 9, 15, 15))]
    one, same, next_one = (
        frames.draw_batch(material, card.input, 4, 3, step) for step in (5, 5, 6)
    )
    assert (one.images == same.images).all()
    assert (one.boxes == same.boxes).all()
    assert (one.images != next_one.images).any()
    assert one.images.shape == (4, 3, frames.CROP_HEIGHT_PX, frames.CROP_WIDTH_PX)
    assert one.images.min() >= 0.0
    assert one.images.max() <= 1.0


def grid() -> tuple[torch.Tensor, torch.Tensor]:
    from edgekit.builder.zoo.cells import cell_grid

    cells = cell_grid((4, 8, 16), 192, 256)
    return cells.centres_px.T, cells.strides_px


def test_a_helmet_and_its_wearer_both_get_cells() -> None:
    """The helmet lies inside the person's box; neither may lose all its cells to the other."""
    loss = script("yard_loss")
    centres, strides = grid()
    truth = torch.tensor([[[101.0, 41.0, 107.0, 46.0], [95.0, 40.0, 113.0, 90.0]]])
    for boxes in (
        torch.cat([centres - 8, centres + 8], dim=1)[None],  # as before training
        truth[0, 1].expand(len(centres), 4)[None],  # everything says: the person
    ):
        scores = torch.full((1, len(centres), 2), 0.01)
        rows, targets = loss.assign(boxes, scores, centres, strides, truth, torch.tensor([[0, 1]]))
        assert (rows == 0).any()
        assert (rows == 1).any()
        assert (targets[rows >= 0] > 0).all()
        assert (targets[rows < 0] == 0).all()
        assert all(targets[rows == row].max() >= loss.LEAST_TARGET for row in (0, 1))


def test_a_box_between_cell_centres_still_gets_a_cell() -> None:
    """A box of 2 px contains no centre of stride 4 at most places."""
    loss = script("yard_loss")
    centres, strides = grid()
    boxes = torch.cat([centres - 8, centres + 8], dim=1)[None]
    scores = torch.full((1, len(centres), 2), 0.01)
    for x in (40 + half / 2 for half in range(32)):
        truth = torch.tensor([[[x, 60.0, x + 2.0, 62.0]]])
        rows, _ = loss.assign(boxes, scores, centres, strides, truth, torch.tensor([[0]]))
        assert (rows == 0).any()


def test_unused_rows_and_empty_pictures_teach_background_only() -> None:
    """Padding must never become an object."""
    loss = script("yard_loss")
    centres, strides = grid()
    boxes = torch.cat([centres - 8, centres + 8], dim=1)[None].requires_grad_()
    logits = torch.zeros(1, len(centres), 2, requires_grad=True)
    total, box, _ = loss.detection_loss(
        boxes, logits, centres, strides, torch.zeros(1, 3, 4), torch.full((1, 3), -1)
    )
    total.backward()
    assert float(box) == 0.0
    assert logits.grad is not None
    assert (logits.grad > 0).all()


def test_complete_iou_is_one_for_equal_boxes_and_falls_with_distance() -> None:
    """Also where boxes no longer touch: plain IoU has no slope there."""
    loss = script("yard_loss")
    box = torch.tensor([10.0, 10.0, 16.0, 16.0])
    values = [float(loss.complete_iou(box, box + shift)[1]) for shift in (0.0, 2.0, 8.0, 30.0)]
    assert values[0] == pytest.approx(1.0, abs=1e-6)
    assert values == sorted(values, reverse=True)
    assert float(loss.complete_iou(box, box + 30.0)[0]) == 0.0


def run_training(out: Path, *options: str) -> bytes:
    arguments = ["--out", str(out), "--batch", "3", "--scenes", "1", "--workers", "0"]
    result = CliRunner().invoke(
        script("train").main, [*arguments, "--threads", "1", *options], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return out.read_bytes()


@pytest.mark.integration
def test_training_repeats_itself_and_survives_an_interruption(tmp_path: Path) -> None:
    """The same seed gives the same bytes, in one go or in pieces; another seed does not."""
    whole = run_training(tmp_path / "a.pt", "--steps", "4")
    assert run_training(tmp_path / "b.pt", "--steps", "4") == whole
    partial = run_training(tmp_path / "c.pt", "--steps", "4", "--minutes", "0")
    assert partial != whole
    assert (tmp_path / "c.resume").is_file()
    assert run_training(tmp_path / "c.pt", "--steps", "4", "--resume") == whole
    assert not (tmp_path / "c.resume").exists()
    assert run_training(tmp_path / "d.pt", "--steps", "4", "--seed", "1") != whole


@pytest.mark.integration
def test_resuming_needs_a_saved_state_of_the_same_recipe(tmp_path: Path) -> None:
    """Going on with other options would end in weights that no command describes."""
    out = tmp_path / "e.pt"
    arguments = ["--out", str(out), "--scenes", "1", "--workers", "0", "--batch", "2"]
    main = script("train").main
    missing = CliRunner().invoke(main, [*arguments, "--resume"])
    assert missing.exit_code == 1
    assert "train without --resume first" in missing.output
    run_training(out, "--steps", "3", "--minutes", "0")
    other = CliRunner().invoke(main, [*arguments, "--steps", "9", "--resume"])
    assert other.exit_code == 1
    assert "give the same options" in other.output


def test_the_card_and_the_fleet_are_what_the_model_needs() -> None:
    """Card, scene and network must name the same classes and levels."""
    card = load_card(YARD / "yard.toml")
    model = load_checkpoint(YARD / "yard.pt")
    assert isinstance(model, Table6Detector)
    assert card.labels == LABELS
    assert card.output.strides == model.strides
    assert model.config.class_count == len(LABELS)
    fleet = load(YARD / "fleet.toml", Fleet)
    assert [device.name for device in fleet.device] == ["camera", "gateway"]
    assert fleet.device[0].relative_speed < fleet.device[1].relative_speed
    assert fleet.link_between("camera", "gateway") is not None


def test_the_committed_weights_are_small() -> None:
    """They live in the repository."""
    assert (YARD / "yard.pt").stat().st_size <= 4_000_000


@pytest.mark.integration
def test_the_committed_weights_see_held_out_scenes() -> None:
    """Folded and in ONNX Runtime, on scenes new to them; the README has the full run."""
    evaluation = script("evaluate").evaluate(YARD / "yard.pt", frame_count=24)
    found = evaluation.precisions()["all"]
    assert found["person"] >= 0.85
    assert found["helmet"] >= 0.8
