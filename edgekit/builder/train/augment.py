"""Variations of training images: shift by a random crop, mirror; and pixels as network input.

In:  uint8 images (B, H, W, C) and a generator.  Out: uint8 images of the same shape; or float32
(B, C, H, W) in the channels-last layout, which convolutions on a CPU like best.
The same generator state gives the same variations on every device: numbers are drawn on the CPU.
Source: He et al., "Deep Residual Learning", CVPR 2016, section 4.2 (pad by 4, crop, mirror).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from edgekit.errors import ConfigError

PIXEL_SCALE = 1 / 255
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25
"""Of every channel: ``input = (pixel * scale - mean) / std``. The same for every data set, so that
a model needs no numbers beside it; the BatchNorm of the first block learns the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How far images are shifted, and whether they are mirrored (digits and signs must not be)."""

    shift_px: int = 4
    mirror: bool = True
    crop_px: int = 0
    """Side of the square that is cut out of each image; 0: as large as the image.

    A network that ends in a mean over the map takes whole images in the test. With 24 of 32 px a
    step takes about half the time, and objects keep their size.
    """

    def __post_init__(self) -> None:
        if not 0 <= self.shift_px <= 64:
            raise ConfigError(f"shift_px must be 0..64, got {self.shift_px}", hint="use 4")
        if self.crop_px != 0 and not 8 <= self.crop_px <= 4096:
            raise ConfigError(f"crop_px must be 0 or 8..4096, got {self.crop_px}", hint="use 0")


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """A piece of each image, shifted by up to ``shift_px``, black moving in; half are mirrored.

    Shapes: images (B, H, W, C) uint8. Returns: (B, h, w, C) uint8, h and w the smaller of
    ``crop_px`` and the image's own size.
    """
    count, height, width, _ = images.shape
    device, shift = images.device, augmentation.shift_px
    crop = augmentation.crop_px or max(height, width)
    sides, corners = (min(height, crop), min(width, crop)), []
    for size, side in zip((height, width), sides, strict=True):
        room = size + 2 * shift - side
        corners.append(torch.randint(0, room + 1, (count, 1), generator=generator))
    mirrored = torch.rand(count, generator=generator) < 0.5
    rows, columns = (c + torch.arange(side) for c, side in zip(corners, sides, strict=True))
    if augmentation.mirror:
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    padded = torch.nn.functional.pad(images, (0, 0, shift, shift, shift, shift))
    which = torch.arange(count)[:, None, None].to(device)
    return padded[which, rows[:, :, None].to(device), columns[:, None, :].to(device)]


def to_input(images: Tensor) -> Tensor:
    """What a network is fed: about -2 for black, 2 for white.

    Shapes: images (B, H, W, C) uint8. Returns: (B, C, H, W) float32, channels last in memory.
    """
    scaled = images.float().mul_(PIXEL_SCALE).sub_(PIXEL_MEAN).div_(PIXEL_STD)
    if scaled.shape[3] == 1:
        # Permuted, it would have strides (HW, 1, W, 1), at which torch 2.13 crashes in a 1x1
        # convolution of stride 2; so viewed, it has (HW, HW, W, 1) and is as much channels last.
        count, height, width, _ = scaled.shape
        return scaled.view(count, 1, height, width)
    return scaled.permute(0, 3, 1, 2)
