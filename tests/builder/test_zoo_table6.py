"""The detector of Table VI: its rows, its levels, its size."""

import pytest
import torch
from torch import nn

from edgekit.builder.zoo.blocks import ConvBlock, RepBlock, Sppf
from edgekit.builder.zoo.table6 import Table6Config, Table6Detector
from edgekit.errors import ModelError


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_backbone_at_width_one_is_table_vi() -> None:
    """Conv 16, then 32, 64, 128, 256 at strides 4 to 32 with 3, 6, 6, 3 RepBlocks, then SPPF."""
    backbone = Table6Detector(width=1.0).backbone
    assert backbone.stem.out_count == 16
    rows = []
    for stage in backbone.stages:
        first, *blocks = stage
        assert isinstance(first, ConvBlock)
        assert first.geometry.stride == (2, 2)
        assert all(isinstance(b, RepBlock) and set(b.branches) == {"dense", "pointwise", "identity"}
                   for b in blocks)  # fmt: skip
        rows.append((first.out_count, len(blocks)))
    assert rows == [(32, 3), (64, 6), (128, 6), (256, 3)]
    assert isinstance(backbone.sppf, Sppf)
    assert (backbone.sppf.pool.kernel_size, backbone.sppf.join.out_count) == (5, 256)


@pytest.mark.parametrize(
    "strides", [(4, 8, 16), (8, 16, 32), (4,), (16,), (32,), (4, 8, 16, 32)], ids=str
)
def test_each_level_answers_for_its_cells(strides: tuple[int, ...]) -> None:
    """Shapes of the training form and of the decoded one."""
    detector = Table6Detector(width=0.125, depth=0.2, class_count=3, strides=strides).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        levels, decoded = detector(images), detector.decoded(images)
    assert detector.strides == strides
    for (distances, logits), stride in zip(levels, strides, strict=True):
        cells = (64 // stride, 96 // stride)
        assert (distances.shape, logits.shape) == ((2, 4, *cells), (2, 3, *cells))
    assert decoded.shape == (2, 7, sum((64 // s) * (96 // s) for s in strides))
    assert 0 <= decoded[:, 4:].min() <= decoded[:, 4:].max() <= 1


def test_the_yard_net_is_small() -> None:
    """Below a million parameters, so that its weights can be committed and a Pi can run it."""
    assert parameter_count(Table6Detector()) < 350_000


def test_one_seed_gives_one_set_of_weights_and_leaves_the_global_seed_alone() -> None:
    """Training is deterministic; building a network must not shift anybody's random numbers."""
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, two, other = (Table6Detector(width=0.125, depth=0.2, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.backbone.stem.branches["dense"].conv.weight,
                           other.backbone.stem.branches["dense"].conv.weight)  # fmt: skip


def test_an_untrained_network_stays_in_range() -> None:
    """18 blocks of three branches each would otherwise multiply activations by 2^18."""
    detector = Table6Detector().eval()
    with torch.no_grad():
        features = detector.backbone(torch.rand(1, 3, 64, 64))
        levels = detector(torch.rand(1, 3, 64, 64))
    assert all(feature.abs().max() < 100 for feature in features)
    for distances, logits in levels:
        assert 1 < distances.mean() < 3
        assert -6 < logits.mean() < -3


def test_all_weights_learn() -> None:
    """A level or branch that is not connected would keep its first weights for ever."""
    detector = Table6Detector(width=0.125, depth=0.2)
    sum(
        d.square().sum() + c.square().sum() for d, c in detector(torch.rand(2, 3, 64, 64))
    ).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_an_image_of_a_wrong_size_is_refused_with_the_nearest_right_one() -> None:
    """torch would complain about a Concat deep in the neck."""
    with pytest.raises(ModelError, match=r"640x400 px.*use 640x384"):
        Table6Detector(width=0.125, depth=0.2)(torch.zeros(1, 3, 400, 640))


@pytest.mark.parametrize(
    "fields",
    [{"width": 0.0}, {"width": float("nan")}, {"depth": 9.0}, {"class_count": 0},
     {"head_blocks": 0}, {"strides": ()}, {"strides": (6,)}, {"strides": (4, 16)},
     {"strides": (8, 4)}, {"strides": (32, 64)}, {"seed": -1}],
    ids=str,
)  # fmt: skip
def test_a_configuration_that_builds_no_network_is_refused(fields: dict[str, object]) -> None:
    """It may come from a damaged checkpoint."""
    with pytest.raises(ModelError):
        Table6Config(**fields)  # type: ignore[arg-type]
