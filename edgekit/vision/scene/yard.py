"""The built-in scene: a yard seen by a camera on a mast, with people at work and exact truth.

In:   a seed, a size and a frame rate.
Out:  any frame by its number, as BGR uint8 (H, W, 3), with a box for every person and for every
helmet that is worn, computed from the pixels that were drawn.
Never touches files, clocks or global random state: the same arguments give the same bytes.

What counts as truth: a *person* with at least 40 visible pixels that are at least 25 % of the whole
figure, and a *helmet* with at least 12 visible pixels that are at least 45 % of the whole helmet.
Boxes enclose the visible pixels; pixels hidden by obstacles, by other people or by the picture's
edge do not count. Scores are 1.

Seeds below ``FIRST_TRAINING_SEED`` are held out: `samples/yard/train.py` never draws them, so every
scene that a person types by hand is new to the trained sample.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ConfigError
from edgekit.spec.messages import Detection
from edgekit.vision.scene.backdrop import render_backdrop
from edgekit.vision.scene.body import Body, build_body
from edgekit.vision.scene.camera import Camera
from edgekit.vision.scene.figure import Figure, draw_figure, draw_shadow
from edgekit.vision.scene.layout import plan_layout
from edgekit.vision.scene.sensor import Sensor
from edgekit.vision.scene.surfaces import Image
from edgekit.vision.scene.walkers import Pose, invite_walkers

LABELS = ("helmet", "person")
FIRST_TRAINING_SEED = 1_000_000

PERSON_LEAST_PX, PERSON_LEAST_SHARE = 40, 0.25
HELMET_LEAST_PX, HELMET_LEAST_SHARE = 12, 0.45


@dataclass(frozen=True, slots=True)
class _Standing:
    """One person in one frame."""

    index: int
    pose: Pose
    body: Body


class YardScene:
    """One yard, rendered frame by frame in any order."""

    labels = LABELS

    def __init__(
        self, seed: int = 1, width_px: int = 640, height_px: int = 400, fps: float = 30.0
    ) -> None:
        if seed < 0:
            raise ConfigError(f"scene seed {seed} is negative", hint="give 0 or a positive number")
        if not 0 < fps <= 1000:
            raise ConfigError(f"a scene at {fps} frames per second", hint="give fps=30")
        self.seed, self.fps = seed, fps
        self.width_px, self.height_px = width_px, height_px
        self.layout = plan_layout(seed)
        # Equal views for every shape of picture: the focal length follows the larger side.
        span_px = max(width_px, height_px * 1.6)
        self.camera = Camera(
            width_px=width_px,
            height_px=height_px,
            focal_px=span_px * self.layout.focal_per_width,
            mount_m=self.layout.mount_m,
            pitch_rad=self.layout.pitch_rad,
        )
        self.walkers = invite_walkers(self.layout)
        self._backdrop = render_backdrop(self.layout, self.camera)
        self._sensor = Sensor(seed, width_px, height_px, self.layout.light)
        _, down = self.camera.rays()
        cos, sin = math.cos(self.camera.pitch_rad), math.sin(self.camera.pitch_rad)
        self._upright = (cos - down[:, 0] * sin).astype(np.float32)

    def render(self, frame_number: int) -> tuple[Image, tuple[Detection, ...]]:
        """One frame as the camera delivers it, and what is in it."""
        clean, truth = self.render_clean(frame_number)
        return self._sensor.expose(clean, frame_number), truth

    def render_clean(
        self, frame_number: int, *, leave_out: Collection[int] = (), shadows: bool = True
    ) -> tuple[Image, tuple[Detection, ...]]:
        """One frame before lens and sensor, without the people whose index is in ``leave_out``."""
        if frame_number < 0:
            raise ConfigError(
                f"scene frame {frame_number} is negative", hint="frames are counted from 0"
            )
        time_s = frame_number / self.fps
        people = [
            _Standing(index, pose, build_body(walker.looks, pose))
            for index, walker in enumerate(self.walkers)
            if index not in leave_out
            for pose in (walker.pose_at(time_s),)
        ]
        picture = self._backdrop.image.copy()
        if shadows:
            self._cast_shadows(picture, people)
        owner = np.zeros(picture.shape[:2], np.uint8)
        drawn: list[tuple[_Standing, Figure]] = []
        for person in sorted(people, key=lambda p: (-p.pose.y_m, p.index)):
            figure = self._figure(person)
            if figure is not None:
                self._compose(picture, owner, person, figure)
                drawn.append((person, figure))
        truth = [box for person, figure in drawn for box in _truth_of(person, figure, owner)]
        return picture, tuple(truth)

    def _figure(self, person: _Standing) -> Figure | None:
        light = self.layout.light
        return draw_figure(
            person.body,
            self.camera,
            self._backdrop.light_at(person.pose.x_m, person.pose.y_m),
            light.to_sun if light.sun > 0 else (0.0, 0.0, 1.0),
        )

    def _compose(
        self, picture: Image, owner: NDArray[np.uint8], person: _Standing, figure: Figure
    ) -> None:
        """Lay a figure over the picture where no obstacle is nearer; note whose pixels it has."""
        inside, patch = _overlap(figure, owner.shape[0], owner.shape[1])
        nearness = self._upright[inside[0]] / np.float32(person.pose.y_m)
        hidden = self._backdrop.inverse_depth[inside] > nearness[:, None]
        coverage = np.where(hidden, 0, figure.coverage[patch]).astype(np.uint8)
        color = np.where(hidden[..., None], 0, figure.color[patch]).astype(np.uint8)
        behind = cv2.merge([255 - coverage] * 3)
        picture[inside] = cv2.add(cv2.multiply(picture[inside], behind, scale=1 / 255), color)
        owner[inside][coverage > 0] = person.index + 1

    def _cast_shadows(self, picture: Image, people: list[_Standing]) -> None:
        """Darken the ground under everyone, and where they keep the sun off it."""
        light, camera = self.layout.light, self.camera
        mask = np.zeros(picture.shape[:2], np.uint8)
        drift = np.array([0.0, 0.0, 1.0])
        if light.sun > 0:
            drift = np.array(light.to_sun) / light.to_sun[2]
        sunlit = light.sun * light.to_sun[2]
        cast = 255 * sunlit / (light.ambient + sunlit) if light.sun > 0 else 0.0
        for person in people:
            _draw_contact(mask, camera, person.pose, 70)
            shade = self._backdrop.light_at(person.pose.x_m, person.pose.y_m)[1]
            if light.sun > 0 and shade > light.ambient + 0.6 * light.sun:
                draw_shadow(mask, person.body, camera, drift, cast)
        mask = cv2.GaussianBlur(cv2.min(mask, self._backdrop.is_ground), (3, 3), 0)
        keep = cv2.merge([255 - mask] * 3)
        cv2.multiply(picture, keep, dst=picture, scale=1 / 255)


def _overlap(
    figure: Figure, rows: int, columns: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of the picture that a figure covers, and the figure's part inside the picture."""
    top, left = max(figure.top_px, 0), max(figure.left_px, 0)
    bottom = min(figure.top_px + figure.coverage.shape[0], rows)
    right = min(figure.left_px + figure.coverage.shape[1], columns)
    inside = (slice(top, bottom), slice(left, right))
    patch = (
        slice(top - figure.top_px, bottom - figure.top_px),
        slice(left - figure.left_px, right - figure.left_px),
    )
    return inside, patch


