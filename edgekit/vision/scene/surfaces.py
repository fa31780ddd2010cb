"""Textures for the things that stand in the yard: corrugated steel, planks, cladding, van sides.

In:   a kind of surface, a base colour and a generator.  Out: uint8 BGR pictures (H, W, 3), lit by
nothing yet. Pure: no file or clock.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from edgekit.vision.scene.layout import Color

Image = NDArray[np.uint8]
Plane = NDArray[np.float32]


def smooth_noise(rng: np.random.Generator, rows: int, columns: int, cell: int) -> Plane:
    """Value noise about 0 with standard deviation 1 and features of about ``cell`` pixels."""
    grid = rng.standard_normal((rows // cell + 3, columns // cell + 3), dtype=np.float32)
    size = (grid.shape[1] * cell, grid.shape[0] * cell)
    enlarged = cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)[:rows, :columns]
    return np.asarray(enlarged / max(float(enlarged.std()), 1e-6), np.float32)


def _flat(color: Color, rows: int, columns: int) -> Plane:
    return np.full((rows, columns, 3), color, np.float32)


def _weather(picture: Plane, rng: np.random.Generator, strength: float) -> Image:
    """Dirt in blotches, and streaks that run down."""
    rows, columns = picture.shape[:2]
    blotches = smooth_noise(rng, rows, columns, max(8, columns // 10))
    streaks = cv2.resize(
        rng.standard_normal((2, columns // 3 + 1), dtype=np.float32), (columns, rows)
    )
    shade = 1.0 + strength * (0.5 * blotches + 0.4 * streaks)
    return np.asarray(np.clip(picture * shade[..., None], 0, 255), np.uint8)


def container_side(rng: np.random.Generator, color: Color) -> Image:
    """The long corrugated side, with a line of lettering."""
    rows, columns = 130, 303
    picture = _flat(color, rows, columns)
    wave = np.clip(1.6 * np.sin(np.arange(columns) * 2 * np.pi / 14.0), -1, 1)
    picture *= (1.0 + 0.11 * wave)[None, :, None].astype(np.float32)
    if rng.random() < 0.7:
        text = "".join(chr(ord("A") + int(i)) for i in rng.integers(0, 26, 4))
        ink = (225, 228, 230) if sum(color) < 420 else (60, 60, 60)
        scale = float(rng.uniform(0.7, 1.5))
        at = (int(rng.integers(12, 130)), int(rng.integers(45, 95)))
        letters = np.zeros((rows, columns), np.uint8)
        cv2.putText(letters, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 3, cv2.LINE_AA)
        picture[letters > 96] = ink
    for edge in (np.s_[:6], np.s_[-7:], np.s_[:, :5], np.s_[:, -5:]):
        picture[edge] = np.array(color, np.float32) * 0.78
    return _weather(picture, rng, 0.10)


def container_end(rng: np.random.Generator, color: Color) -> Image:
    """The end with its two doors, locking bars and handles."""
    rows, columns = 130, 122
    picture = _flat(color, rows, columns)
    for column in (22, 46, 74, 98):
        cv2.line(picture, (column, 6), (column, 122), [c * 0.6 + 50 for c in color], 3)
        cv2.line(picture, (column, 82), (column + 10, 82), (70, 70, 70), 2)
    cv2.line(picture, (61, 4), (61, 126), [c * 0.45 for c in color], 2)
    cv2.rectangle(picture, (1, 1), (columns - 2, rows - 2), [c * 0.7 for c in color], 4)
    return _weather(picture, rng, 0.10)


def ribbed(rng: np.random.Generator, color: Color, rows: int, columns: int, pitch: int) -> Image:
    """Sheet metal with ribs along the picture's rows: roofs and cladding."""
    picture = _flat(color, rows, columns)
    wave = 1.0 + 0.07 * np.sign(np.sin(np.arange(columns) * 2 * np.pi / pitch))
    return _weather(picture * wave[None, :, None].astype(np.float32), rng, 0.05)


