"""The Table VI detector on blood cells: trained here, in minutes, from the yard's weights.

In:  BCCD of ../shared/data, its train and val pictures at half size; samples/yard (weights to begin
with, loss, crops).  Out: a checkpoint that ``edgekit build`` takes, and its card.
Platelets are the small objects: some 20 px at half size. 900 steps of 16 crops, seed 0, one thread,
took 9 minutes of one core. The weights are no release: the bench keeps them in its own folder.

    python tests/bench/versus_cells.py --out FOLDER [--steps 900]
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "samples/yard"))

import cv2
import numpy as np
import torch
from train import learning_rate, predict  # type: ignore[import-not-found]
from yard_frames import LabelledFrame, draw_batch  # type: ignore[import-not-found]
from yard_loss import detection_loss  # type: ignore[import-not-found]

from edgekit.builder.checkpoint import load_checkpoint, save_checkpoint
from edgekit.builder.zoo.table6 import Table6Detector
from edgekit.spec.base import save
from edgekit.spec.card import InputCard, ModelCard, OutputCard
from edgekit.spec.messages import Detection
from tests.world import DATA

ROOT = Path(__file__).parents[2]
BCCD = DATA / "datasets/bccd/BCCD"
LABELS = ("RBC", "WBC", "Platelets")
SCALE = 0.5
INPUT_SHAPE = (1, 3, 256, 320)
CARD = ModelCard(
    name="cells",
    labels=LABELS,
    input=InputCard(scale=1 / 255),
    output=OutputCard(decoder="ultralytics", score_threshold=0.35, nms_iou=0.5, strides=(4, 8, 16)),
    licence="MIT",
)
WEIGHTS, CARD_FILE = "cells.pt", "cells.toml"
_AVERAGE_DECAY = 0.995


def names_of(split: str) -> list[str]:
    """Names of the pictures of "train", "val" or "test"."""
    return (BCCD / f"ImageSets/Main/{split}.txt").read_text().split()


def boxes_of(name: str) -> tuple[Detection, ...]:
    """What is in a picture; boxes that are degenerate in the file are left out."""
    found = []
    for item in ElementTree.parse(BCCD / f"Annotations/{name}.xml").iter("object"):
        corners = [float(item.findtext(f"bndbox/{key}", "0")) for key in CORNERS]
        x1, y1, x2, y2 = np.clip(corners, 0, (640, 480, 640, 480)).tolist()
        if x2 > x1 and y2 > y1:
            label = item.findtext("name", "")
            found.append(Detection(label=label, score=1.0, box=(x1, y1, x2, y2)))
    return tuple(found)


CORNERS = ("xmin", "ymin", "xmax", "ymax")


def labelled(names: Sequence[str]) -> list[LabelledFrame]:
    """Pictures at half size with their boxes."""
    frames = []
    for name in names:
        image = cv2.imread(str(BCCD / f"JPEGImages/{name}.jpg"))
        small = cv2.resize(image, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_AREA)
        truth = boxes_of(name)
        boxes = SCALE * np.array([one.box for one in truth], np.float32).reshape(-1, 4)
        classes = np.array([LABELS.index(one.label) for one in truth], np.int64)
        frames.append(LabelledFrame(np.asarray(small, np.uint8), boxes.astype(np.float32), classes))
    return frames


def first_model(seed: int) -> Table6Detector:
    """A detector of cells whose backbone, neck and box branch are those of the yard."""
    torch.manual_seed(seed)
    model = Table6Detector(class_count=len(LABELS), seed=seed, input_shape=INPUT_SHAPE)
    own = model.state_dict()
    known = load_checkpoint(ROOT / "samples/yard/yard.pt").state_dict()
    own.update({k: v for k, v in known.items() if k in own and v.shape == own[k].shape})
    model.load_state_dict(own)
    return model


def train(model: Table6Detector, steps: int, batch: int, seed: int) -> dict[str, Any]:
    """Learn; returns the moving average of the weights."""
    frames = labelled([*names_of("train"), *names_of("val")])
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.02)
    average = {key: value.clone() for key, value in model.state_dict().items()}
    started_s = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        one = draw_batch(frames, CARD.input, batch, seed, step)
        images = torch.from_numpy(one.images).contiguous(memory_format=torch.channels_last)
        boxes, logits, centres, strides = predict(model, images)
        loss, box, kind = detection_loss(
            boxes, logits, centres, strides,
            torch.from_numpy(one.boxes), torch.from_numpy(one.classes),
        )  # fmt: skip
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        for key, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                average[key].lerp_(value, 1 - min(_AVERAGE_DECAY, (1 + step) / (10 + step)))
            else:
                average[key].copy_(value)
        if step % 50 == 49:
            spent_s = time.monotonic() - started_s
            left_min = spent_s / (step + 1) * (steps - step - 1) / 60
            print(
                f"step {step + 1} of {steps}: box {float(box):.3f}, class {float(kind):.3f}, "
                f"{left_min:.1f} min left",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    return average


def main() -> None:
    """Train, write weights and card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not BCCD.is_dir():
        raise SystemExit(f"needs {BCCD}")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    model = first_model(arguments.seed)
    model.load_state_dict(train(model, arguments.steps, arguments.batch, arguments.seed))
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_checkpoint(model.eval(), arguments.out / WEIGHTS)
    save(CARD, arguments.out / CARD_FILE)
    print(f"{arguments.out / WEIGHTS}: {arguments.steps} steps")


if __name__ == "__main__":
    main()