def _truth_of(person: _Standing, figure: Figure, owner: NDArray[np.uint8]) -> list[Detection]:
    """The boxes of one person and their helmet, by the rule in the module's docstring."""
    inside, patch = _overlap(figure, owner.shape[0], owner.shape[1])
    own = owner[inside] == person.index + 1
    whole = int(np.count_nonzero(figure.coverage))
    visible = int(np.count_nonzero(own))
    if visible < PERSON_LEAST_PX or visible < PERSON_LEAST_SHARE * whole:
        return []
    corner = (inside[1].start, inside[0].start)
    found = [Detection(label="person", score=1.0, box=_box_around(own, corner))]
    helmet = own & figure.helmet[patch]
    seen, worn = int(np.count_nonzero(helmet)), int(np.count_nonzero(figure.helmet))
    if worn and seen >= HELMET_LEAST_PX and seen >= HELMET_LEAST_SHARE * worn:
        found.append(Detection(label="helmet", score=1.0, box=_box_around(helmet, corner)))
    return found


def _box_around(
    mask: NDArray[np.bool_], corner_px: tuple[int, int]
) -> tuple[float, float, float, float]:
    """The smallest box around the pixels of a mask: right and bottom are one past the last."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = corner_px
    return (
        float(left + columns[0]),
        float(top + rows[0]),
        float(left + columns[-1] + 1),
        float(top + rows[-1] + 1),
    )


def _draw_contact(mask: NDArray[np.uint8], camera: Camera, pose: Pose, tone: int) -> None:
    angles = np.arange(10) * np.pi / 5
    ring = np.stack([0.27 * np.cos(angles), 0.27 * np.sin(angles), 0 * angles], axis=1)
    pixels, _ = camera.project(ring + np.array([pose.x_m, pose.y_m, 0.0]))
    cv2.fillConvexPoly(mask, np.round(pixels * 16).astype(np.int32), tone, cv2.LINE_AA, 4)
