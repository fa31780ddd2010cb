"""Agreement of two detectors: a number that tells the same boxes from others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.builder.quantize.agreement import agreement, overlap
from edgekit.spec.messages import Detection

sides = st.floats(1, 50)
boxes = st.builds(
    lambda x, y, w, h: (x, y, x + w, y + h), st.floats(0, 100), st.floats(0, 100), sides, sides
)
found = st.lists(
    st.builds(
        lambda label, score, box: Detection(label=label, score=score, box=box),
        st.sampled_from(["person", "bottle"]), st.floats(0.1, 1), boxes,
    ),
    max_size=6,
)  # fmt: skip
frames = st.lists(found, min_size=1, max_size=4)


def one(score: float = 0.8, x: float = 0.0, label: str = "person") -> Detection:
    return Detection(label=label, score=score, box=(x, 0.0, x + 10.0, 10.0))


@given(frames)
def test_a_model_agrees_with_itself(seen: list[list[Detection]]) -> None:
    assert agreement(seen, seen) == pytest.approx(1.0)


@given(frames, st.data())
def test_agreement_is_a_share(seen: list[list[Detection]], data: st.DataObject) -> None:
    others = data.draw(st.lists(found, min_size=len(seen), max_size=len(seen)))
    assert 0 <= agreement(seen, others) <= 1 + 1e-9


def test_a_lost_box_and_a_new_one_cost_their_scores() -> None:
    assert agreement([[one(), one(x=50)]], [[one()]]) == pytest.approx(0.5)
    assert agreement([[one()]], [[one(), one(x=50)]]) == pytest.approx(0.5)


def test_a_lower_score_costs_the_difference() -> None:
    assert agreement([[one(0.8)]], [[one(0.6)]]) == pytest.approx(0.75)


def test_another_label_or_place_is_another_box() -> None:
    assert agreement([[one()]], [[one(label="bottle")]]) == 0
    assert agreement([[one()]], [[one(x=8)]]) == 0


def test_one_box_is_the_partner_of_one_only() -> None:
    """Two answers for one object are one too many."""
    assert agreement([[one()]], [[one(), one()]]) == pytest.approx(0.5)


def test_the_overlap_of_halves_is_a_third() -> None:
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 10, 10), (20, 20, 30, 30)) == 0
