"""MobileOne-s0: depthwise 3x3 and pointwise 1x1 blocks, each trained as several parallel copies.

In:  images (B, C, H, W).  Out: logits.
Source: Vasu et al., "MobileOne: An Improved One millisecond Mobile Backbone", CVPR 2023, tables 2
and 3 (widths and the number of copies of s0).
"""

from torch import nn

from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.zoo.blocks import MobileOneBlock
from edgekit.builder.zoo.classifier import Classifier, ClassifierConfig

_STAGES = ((2, 48), (8, 128), (10, 256), (1, 1024))
"""Pairs of blocks in each stage, and their channels: 64, 128, 256, 512 times 0.75, 1, 1, 2."""
_STEM_CHANNELS = 48
_COPIES = 4
_POINT = ConvGeometry.square(1)


class MobileOneS0(Classifier):
    """2.1 million parameters folded, 5.3 million in training."""

    def make_features(self, config: ClassifierConfig) -> tuple[nn.Module, int]:
        """Five stages: ``features.0`` is the stem, which has one copy only."""
        before = config.scaled(_STEM_CHANNELS)
        geometry = ConvGeometry.square(3, stride=1 if config.small_input else 2)
        stem = MobileOneBlock(geometry, config.channel_count, before, copies=1)
        stages: list[nn.Module] = [stem]
        for count, plain in _STAGES:
            channels = config.scaled(plain)
            blocks: list[nn.Module] = []
            for number in range(count):
                stride = 2 if number == 0 else 1
                depthwise = ConvGeometry.square(3, stride=stride, groups=before)
                blocks.append(MobileOneBlock(depthwise, before, before, copies=_COPIES))
                blocks.append(MobileOneBlock(_POINT, before, channels, copies=_COPIES))
                before = channels
            stages.append(nn.Sequential(*blocks))
        return nn.Sequential(*stages), before
