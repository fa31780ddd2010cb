"""What the camera's lens and sensor make of a scene: exposure, blur, noise, compression.

In:   a clean picture and the layout's light.  Out: a new picture of the same shape (H, W, 3) uint8.
Pure: the noise is drawn from the seed and the frame number only.
"""

import cv2
import numpy as np

from edgekit.vision.scene.layout import Light, rng_for
from edgekit.vision.scene.surfaces import Image

_MARGIN_PX = 64


class Sensor:
    """Exposure curve and noise of one scene, prepared once."""

    def __init__(self, seed: int, width_px: int, height_px: int, light: Light) -> None:
        self._seed, self._light = seed, light
        self._size = (width_px, height_px)
        levels = np.arange(256, dtype=np.float64) / 255
        exposed = np.clip(levels * light.gain, 0, 1) ** light.gamma
        self._curve = np.round(exposed * 255).astype(np.uint8)
        rng = rng_for(seed, 7)
        shape = (height_px + _MARGIN_PX, width_px + _MARGIN_PX, 3)
        grain = rng.standard_normal(shape, dtype=np.float32)
        # Real sensors' noise is partly shared by the channels and spread by demosaicing.
        grain = 0.75 * grain + 0.6 * grain.mean(axis=2, keepdims=True)
        grain = cv2.GaussianBlur(grain, (0, 0), 0.45)
        levels_off = np.round(grain / float(grain.std()) * light.noise)
        self._brighter = np.clip(levels_off, 0, 255).astype(np.uint8)
        self._darker = np.clip(-levels_off, 0, 255).astype(np.uint8)

    def expose(self, picture: Image, frame_number: int) -> Image:
        """The picture as the sensor delivers it for this frame."""
        seen = cv2.GaussianBlur(picture, (3, 3), self._light.blur_px)
        seen = cv2.LUT(seen, self._curve)
        # A window of one prepared field of noise, elsewhere for every frame, mirrored at times.
        dice = rng_for(self._seed, 8, frame_number).integers(0, _MARGIN_PX, 4)
        width, height = self._size
        window = np.s_[int(dice[0]) : int(dice[0]) + height, int(dice[1]) : int(dice[1]) + width]
        first, second = (self._brighter, self._darker)
        if dice[2] % 2:
            first, second = second, first
        seen = cv2.subtract(cv2.add(seen, first[window]), second[window])
        if self._light.jpeg_quality:
            quality = [cv2.IMWRITE_JPEG_QUALITY, self._light.jpeg_quality]
            seen = cv2.imdecode(cv2.imencode(".jpg", seen, quality)[1], cv2.IMREAD_COLOR)
        return np.asarray(seen, np.uint8)
