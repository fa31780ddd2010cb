"""RepVGG: a stack of 3x3 blocks, each with a 1x1 and, where shapes allow, an identity beside it.

In:  images (B, C, H, W).  Out: logits.  Every 3x3 of the network is a RepBlock.
Source: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021, tables 2 and 3.
"""

from typing import ClassVar

from torch import nn

from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.zoo.blocks import RepBlock
from edgekit.builder.zoo.classifier import Classifier, ClassifierConfig

_STAGE_CHANNELS = (64, 128, 256, 512)
_SAME, _DOWN = ConvGeometry.square(3), ConvGeometry.square(3, stride=2)


class RepVgg(Classifier):
    """A stem and four stages, each of which halves the size; subclasses are the paper's sizes."""

    stage_blocks: ClassVar[tuple[int, int, int, int]]
    stage_widths: ClassVar[tuple[float, float, float, float]]
    """The paper's multipliers a (stages 1 to 3) and b (the last)."""

    def make_features(self, config: ClassifierConfig) -> tuple[nn.Module, int]:
        """Five stages as one list of blocks each: ``features.0`` is the stem."""
        plain = [c * w for c, w in zip(_STAGE_CHANNELS, self.stage_widths, strict=True)]
        before = config.scaled(min(_STAGE_CHANNELS[0], plain[0]))
        stem = RepBlock(_SAME if config.small_input else _DOWN, config.channel_count, before)
        stages: list[nn.Module] = [stem]
        for width, count in zip(plain, self.stage_blocks, strict=True):
            channels = config.scaled(width)
            blocks = [RepBlock(_DOWN, before, channels)]
            blocks += [RepBlock(_SAME, channels, channels) for _ in range(count - 1)]
            stages.append(nn.Sequential(*blocks))
            before = channels
        return nn.Sequential(*stages), before


class RepVggA0(RepVgg):
    """8.31 million parameters folded."""

    stage_blocks = (2, 4, 14, 1)
    stage_widths = (0.75, 0.75, 0.75, 2.5)


class RepVggA1(RepVgg):
    """12.79 million parameters folded."""

    stage_blocks = (2, 4, 14, 1)
    stage_widths = (1, 1, 1, 2.5)


class RepVggA2(RepVgg):
    """25.50 million parameters folded."""

    stage_blocks = (2, 4, 14, 1)
    stage_widths = (1.5, 1.5, 1.5, 2.75)


class RepVggB0(RepVgg):
    """14.34 million parameters folded."""

    stage_blocks = (4, 6, 16, 1)
    stage_widths = (1, 1, 1, 2.5)
