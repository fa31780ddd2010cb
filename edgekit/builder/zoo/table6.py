"""The detector of Table VI: RepBlock backbone with SPPF, PAN neck, anchor-free decoupled head.

In:  images (B, 3, H, W), H and W multiples of 32.  Out: per level, distances to the box sides in
cells and class logits; ``decoded`` gives the Ultralytics v8 layout.
Against YOLOv8s it is narrower, regresses distances directly (no distribution focal loss: at four
channels instead of 64 the box branch fits a small board), and can look at stride 4, where a 6 px
helmet still covers a cell.
Source: arXiv 2411.00838, Table VI (backbone); Liu et al., "PANet", CVPR 2018 (neck); Ge et al.,
"YOLOX", 2021 (decoupled head).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.zoo.blocks import ConvBlock, RepBlock, Sppf, bare_conv
from edgekit.builder.zoo.classifier import draw_weights, scaled_channels
from edgekit.builder.zoo.detector import BACKGROUND_LOGIT, Detector, DetectorConfig, Level
from edgekit.errors import ModelError

STAGE_CHANNELS = (32, 64, 128, 256)
"""Channels of the four stages at width 1, at strides 4, 8, 16 and 32."""
STAGE_BLOCKS = (3, 6, 6, 3)
STAGE_STRIDES = (4, 8, 16, 32)
_LEVEL_CHOICES = {STAGE_STRIDES[a:b] for a in range(4) for b in range(a + 1, 5)}
_STEM_CHANNELS = 16
_NECK_LEAST_CHANNELS = 16
_FIRST_DISTANCE = 2.0

_SAME, _POINT, _DOWN = (
    ConvGeometry.square(3),
    ConvGeometry.square(1),
    ConvGeometry.square(3, stride=2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table6Config(DetectorConfig):
    """Everything that decides the network's shape and its first weights."""

    strides: tuple[int, ...] = (4, 8, 16)
    """Levels that answer: neighbours out of 4, 8, 16, 32."""
    head_blocks: int = 1

    def __post_init__(self) -> None:
        # Not super(): slots make a second class of this name, of which self is no instance.
        DetectorConfig.__post_init__(self)
        if not 1 <= self.head_blocks <= 8:
            raise ModelError(f"head_blocks {self.head_blocks} must be 1..8", hint="use 1")
        if self.strides not in _LEVEL_CHOICES:
            raise ModelError(
                f"strides {self.strides} are not neighbours out of {STAGE_STRIDES}",
                hint="use (4, 8, 16) for small objects or (8, 16, 32)",
            )

    def channels(self, stage: int) -> int:
        """Channels of a backbone stage after scaling."""
        return scaled_channels(STAGE_CHANNELS[stage], self.width)

    def neck_channels(self, stage: int) -> int:
        """Channels of the neck and head at the stride of a stage."""
        return max(self.channels(stage), _NECK_LEAST_CHANNELS)


def _rep_blocks(channels: int, count: int) -> list[RepBlock]:
    return [RepBlock(_SAME, channels, channels) for _ in range(count)]