def planks(rng: np.random.Generator, color: Color) -> Image:
    """The side of a wooden crate: boards, gaps, a frame and a brace."""
    picture = _flat(color, 96, 96)
    for row in range(0, 96, 16):
        picture[row : row + 16] *= rng.uniform(0.88, 1.1)
        picture[row : row + 2] *= 0.4
    dark = [c * 0.82 for c in color]
    cv2.line(picture, (6, 90), (90, 6), dark, 11)
    cv2.rectangle(picture, (4, 4), (91, 91), dark, 9)
    cv2.rectangle(picture, (0, 0), (95, 95), [c * 0.5 for c in color], 1)
    return _weather(picture, rng, 0.06)


def cladding(rng: np.random.Generator, color: Color) -> Image:
    """A hall's wall: ribs, a plinth, a stripe, roller doors and a strip of windows."""
    picture = _flat(color, 140, 560)
    wave = 1.0 + 0.04 * np.sign(np.sin(np.arange(560) * 2 * np.pi / 7))
    picture *= wave[None, :, None].astype(np.float32)
    stripe = ((120, 66, 30), (40, 60, 150), (70, 110, 50))[int(rng.integers(3))]
    picture[22:30] = stripe
    picture[126:] = (96, 100, 102)
    for left in range(int(rng.integers(20, 60)), 500, int(rng.integers(110, 170))):
        cv2.rectangle(picture, (left, 60), (left + 62, 139), (150, 154, 156), -1)
        for row in range(64, 139, 7):
            cv2.line(picture, (left, row), (left + 62, row), (118, 122, 124), 1)
        cv2.rectangle(picture, (left, 60), (left + 62, 139), (70, 72, 74), 2)
        cv2.rectangle(picture, (left + 70, 38), (left + 100, 50), (110, 96, 80), -1)
    return _weather(picture, rng, 0.04)


def van_side(rng: np.random.Generator, color: Color) -> Image:
    """A van's side: windows towards the front (right), a dark sill and wheels."""
    picture = _flat(color, 84, 196)
    picture[64:] *= 0.75
    cv2.rectangle(picture, (132, 14), (180, 40), (72, 60, 50), -1)
    cv2.line(picture, (130, 10), (130, 70), [c * 0.6 for c in color], 2)
    picture[:30, 184:] *= 0.55
    picture[72:] = (46, 48, 50)
    for centre in (38, 160):
        cv2.circle(picture, (centre, 70), 15, (28, 28, 30), -1, cv2.LINE_AA)
        cv2.circle(picture, (centre, 70), 7, (140, 140, 140), -1, cv2.LINE_AA)
    return _weather(picture, rng, 0.03)


def van_end(rng: np.random.Generator, color: Color) -> Image:
    """A van's front or back: a wide window, lights and a bumper."""
    picture = _flat(color, 84, 78)
    cv2.rectangle(picture, (8, 10), (69, 38), (70, 58, 48), -1)
    cv2.rectangle(picture, (5, 48), (17, 56), (60, 60, 190), -1)
    cv2.rectangle(picture, (60, 48), (72, 56), (60, 60, 190), -1)
    picture[66:] = (50, 52, 54)
    return _weather(picture, rng, 0.03)


def concrete_block(rng: np.random.Generator, color: Color, *, warning: bool) -> Image:
    """A concrete barrier, with or without red and white warning stripes."""
    picture = _flat(color, 48, 132)
    if warning:
        for left in range(0, 132, 44):
            cv2.rectangle(picture, (left, 8), (left + 21, 30), (50, 50, 186), -1)
            cv2.rectangle(picture, (left + 22, 8), (left + 43, 30), (214, 216, 218), -1)
    return _weather(picture, rng, 0.08)


def column_skin(rng: np.random.Generator, kind: str, color: Color) -> Image:
    """What is wrapped around a round thing: hoops of a barrel, the bands of a cone."""
    picture = _flat(color, 72, 48)
    if kind == "barrel":
        for row in (0, 23, 47, 70):
            picture[row : row + 2] *= 0.6
            picture[row + 2 : row + 4] = np.minimum(picture[row + 2 : row + 4] * 1.25, 255)
    if kind == "cone":
        picture[20:38] = (226, 228, 230)
        picture[66:] *= 0.5
    return _weather(picture, rng, 0.05)
