import numpy as np
import pytest
import torch
from torch import nn

from edgekit.builder.train.datasets import LabelledImages
from edgekit.builder.train.evaluate import Evaluation, Floats, evaluate, torch_logits
from edgekit.errors import ModelError


def bright_and_dark(count: int) -> LabelledImages:
    labels = np.arange(count) % 2
    pixels = np.repeat((labels * 255).astype(np.uint8), 12).reshape(count, 2, 2, 3)
    return LabelledImages(pixels=pixels, labels=labels.astype(np.int64))


def by_brightness(inputs: Floats) -> Floats:
    bright = inputs.mean(axis=(1, 2, 3))
    return np.stack([-bright, bright], axis=1)


@pytest.mark.parametrize("batch", [1, 3, 5, 7, 100])
def test_every_image_counts_once_whatever_the_batch(batch: int) -> None:
    """The last batch is smaller, and must not be left out."""
    seen: list[int] = []
    result = evaluate(by_brightness, bright_and_dark(7), batch_image_count=batch, watch=seen.append)
    assert (result.correct_count, result.top1, len(result.predictions)) == (7, 1.0, 7)
    assert seen[-1] == 7


def test_accuracy_is_the_share_of_right_ones() -> None:
    """And two evaluations differ where their predictions do."""
    images = bright_and_dark(4)
    always_0 = evaluate(lambda x: np.tile(np.float32([1, 0]), (len(x), 1)), images)
    assert always_0.top1 == 0.5
    assert always_0.differing_count(evaluate(by_brightness, images)) == 2
    assert always_0.relative_error(always_0) == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_no_numbers_are_refused(value: float) -> None:
    """argmax would take NaN for an answer."""
    with pytest.raises(ModelError, match="not all are finite"):
        evaluate(lambda x: np.full((len(x), 2), value, np.float32), bright_and_dark(2))


def test_a_network_with_maps_for_answers_is_refused() -> None:
    """A detector is no classifier."""
    with pytest.raises(ModelError, match=r"logits of 2 images are \(2, 3, 2, 2\)"):
        evaluate(lambda x: x, bright_and_dark(2))


def test_a_network_in_training_mode_is_refused() -> None:
    """Its answers would depend on the other images of the batch."""
    with pytest.raises(ModelError, match="training mode"):
        torch_logits(nn.Sequential(nn.Flatten()))


def test_torch_answers_as_called_directly() -> None:
    """Layout changes nothing but the order of sums."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 2), nn.Flatten()).eval()
    images = bright_and_dark(6)
    with torch.no_grad():
        want = model(torch.from_numpy(images.pixels).permute(0, 3, 1, 2) / 255 * 4 - 2)
    got = evaluate(torch_logits(model), images)
    direct = Evaluation(logits=want.numpy(), labels=images.labels)
    assert direct.relative_error(got) < 1e-5
