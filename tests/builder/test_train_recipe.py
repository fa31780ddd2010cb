import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.train.augment import Augmentation, augment, to_input
from edgekit.builder.train.recipe import Recipe, make_optimizer
from edgekit.builder.zoo.blocks import RepBlock
from edgekit.errors import ConfigError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 11), st.integers(1, 11), st.sampled_from([1, 3]),
    st.integers(0, 3), st.sampled_from([0, 8, 10]), st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_a_varied_image_is_a_piece_of_a_shifted_perhaps_mirrored_one(
    count: int, height: int, width: int, channels: int,
    shift: int, crop: int, mirror: bool, seed: int,
) -> None:  # fmt: skip
    """Whatever the shape: no pixel is invented, and black moves in."""
    images = torch.randint(1, 256, (count, height, width, channels), generator=seeded(seed)).byte()
    augmentation = Augmentation(shift_px=shift, crop_px=crop, mirror=mirror)
    varied = augment(images, augmentation, seeded(seed))
    rows, columns = min(height, crop or height), min(width, crop or width)
    assert varied.shape == (count, rows, columns, channels) and varied.dtype == torch.uint8
    for before, after in zip(images.numpy(), varied.numpy(), strict=True):
        padded = np.pad(before, ((shift, shift), (shift, shift), (0, 0)))
        possible = [
            padded[y : y + rows, x : x + columns][:, ::step]
            for y in range(2 * shift + height - rows + 1)
            for x in range(2 * shift + width - columns + 1)
            for step in ((1, -1) if mirror else (1,))
        ]
        assert any((after == one).all() for one in possible)


def test_variations_follow_from_the_generator() -> None:
    """So a run that is taken up sees what an uninterrupted one would have seen."""
    images = torch.arange(16 * 8 * 8 * 3).remainder(251).byte().reshape(16, 8, 8, 3)
    one, same, other = (augment(images, Augmentation(), seeded(seed)) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_about_half_of_the_images_are_mirrored_and_no_digit_is() -> None:
    """A mirrored 3 is no digit at all."""
    images = torch.tensor([[1, 2]], dtype=torch.uint8).reshape(1, 1, 2, 1).repeat(1000, 1, 1, 1)
    mirrored = augment(images, Augmentation(shift_px=0), seeded())[:, 0, 0, 0] == 2
    assert 400 < int(mirrored.sum()) < 600
    assert (augment(images, Augmentation(shift_px=0, mirror=False), seeded()) == images).all()


def test_input_is_centred_float_in_channels_last_layout() -> None:
    """The layout in which convolutions on a CPU run fastest, without a copy."""
    pixels = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 2, 1).expand(2, 4, 2, 3)
    inputs = to_input(pixels)
    assert inputs.shape == (2, 3, 4, 2)
    assert inputs[0, 0, 0].tolist() == [-2.0, 2.0]
    assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_gray_input_has_the_strides_that_torch_survives() -> None:
    """Strides (HW, 1, W, 1) are as valid, but a 1x1 convolution of stride 2 corrupts memory."""
    pixels = torch.arange(2 * 28 * 28).remainder(256).byte().reshape(2, 28, 28, 1)
    inputs = to_input(pixels)
    assert inputs.stride() == (28 * 28, 28 * 28, 28, 1)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(inputs[:, 0], pixels[..., 0].float() / 255 * 4 - 2)
    conv = torch.nn.Conv2d(1, 16, 1, stride=2).to(memory_format=torch.channels_last)
    for _ in range(20):
        conv(inputs).sum().backward()


def test_the_rate_rises_falls_and_ends_at_nearly_nothing() -> None:
    """Warm-up keeps fresh BatchNorms from blowing up; the end of the cosine settles the weights."""
    recipe = Recipe(peak_rate=0.4, warmup_share=0.1)
    rates = [recipe.rate(step, 1000) for step in range(1000)]
    assert 0 < rates[0] < 0.01
    assert rates[:101] == sorted(rates[:101])
    assert max(rates) == rates[100] == 0.4
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert 0 < rates[-1] < 1e-5


@pytest.mark.parametrize("step_count", [1, 2, 3])
def test_even_the_shortest_training_has_rates(step_count: int) -> None:
    """One step is a training, too: no division by zero."""
    recipe = Recipe()
    assert all(0 < recipe.rate(step, step_count) <= 0.1 for step in range(step_count))


def test_only_kernels_and_matrices_decay() -> None:
    """Decay on a BatchNorm's scale shrinks whole branches."""
    block = RepBlock(ConvGeometry.square(3), 4, 4)
    groups = make_optimizer(torch.nn.Sequential(block), Recipe(weight_decay=0.5)).param_groups
    by_decay = {group["weight_decay"]: group["params"] for group in groups}
    assert {weight.ndim for weight in by_decay[0.5]} == {4}
    assert {weight.ndim for weight in by_decay[0.0]} == {1}
    assert sum(len(weights) for weights in by_decay.values()) == len(list(block.parameters()))


@pytest.mark.parametrize(
    ("field", "value"),
    [("epoch_count", 0), ("peak_rate", float("nan")), ("momentum", 1.0), ("label_smoothing", -0.1),
     ("batch_image_count", 1), ("seed", -1)],
)  # fmt: skip
def test_a_recipe_out_of_range_is_refused(field: str, value: float) -> None:
    """By name, with the value that works."""
    with pytest.raises(ConfigError, match=f"{field} must be"):
        Recipe(**{field: value})
