"""MobileNetV1 with branches: depthwise 3x3 + 1x1 + identity, pointwise 1x1 + identity.

In:  images (B, C, H, W).  Out: logits (B, class_count).  Fully folded it is MobileNetV1, layer for
layer. The identity of a pointwise convolution stands where its channels do not change.
Source: Howard et al., "MobileNets", 2017, Table 1 (its last stride 2 is 1: the printed sizes say
so); Ding et al., "RepVGG", CVPR 2021 (branches).
"""

from torch import nn

from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.zoo.blocks import ConvBlock, MobileOneBlock, RepBlock
from edgekit.builder.zoo.classifier import Classifier, ClassifierConfig

STEM_CHANNELS = 32
ROWS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2),
        (1024, 1))  # fmt: skip
"""Channels after each depthwise + pointwise pair, and the stride of its depthwise part."""
_FIRST_DOWN = 1
"""The row that keeps the size where inputs are small."""


class RepMobileNetV1(Classifier):
    """MobileNetV1, 4.2 M parameters folded. Total stride 32, or 8 for small inputs."""

    def make_features(self, config: ClassifierConfig) -> tuple[nn.Module, int]:
        """Stem, then thirteen depthwise separable convolutions."""
        before = config.scaled(STEM_CHANNELS)
        stem = ConvGeometry.square(3, stride=1 if config.small_input else 2)
        layers: list[nn.Module] = [RepBlock(stem, config.channel_count, before)]
        for number, (channels, stride) in enumerate(ROWS):
            keeps = config.small_input and number == _FIRST_DOWN
            layers.append(_separable(before, config.scaled(channels), 1 if keeps else stride))
            before = config.scaled(channels)
        return nn.Sequential(*layers), before


def _separable(in_count: int, out_count: int, stride: int) -> nn.Sequential:
    """Each channel by itself, then all channels at each place."""
    depthwise = ConvGeometry.square(3, stride=stride, groups=in_count)
    return nn.Sequential(
        RepBlock(depthwise, in_count, in_count),
        MobileOneBlock(ConvGeometry.square(1), in_count, out_count, copies=1)
        if in_count == out_count
        else ConvBlock(ConvGeometry.square(1), in_count, out_count),
    )
