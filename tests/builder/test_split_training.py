from collections.abc import Sequence

import pytest
import torch

from edgekit.builder.train.recipe import Recipe
from edgekit.builder.train.split_training import (
    Batch,
    Outcome,
    boundaries,
    split_steps,
    whole_steps,
)
from edgekit.builder.zoo.classifier import Classifier
from edgekit.builder.zoo.registry import build
from edgekit.errors import LinkError, ModelError

RECIPE = Recipe(peak_rate=0.05)
SPLITS = [("repvgg-a0", share) for share in (0.0, 0.5, 1.0)]
SPLITS += [("rep-resnet-18", share) for share in (0.0, 0.5, 1.0)]


def network(name: str) -> Classifier:
    model = build(
        name, class_count=4, width=0.125, small_input=True, seed=3, input_shape=(1, 3, 32, 32)
    )
    assert isinstance(model, Classifier)
    return model


def batches(count: int) -> Sequence[Batch]:
    numbers = torch.Generator().manual_seed(11)
    return [
        (
            torch.randn((6, 3, 32, 32), generator=numbers),
            torch.randint(0, 4, (6,), generator=numbers),
        )
        for _ in range(count)
    ]


@pytest.mark.integration
@pytest.mark.parametrize(("name", "share"), SPLITS)
def test_two_processes_learn_what_one_learns(name: str, share: float) -> None:
    """Section V: same gradients, same updates. Two steps, so that momentum counts too."""
    model = network(name)
    places = boundaries(model)
    boundary = places[round(share * (len(places) - 1))]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    whole = whole_steps(model, batches(2), RECIPE)
    split = split_steps(model, boundary, batches(2), RECIPE)
    assert whole.relative_error(split) <= 1e-5
    assert split.losses == pytest.approx(whole.losses, rel=1e-5)
    assert split.gradients.keys() == {key for key, _ in model.named_parameters()}
    moved = [key for key in before if not torch.equal(before[key], split.weights[key])]
    assert any(key.endswith("running_var") for key in moved)
    assert any(key.startswith("features.0") for key in moved), "the first half learned"
    assert "head.weight" in moved, "the second half learned"
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.integration
def test_a_second_half_that_dies_is_told_from_one_that_learns() -> None:
    """A label that no class has ends the other process; this one must not wait for ever."""
    inputs, labels = batches(1)[0]
    with pytest.raises(LinkError, match="second half stopped"):
        split_steps(network("repvgg-a0"), "features.3.0", [(inputs, labels + 4)], RECIPE)


def test_a_wrong_gradient_is_noticed() -> None:
    """The comparison itself must be able to fail."""
    whole = whole_steps(network("repvgg-a0"), batches(1), RECIPE)
    name, value = next(iter(whole.gradients.items()))
    off = {**whole.gradients, name: value * 1.001}
    assert whole.relative_error(_with(whole, off)) == pytest.approx(1e-3, rel=1e-3)
    del off[name]
    assert whole.relative_error(_with(whole, off)) == float("inf")
    assert whole.relative_error(whole) == 0.0


def _with(outcome: Outcome, gradients: dict[str, torch.Tensor]) -> Outcome:
    return Outcome(losses=outcome.losses, gradients=gradients, weights=outcome.weights)


def test_a_cut_where_there_is_no_boundary_is_refused() -> None:
    """With the names of those there are."""
    with pytest.raises(ModelError, match=r"cannot be cut after 'features\.9'.*features\.0"):
        split_steps(network("repvgg-a0"), "features.9", batches(1), RECIPE)


def test_blocks_are_boundaries_and_the_head_is_none() -> None:
    """After the head there is nothing left to put into the other process."""
    places = boundaries(network("rep-resnet-18"))
    assert places[0] == "features.0"
    assert len(places) == 1 + 8
    assert "head" not in places
