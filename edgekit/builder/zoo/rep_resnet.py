"""Rep-ResNet: a ResNet in which every kernel larger than 1x1 has linear branches beside it.

In:  images (B, C, H, W).  Out: logits.  Residual connections stay: they pass an activation, which
no fold can cross. Bottlenecks have their stride in the 3x3, as in the common "v1.5".
Source: He et al., "Deep Residual Learning", CVPR 2016, table 1; the branches: arXiv 2411.00838.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, cast

from torch import Tensor, nn

from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.zoo.blocks import ConvBlock, RepBlock
from edgekit.builder.zoo.classifier import Classifier, ClassifierConfig

_STAGE_CHANNELS = (64, 128, 256, 512)
_POINT = ConvGeometry.square(1)


def _conv3(stride: int) -> ConvGeometry:
    return ConvGeometry.square(3, stride=stride)


class _Residual(nn.Module, ABC):
    """``body(x) + shortcut(x)``, then ReLU; subclasses say what the body is."""

    growth: ClassVar[int]
    """Channels given per channel of the stage."""

    def __init__(self, in_count: int, channels: int, stride: int) -> None:
        super().__init__()
        out_count = channels * self.growth
        self.body = self.make_body(in_count, channels, stride)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_count != out_count:
            down = ConvGeometry.square(1, stride=stride)
            self.shortcut = ConvBlock(down, in_count, out_count, relu=False)
        self.act = nn.ReLU()

    @abstractmethod
    def make_body(self, in_count: int, channels: int, stride: int) -> nn.Sequential:
        """The convolutions, the last of which ends without an activation."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H', W')."""
        return cast(Tensor, self.act(self.body(x) + self.shortcut(x)))


class _Basic(_Residual):
    """Two 3x3."""

    growth = 1

    def make_body(self, in_count: int, channels: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            RepBlock(_conv3(stride), in_count, channels),
            RepBlock(_conv3(1), channels, channels, relu=False),
        )


class _Bottleneck(_Residual):
    """1x1, 3x3, 1x1."""

    growth = 4

    def make_body(self, in_count: int, channels: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            ConvBlock(_POINT, in_count, channels),
            RepBlock(_conv3(stride), channels, channels),
            ConvBlock(_POINT, channels, channels * self.growth, relu=False),
        )


class RepResNet(Classifier):
    """A stem and four stages; subclasses are the paper's sizes."""

    residual: ClassVar[type[_Residual]]
    stage_blocks: ClassVar[tuple[int, int, int, int]]

    def make_features(self, config: ClassifierConfig) -> tuple[nn.Module, int]:
        """``features.0`` is the stem: 7x7 and a max-pool, or 3x3 for small images."""
        before = config.scaled(_STAGE_CHANNELS[0])
        if config.small_input:
            stem: nn.Module = RepBlock(_conv3(1), config.channel_count, before)
        else:
            wide = RepBlock(ConvGeometry.square(7, stride=2), config.channel_count, before)
            stem = nn.Sequential(wide, nn.MaxPool2d(3, stride=2, padding=1))
        stages = [stem]
        for stage, count in enumerate(self.stage_blocks):
            channels = config.scaled(_STAGE_CHANNELS[stage])
            blocks = []
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(self.residual(before, channels, stride))
                before = channels * self.residual.growth
            stages.append(nn.Sequential(*blocks))
        return nn.Sequential(*stages), before


class RepResNet18(RepResNet):
    """ResNet-18 with branches."""

    residual = _Basic
    stage_blocks = (2, 2, 2, 2)


class RepResNet50(RepResNet):
    """ResNet-50 with branches."""

    residual = _Bottleneck
    stage_blocks = (3, 4, 6, 3)


class RepResNet101(RepResNet):
    """ResNet-101 with branches."""

    residual = _Bottleneck
    stage_blocks = (3, 4, 23, 3)


class RepResNet152(RepResNet):
    """ResNet-152 with branches."""

    residual = _Bottleneck
    stage_blocks = (3, 8, 36, 3)
