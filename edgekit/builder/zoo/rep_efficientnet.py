"""EfficientNet-B0 with branches: each depthwise kxk has a 1x1 and an identity beside it.

In:  images (B, C, H, W).  Out: logits (B, class_count).  Fully folded it is EfficientNet-B0.
Dropout and stochastic depth belong to a recipe of training, not to the network, and are left out;
BatchNorms have torch's epsilon 1e-5.
Source: Tan, Le, "EfficientNet", ICML 2019, Table 1; Sandler et al., "MobileNetV2", CVPR 2018
(inverted residual); Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018; Ding et al.,
"RepVGG", CVPR 2021 (branches).
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.zoo.blocks import ConvBlock, RepBlock, bare_conv
from edgekit.builder.zoo.classifier import Classifier, ClassifierConfig

STEM_CHANNELS, LAST_CHANNELS = 32, 1280
_SQUEEZE = 4
"""The squeezed vector has a quarter of the channels that enter the block, before expansion."""
_POINT = ConvGeometry.square(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One row of Table 1: MBConv with these numbers; ``stride`` is that of its first block."""

    expand: int
    kernel: int
    channels: int
    blocks: int
    stride: int


STAGES = (
    Stage(expand=1, kernel=3, channels=16, blocks=1, stride=1),
    Stage(expand=6, kernel=3, channels=24, blocks=2, stride=2),
    Stage(expand=6, kernel=5, channels=40, blocks=2, stride=2),
    Stage(expand=6, kernel=3, channels=80, blocks=3, stride=2),
    Stage(expand=6, kernel=5, channels=112, blocks=3, stride=1),
    Stage(expand=6, kernel=5, channels=192, blocks=4, stride=2),
    Stage(expand=6, kernel=3, channels=320, blocks=1, stride=1),
)
_FIRST_DOWN = 1
"""The stage that keeps the size where inputs are small."""


class RepEfficientNetB0(Classifier):
    """EfficientNet-B0, 5.3 M parameters folded. Total stride 32, or 8 for small inputs."""

    def make_features(self, config: ClassifierConfig) -> tuple[nn.Module, int]:
        """Stem, seven stages of MBConv, and a last 1x1."""
        before = config.scaled(STEM_CHANNELS)
        stem = ConvGeometry.square(3, stride=1 if config.small_input else 2)
        layers: list[nn.Module] = [
            RepBlock(stem, config.channel_count, before, activation=nn.SiLU())
        ]
        for number, stage in enumerate(STAGES):
            after = config.scaled(stage.channels)
            keeps = config.small_input and number == _FIRST_DOWN
            for block in range(stage.blocks):
                stride = stage.stride if block == 0 and not keeps else 1
                layers.append(_MbConv(before, after, stage, stride))
                before = after
        last = config.scaled(LAST_CHANNELS)
        layers.append(ConvBlock(_POINT, before, last, activation=nn.SiLU()))
        return nn.Sequential(*layers), last


class _Excite(nn.Module):
    """Weigh each channel by what the whole map says."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = bare_conv(_POINT, channels, squeezed, bias=True)
        self.act = nn.SiLU()
        self.excite = bare_conv(_POINT, squeezed, channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        seen = self.act(self.squeeze(x.mean(dim=(2, 3), keepdim=True)))
        return x * torch.sigmoid(self.excite(seen))


class _MbConv(nn.Module):
    """Expand, depthwise, excite, project (linear); the input is added where shapes allow it."""

    def __init__(self, in_count: int, out_count: int, stage: Stage, stride: int) -> None:
        super().__init__()
        hidden = in_count * stage.expand
        depthwise = ConvGeometry.square(stage.kernel, stride=stride, groups=hidden)
        expand = [ConvBlock(_POINT, in_count, hidden, activation=nn.SiLU())]
        self.layers = nn.Sequential(
            *(expand if stage.expand > 1 else []),
            RepBlock(depthwise, hidden, hidden, activation=nn.SiLU()),
            _Excite(hidden, max(in_count // _SQUEEZE, 1)),
            ConvBlock(_POINT, hidden, out_count, relu=False),
        )
        self.adds_input = stride == 1 and in_count == out_count

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H', W')."""
        y = cast(Tensor, self.layers(x))
        return x + y if self.adds_input else y
