"""The detector of Table VI as the paper has it: its backbone, then the neck and head of YOLOv8s.

In:  images (B, 3, H, W), H and W multiples of 32.  Out: levels at strides 8, 16 and 32; ``decoded``
gives the Ultralytics v8 layout. Distances are means over a learned distribution of 16 lengths.
The backbone has branches and ReLU; neck and head are plain convolutions with SiLU, as in YOLOv8,
and of its widths times ``width``. That costs: at width 0.25 and 640x416 px 0.84 G multiply-adds,
of which 0.21 in the backbone, against 0.44 of the slim detector in ``table6`` (0.32 at the same
strides). For small boards take that one.
Source: arXiv 2411.00838, Table VI; Jocher et al., Ultralytics YOLOv8, 2023 (C2f, head); Li et al.,
"Generalized Focal Loss", NeurIPS 2020 (distances as distributions).
"""

from typing import cast

import torch
from torch import Tensor, nn

from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.zoo.blocks import ConvBlock, bare_conv
from edgekit.builder.zoo.classifier import draw_weights, scaled_channels
from edgekit.builder.zoo.detector import BACKGROUND_LOGIT, Detector, DetectorConfig, Level
from edgekit.builder.zoo.table6 import Table6Backbone, check_image_size

STRIDES = (8, 16, 32)
NECK_CHANNELS = (128, 256, 512)
"""Of YOLOv8s, at width 1, finest level first."""
LENGTH_COUNT = 16
"""A distance is the mean of 0, 1, .. 15 cells under a softmax (reg_max of YOLOv8)."""
_LEAST_BOX_CHANNELS = 16
_LEAST_KIND_CHANNELS = 100
_SAME, _POINT, _DOWN = (
    ConvGeometry.square(3),
    ConvGeometry.square(1),
    ConvGeometry.square(3, stride=2),
)


def _conv(geometry: ConvGeometry, in_count: int, out_count: int) -> ConvBlock:
    return ConvBlock(geometry, in_count, out_count, activation=nn.SiLU())


class C2f(nn.Module):
    """A 1x1 makes two halves, two 3x3 look at one of them, and a 1x1 joins all three."""

    def __init__(self, in_count: int, out_count: int) -> None:
        super().__init__()
        half = out_count // 2
        self.enter = _conv(_POINT, in_count, 2 * half)
        self.look = nn.Sequential(_conv(_SAME, half, half), _conv(_SAME, half, half))
        self.leave = _conv(_POINT, 3 * half, out_count)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H, W)."""
        kept, seen = self.enter(x).chunk(2, dim=1)
        return cast(Tensor, self.leave(torch.cat([kept, seen, self.look(seen)], dim=1)))


class _Neck(nn.Module):
    """Top-down from stride 32 to 8, then back up; each step joins two maps in a C2f."""

    def __init__(self, features: tuple[int, ...], channels: tuple[int, ...]) -> None:
        super().__init__()
        (fine, middle, coarse), (p3, p4, p5) = features, channels
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.descend = nn.ModuleList([C2f(coarse + middle, p4), C2f(p4 + fine, p3)])
        self.shrink = nn.ModuleList([_conv(_DOWN, p3, p3), _conv(_DOWN, p4, p4)])
        self.climb = nn.ModuleList([C2f(p3 + p4, p4), C2f(p4 + coarse, p5)])

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Maps at strides 8, 16, 32."""
        fine, middle, coarse = features
        p4 = self.descend[0](torch.cat([self.up(coarse), middle], dim=1))
        p3 = self.descend[1](torch.cat([self.up(p4), fine], dim=1))
        p4 = self.climb[0](torch.cat([self.shrink[0](p3), p4], dim=1))
        return [p3, p4, self.climb[1](torch.cat([self.shrink[1](p4), coarse], dim=1))]


class _Head(nn.Module):
    """Box and class of each cell of one level, from separate features."""

    def __init__(self, in_count: int, finest_count: int, class_count: int) -> None:
        super().__init__()
        box = max(_LEAST_BOX_CHANNELS, finest_count // 4, 4 * LENGTH_COUNT)
        kind = max(finest_count, min(class_count, _LEAST_KIND_CHANNELS))
        self.box = _tower(in_count, box, 4 * LENGTH_COUNT)
        self.kind = _tower(in_count, kind, class_count)

    def draw_last(self) -> None:
        """Start with every length as likely as any other, and with background everywhere."""
        for tower, bias in ((self.box, 0.0), (self.kind, BACKGROUND_LOGIT)):
            last = cast(nn.Conv2d, tower[-1])
            nn.init.normal_(last.weight, std=0.01)
            nn.init.constant_(cast(Tensor, last.bias), bias)

    def forward(self, x: Tensor) -> Level:
        """(B, I, h, w) -> logits of lengths (B, 4 * 16, h, w) and of classes (B, C, h, w)."""
        return self.box(x), self.kind(x)


def _tower(in_count: int, hidden: int, out_count: int) -> nn.Sequential:
    return nn.Sequential(
        _conv(_SAME, in_count, hidden),
        _conv(_SAME, hidden, hidden),
        bare_conv(_POINT, hidden, out_count, bias=True),
    )


class _MeanLength(nn.Module):
    """The expected value of each side's distribution of lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("lengths", torch.arange(LENGTH_COUNT).float(), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """(B, 4 * 16, h, w) -> (B, 4, h, w) in cells; channel 16 s + n is length n of side s."""
        count, _, height, width = logits.shape
        chances = logits.reshape(count, 4, LENGTH_COUNT, height * width).softmax(dim=2)
        lengths = cast(Tensor, self.lengths).reshape(LENGTH_COUNT, 1)
        return (chances * lengths).sum(dim=2).reshape(count, 4, height, width)


class Table6V8Detector(Detector):
    """Table VI with YOLOv8s' neck and head; ``depth`` scales the backbone. One seed, one net."""

    def __init__(
        self,
        width: float = 0.25,
        depth: float = 1.0,
        class_count: int = 2,
        *,
        seed: int = 0,
        input_shape: tuple[int, int, int, int] = (1, 3, 416, 640),
    ) -> None:
        super().__init__()
        self.config = DetectorConfig(
            width=width, depth=depth, class_count=class_count, seed=seed, input_shape=input_shape
        )
        channels = tuple(scaled_channels(count, width) for count in NECK_CHANNELS)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.backbone = Table6Backbone(width, depth)
            self.neck = _Neck(self.backbone.channels[1:], channels)
            self.heads = nn.ModuleList(_Head(c, channels[0], class_count) for c in channels)
            self.mean_length = _MeanLength()
            draw_weights(self)
            for head in self.heads:
                cast(_Head, head).draw_last()

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the levels of ``forward``, finest first."""
        return STRIDES

    def distributions(self, images: Tensor) -> list[Level]:
        """What distribution focal loss trains: ``forward`` before the mean over lengths.

        Returns: per level, logits (B, 4 * 16, h, w) of the 16 lengths of each side, and of the
        classes (B, C, h, w).
        Raises: ModelError if the image is no multiple of 32 px high and wide.
        """
        check_image_size(images.shape[-2], images.shape[-1])
        maps = self.neck(self.backbone(images)[1:])
        return [head(x) for head, x in zip(self.heads, maps, strict=True)]

    def forward(self, images: Tensor) -> list[Level]:
        """Per level: distances (B, 4, h, w) left, top, right, bottom in cells; logits (B, C, h, w).

        Raises: ModelError if the image is no multiple of 32 px high and wide.
        """
        return [(self.mean_length(box), kind) for box, kind in self.distributions(images)]
