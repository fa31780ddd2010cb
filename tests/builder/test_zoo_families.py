"""RepVGG, Rep-ResNet and MobileOne: the published sizes, and the forms for small images."""

import pytest
import torch
from torch import nn

from edgekit.builder.fold.torch_front import block_names, fold_module
from edgekit.builder.zoo.blocks import BranchedConv
from edgekit.builder.zoo.registry import build

NAMES = (
    "repvgg-a0", "repvgg-a1", "repvgg-a2", "repvgg-b0", "rep-resnet-18", "rep-resnet-50",
    "rep-resnet-101", "rep-resnet-152", "mobileone-s0",
)  # fmt: skip


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def folded_count(network: nn.Module) -> int:
    """Parameters after S3, counted without folding: one kernel and one bias for each block."""
    blocks = [module for module in network.modules() if isinstance(module, BranchedConv)]
    inside = sum(parameter_count(block) for block in blocks)
    kernels = sum(
        block.out_count * (block.in_count // block.geometry.groups)
        * block.geometry.kernel[0] * block.geometry.kernel[1] + block.out_count
        for block in blocks
    )  # fmt: skip
    return parameter_count(network) - inside + kernels


@pytest.mark.parametrize(
    ("name", "trained", "folded"),
    [
        # Ding et al., CVPR 2021, table 4 (folded), and the authors' list of models (trained).
        ("repvgg-a0", 9.11e6, 8.31e6),
        ("repvgg-a1", 14.09e6, 12.79e6),
        ("repvgg-a2", 28.21e6, 25.50e6),
        ("repvgg-b0", 15.82e6, 14.34e6),
        # Vasu et al., CVPR 2023, table 3 (2.1 M), and OpenMMLab's list of models (both).
        ("mobileone-s0", 5.29e6, 2.08e6),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, trained: float, folded: float) -> None:
    """To the last digit that was published."""
    with torch.device("meta"):
        network = build(name)
    assert parameter_count(network) == pytest.approx(trained, abs=5e3)
    assert folded_count(network) == pytest.approx(folded, abs=5e3)


@pytest.mark.parametrize(
    ("name", "published", "norm_channels"),
    [
        # torchvision's ResNets, whose parameters include two numbers per BatchNorm channel where
        # a folded block has one bias.
        ("rep-resnet-18", 11_689_512, 4_800),
        ("rep-resnet-50", 25_557_032, 26_560),
        ("rep-resnet-101", 44_549_160, 52_672),
        ("rep-resnet-152", 60_192_808, 75_712),
    ],
)
def test_a_folded_rep_resnet_is_a_resnet(name: str, published: int, norm_channels: int) -> None:
    """To the last parameter: branches come on top and fold away."""
    with torch.device("meta"):
        network = build(name)
    assert folded_count(network) == published - norm_channels
    assert parameter_count(network) > published


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("repvgg-a0", 22), ("repvgg-b0", 28), ("rep-resnet-18", 17), ("rep-resnet-50", 17),
        ("rep-resnet-152", 51), ("mobileone-s0", 43),
    ],
)  # fmt: skip
def test_every_kernel_larger_than_one_has_branches(name: str, count: int) -> None:
    """22 and 28 layers, one block for each 3x3 and the stem; in MobileOne also each 1x1."""
    assert len(block_names(build(name, width=0.125))) == count


@pytest.mark.parametrize("name", NAMES)
def test_images_of_32_px_keep_their_size_in_the_stem(name: str) -> None:
    """With the ImageNet stem a CIFAR image would be a single pixel after four stages."""
    network = build(
        name, width=0.125, small_input=True, class_count=10, input_shape=(1, 1, 32, 32)
    ).eval()
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        stem = network.features[0](images)
        logits = network(images)
    assert stem.shape[2:] == (32, 32)
    assert logits.shape == (2, 10)
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("name", NAMES)
def test_images_of_224_px_end_as_seven_by_seven(name: str) -> None:
    """The published networks halve five times."""
    network = build(name, width=0.0625, class_count=10).eval()
    with torch.no_grad():
        assert network.features(torch.rand(1, 3, 224, 224)).shape[2:] == (7, 7)


@pytest.mark.parametrize("name", ["repvgg-a0", "rep-resnet-18", "mobileone-s0"])
def test_one_seed_gives_one_network(name: str) -> None:
    """Whatever was drawn before, and the caller's own numbers are left alone."""
    torch.manual_seed(1)
    one = build(name, width=0.125, class_count=4, seed=3)
    after = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(2), after)
    two, other = (build(name, width=0.125, class_count=4, seed=seed) for seed in (3, 4))
    state = two.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in one.state_dict().items())
    assert not torch.equal(one.head.weight, other.head.weight)


@pytest.mark.parametrize("name", ["repvgg-a0", "rep-resnet-50", "mobileone-s0"])
def test_fresh_weights_neither_explode_nor_die(name: str) -> None:
    """The branches of a block share the variance of one; else training begins with NaN."""
    network = build(name, width=0.125, small_input=True, class_count=10)
    with torch.no_grad():
        features = network.features(torch.randn(8, 3, 32, 32))
    assert 0.05 < float(features.std()) < 50


def test_a_width_scales_every_layer_in_multiples_of_eight() -> None:
    """Four channels take as long as eight."""
    network = build("repvgg-a0", width=0.25, class_count=10)
    counts = {block.out_count for block in network.modules() if isinstance(block, BranchedConv)}
    assert counts == {16, 24, 48, 320}


def test_a_folded_family_keeps_its_residual_connections() -> None:
    """They pass an activation, which no fold can cross: without them the outputs would differ."""
    network = build("rep-resnet-18", width=0.125, small_input=True, class_count=4).eval()
    folded = fold_module(network, probe_shape=(2, 3, 32, 32))
    unit = folded.features[2][1]
    images = torch.rand(1, 16, 8, 8)
    with torch.no_grad():
        assert torch.equal(unit(images), torch.relu(unit.body(images) + images))
