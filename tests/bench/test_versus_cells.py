"""Blood cells: the truth is read as it stands in the files, and training begins with the yard."""

import torch

from edgekit.builder.checkpoint import load_checkpoint
from tests.bench.versus_cells import INPUT_SHAPE, LABELS, ROOT, boxes_of, first_model, names_of
from tests.world import data


def test_every_box_of_the_test_pictures_is_whole_and_known() -> None:
    data("datasets/bccd/BCCD")
    found = [box for name in names_of("test") for box in boxes_of(name)]
    assert {box.label for box in found} == set(LABELS)
    assert all(x2 > x1 >= 0 and y2 > y1 >= 0 for x1, y1, x2, y2 in (one.box for one in found))
    assert not {*names_of("train"), *names_of("val")} & set(names_of("test"))


def test_training_begins_with_the_yards_backbone_and_classes_of_its_own() -> None:
    model = first_model(0)
    own, yard = model.state_dict(), load_checkpoint(ROOT / "samples/yard/yard.pt").state_dict()
    same = [name for name in own if torch.equal(own[name], yard[name])]
    assert any(name.startswith("backbone") for name in same)
    changed = [name for name in own if own[name].shape != yard[name].shape]
    assert changed
    assert all(len(own[name]) == len(LABELS) for name in changed)
    assert model.config.input_shape == INPUT_SHAPE
