"""Training pictures for the yard sample: rendered once, then cropped and varied for every step.

In:   seeds of scenes; a step number.  Out: frames with boxes; batches of network inputs with boxes.
Deterministic: a frame depends on its seed, a batch on (training seed, step), whatever the number of
worker processes.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import cv2
import numpy as np
from numpy.typing import NDArray

from edgekit.spec.card import InputCard
from edgekit.vision.preprocess import preprocess
from edgekit.vision.scene.yard import FIRST_TRAINING_SEED, LABELS, YardScene

Image = NDArray[np.uint8]
Boxes = NDArray[np.float32]

FRAMES_PER_SCENE = 8
FRAME_STEP = 151
"""Frames of one scene are taken 5 s apart: everybody has moved on."""
CROP_WIDTH_PX, CROP_HEIGHT_PX = 256, 192
_VISIBLE_SHARE = 0.5
_SIDE_LEAST_PX = 3.0


@dataclass(frozen=True, slots=True)
class LabelledFrame:
    """A frame. Shapes: image (H, W, 3) uint8 BGR; boxes (N, 4) x1 y1 x2 y2; classes (N,)."""

    image: Image
    boxes: Boxes
    classes: NDArray[np.int64]


def render_scene(seed: int) -> list[LabelledFrame]:
    """The frames of one training scene."""
    cv2.setNumThreads(1)
    scene = YardScene(seed)
    frames = []
    for index in range(FRAMES_PER_SCENE):
        image, truth = scene.render(index * FRAME_STEP)
        boxes = np.array([d.box for d in truth], np.float32).reshape(-1, 4)
        classes = np.array([LABELS.index(d.label) for d in truth], np.int64)
        frames.append(LabelledFrame(image, boxes, classes))
    return frames


def render_scenes(seed: int, count: int, worker_count: int) -> Iterator[list[LabelledFrame]]:
    """Frames of ``count`` training scenes, in order, rendered in worker processes.

    ``seed`` is the training's own: different trainings see different scenes, never held-out ones.
    """
    first = FIRST_TRAINING_SEED * (1 + seed)
    seeds = range(first, first + count)
    if worker_count < 1:
        yield from map(render_scene, seeds)
        return
    with ProcessPoolExecutor(worker_count, mp_context=get_context("spawn")) as pool:
        yield from pool.map(render_scene, seeds, chunksize=4)


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's input. Shapes: images (B, 3, h, w); boxes (B, M, 4); classes (B, M), -1 unused."""

    images: NDArray[np.float32]
    boxes: Boxes
    classes: NDArray[np.int64]


def draw_batch(
    frames: list[LabelledFrame], card: InputCard, size: int, seed: int, step: int
) -> Batch:
    """The batch of one step: crops around people and helmets, flipped, scaled and recoloured."""
    rng = np.random.Generator(np.random.PCG64([seed, step]))
    crops = [_crop(frames[int(rng.integers(len(frames)))], rng) for _ in range(size)]
    images = np.concatenate([
        preprocess(c.image, card, height_px=CROP_HEIGHT_PX, width_px=CROP_WIDTH_PX) for c in crops
    ])  # fmt: skip
    most = max(1, *(len(c.classes) for c in crops))
    boxes = np.zeros((size, most, 4), np.float32)
    classes = np.full((size, most), -1, np.int64)
    for index, crop in enumerate(crops):
        boxes[index, : len(crop.boxes)] = crop.boxes
        classes[index, : len(crop.classes)] = crop.classes
    return Batch(images, boxes, classes)


def _crop(frame: LabelledFrame, rng: np.random.Generator) -> LabelledFrame:
    """A piece of a frame at a random scale, moved so that it is likely to show someone."""
    scale = float(np.exp(rng.uniform(np.log(0.8), np.log(1.35))))
    rows, columns = frame.image.shape[:2]
    width, height = CROP_WIDTH_PX / scale, CROP_HEIGHT_PX / scale
    centre = rng.uniform(0, 1, 2) * (columns, rows)
    if len(frame.boxes) and rng.random() < 0.8:
        box = frame.boxes[int(rng.integers(len(frame.boxes)))]
        spread = rng.uniform(-0.45, 0.45, 2) * (width, height)
        centre = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]) + spread
    left = float(np.clip(centre[0] - width / 2, 0, max(columns - width, 0)))
    top = float(np.clip(centre[1] - height / 2, 0, max(rows - height, 0)))
    mirror = bool(rng.random() < 0.5)
    # Pixel centres lie on halves: that is what the added terms are for.
    matrix = np.array([
        [scale, 0, (0.5 - left) * scale - 0.5], [0, scale, (0.5 - top) * scale - 0.5]
    ])  # fmt: skip
    size = (CROP_WIDTH_PX, CROP_HEIGHT_PX)
    image = cv2.warpAffine(
        frame.image, matrix, size, flags=cv2.INTER_LINEAR, borderValue=(114, 114, 114)
    )
    boxes, kept = _move_boxes(frame.boxes, scale, left, top)
    if mirror:
        image = image[:, ::-1]
        boxes[:, [0, 2]] = CROP_WIDTH_PX - boxes[:, [2, 0]]
    return LabelledFrame(_recolour(image, rng), boxes[kept], frame.classes[kept])


def _move_boxes(
    boxes: Boxes, scale: float, left: float, top: float
) -> tuple[Boxes, NDArray[np.bool_]]:
    """Boxes in the crop, cut at its edges, and which of them still show enough to count."""
    moved = (boxes - np.array([left, top, left, top], np.float32)) * np.float32(scale)
    limit = np.array([CROP_WIDTH_PX, CROP_HEIGHT_PX] * 2, np.float32)
    inside = np.clip(moved, 0, limit)
    sides, whole = inside[:, 2:] - inside[:, :2], moved[:, 2:] - moved[:, :2]
    share = sides.prod(axis=1) / np.maximum(whole.prod(axis=1), 1e-6)
    return inside, (share >= _VISIBLE_SHARE) & (sides.min(axis=1) >= _SIDE_LEAST_PX)


def _recolour(image: Image, rng: np.random.Generator) -> Image:
    """Another exposure, white balance and, at times, no colour at all."""
    levels = np.arange(256) / 255
    gamma = float(np.exp(rng.uniform(-0.25, 0.25)))
    gains = float(rng.uniform(0.75, 1.25)) * rng.uniform(0.93, 1.07, 3)
    table = np.clip(255 * gains * levels[:, None] ** gamma, 0, 255).astype(np.uint8)
    changed = cv2.LUT(np.ascontiguousarray(image), table[None])
    if rng.random() < 0.04:
        changed = cv2.cvtColor(cv2.cvtColor(changed, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return np.asarray(changed, np.uint8)