class Table6Backbone(nn.Module):
    """Rows 0 to 9 of Table VI; ``channels`` are those of its four features."""

    def __init__(self, width: float, depth: float) -> None:
        super().__init__()
        before = scaled_channels(_STEM_CHANNELS, width)
        self.channels = tuple(scaled_channels(channels, width) for channels in STAGE_CHANNELS)
        self.stem = ConvBlock(_DOWN, 3, before)
        stages = []
        for channels, blocks in zip(self.channels, STAGE_BLOCKS, strict=True):
            count = max(round(blocks * depth), 1)
            stages.append(
                nn.Sequential(ConvBlock(_DOWN, before, channels), *_rep_blocks(channels, count))
            )
            before = channels
        self.stages = nn.ModuleList(stages)
        self.sppf = Sppf(before, before)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features at strides 4, 8, 16 and 32."""
        x, features = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        features[-1] = self.sppf(features[-1])
        return features


class _Merge(nn.Module):
    """Join two maps of one size, then look at them together."""

    def __init__(self, in_count: int, out_count: int) -> None:
        super().__init__()
        self.reduce = ConvBlock(_POINT, in_count, out_count)
        self.mix = RepBlock(_SAME, out_count, out_count)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """(B, I1, h, w), (B, I2, h, w) -> (B, O, h, w)."""
        return cast(Tensor, self.mix(self.reduce(torch.cat([one, other], dim=1))))


class _Neck(nn.Module):
    """Top-down from stride 32 to the finest level asked for, then bottom-up to the coarsest."""

    def __init__(self, config: Table6Config) -> None:
        super().__init__()
        self.low = STAGE_STRIDES.index(config.strides[0])
        self.high = STAGE_STRIDES.index(config.strides[-1])
        last = len(STAGE_STRIDES) - 1
        wide = [config.neck_channels(stage) for stage in range(last)] + [config.channels(last)]
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.descend = nn.ModuleList(
            _Merge(wide[stage + 1] + config.channels(stage), wide[stage])
            for stage in reversed(range(self.low, last))
        )
        climbs = list(pairwise(range(self.low, self.high + 1)))
        self.shrink = nn.ModuleList(ConvBlock(_DOWN, wide[a], wide[a]) for a, _ in climbs)
        self.climb = nn.ModuleList(_Merge(wide[a] + wide[b], wide[b]) for a, b in climbs)
        self.channels = tuple(wide[self.low : self.high + 1])

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """One map per stride of the configuration, finest first."""
        maps = {len(features) - 1: features[-1]}
        stage = len(features) - 1
        for merge in self.descend:
            stage -= 1
            maps[stage] = merge(self.up(maps[stage + 1]), features[stage])
        for shrink, merge in zip(self.shrink, self.climb, strict=True):
            stage += 1
            maps[stage] = merge(shrink(maps[stage - 1]), maps[stage])
        return [maps[stage] for stage in range(self.low, self.high + 1)]


class _Head(nn.Module):
    """Box and class of each cell of one level, from separate features."""

    def __init__(self, channels: int, config: Table6Config) -> None:
        super().__init__()
        self.box = nn.Sequential(
            *_rep_blocks(channels, config.head_blocks), bare_conv(_POINT, channels, 4, bias=True)
        )
        self.kind = nn.Sequential(
            *_rep_blocks(channels, config.head_blocks),
            bare_conv(_POINT, channels, config.class_count, bias=True),
        )

    def draw_last(self) -> None:
        """Start with boxes of a few cells and with background everywhere."""
        for branch, bias in ((self.box, _FIRST_DISTANCE), (self.kind, BACKGROUND_LOGIT)):
            last = cast(nn.Conv2d, branch[-1])
            nn.init.normal_(last.weight, std=0.01)
            nn.init.constant_(cast(Tensor, last.bias), bias)

    def forward(self, x: Tensor) -> Level:
        """(B, I, h, w) -> distances (B, 4, h, w) in cells, class logits (B, C, h, w)."""
        return self.box(x), self.kind(x)


class Table6Detector(Detector):
    """A RepBlock detector; ``width`` and ``depth`` scale Table VI. One seed, one set of weights."""

    config: Table6Config

    def __init__(
        self,
        width: float = 0.25,
        depth: float = 1.0,
        class_count: int = 2,
        *,
        strides: tuple[int, ...] = (4, 8, 16),
        head_blocks: int = 1,
        seed: int = 0,
        input_shape: tuple[int, int, int, int] = (1, 3, 416, 640),
    ) -> None:
        super().__init__()
        self.config = Table6Config(
            width=width,
            depth=depth,
            class_count=class_count,
            strides=tuple(strides),
            head_blocks=head_blocks,
            seed=seed,
            input_shape=input_shape,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.backbone = Table6Backbone(width, depth)
            self.neck = _Neck(self.config)
            self.heads = nn.ModuleList(_Head(c, self.config) for c in self.neck.channels)
            draw_weights(self)
            for head in self.heads:
                cast(_Head, head).draw_last()

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the levels of ``forward``, finest first."""
        return self.config.strides

    def forward(self, images: Tensor) -> list[Level]:
        """Per level: distances (B, 4, h, w) left, top, right, bottom in cells; logits (B, C, h, w).

        Distances are linear, not forced to be positive: before training they are about 2 cells.
        Raises: ModelError if the image is no multiple of 32 px high and wide.
        """
        check_image_size(images.shape[-2], images.shape[-1])
        maps = self.neck(self.backbone(images))
        return [head(x) for head, x in zip(self.heads, maps, strict=True)]


def check_image_size(height_px: int, width_px: int) -> None:
    """Raises: ModelError unless both are positive multiples of the coarsest stride."""
    step = STAGE_STRIDES[-1]
    if height_px % step or width_px % step or min(height_px, width_px) < step:
        near = [max(round(size / step), 1) * step for size in (height_px, width_px)]
        raise ModelError(
            f"an image of {width_px}x{height_px} px does not fit: not multiples of {step}",
            hint=f"use {near[1]}x{near[0]}",
        )
