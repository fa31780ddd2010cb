"""The choice between fp32 and int8: by measured numbers, and with what was not measured said."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.builder.quantize.evaluation_sets import detection_set
from edgekit.builder.quantize.frames import CalibrationFrames
from edgekit.builder.quantize.gate import judge, quantize_model
from edgekit.builder.quantize.recipes import recipe_for
from edgekit.builder.quantize.score import (
    AccuracyDrop,
    class_drop,
    detection_drop,
    wilson_interval,
)
from edgekit.errors import ConfigError
from edgekit.runtime.session import Session
from edgekit.spec.messages import Detection
from edgekit.spec.tensors import TensorSpec
from edgekit.vision.cards import builtin_card
from tests.builder.quantize.quantize_nets import frames, loaded_net, pictures, write_pictures


def drop_of(drop_pp: float) -> AccuracyDrop:
    return AccuracyDrop(
        metric="top-1", picture_count=100, before=0.9, after=0.9 - drop_pp / 100,
        drop_pp=drop_pp, low_pp=drop_pp - 1, high_pp=drop_pp + 1,
    )  # fmt: skip


@dataclass
class Known:
    """A held-out set with a known answer."""

    drop_pp: float
    digests: frozenset[str] = field(default_factory=frozenset)

    def compare(self, before: Session, after: Session, watch: object) -> AccuracyDrop:
        return drop_of(self.drop_pp)


@pytest.mark.parametrize(
    ("times_s", "drop_pp", "chosen"),
    [
        ((0.010, 0.005), 0.5, "int8"),
        ((0.010, 0.005), 1.5, "fp32"),
        ((0.010, 0.005), math.nan, "fp32"),
        ((0.010, 0.0099), 0.0, "fp32"),
        ((0.010, 0.012), -1.0, "fp32"),
        ((0.010, 0.005), None, "int8"),
        (None, 0.5, "int8"),
        (None, 1.5, "fp32"),
    ],
)
def test_int8_must_be_faster_beyond_noise_and_within_the_limit(
    times_s: tuple[float, float] | None, drop_pp: float | None, chosen: str
) -> None:
    """Slower but accurate, and fast but wrong, are both fp32; an unknown is not held against it."""
    drop = None if drop_pp is None else drop_of(drop_pp)
    precision, reasons = judge(times_s, drop, 1.0, recipe_for("x86"))
    assert precision == chosen
    assert len(reasons) == 2
    assert ("not known" in reasons[0]) == (times_s is None)
    assert ("not known" in reasons[1]) == (drop_pp is None)


def test_a_model_goes_through_the_gate_with_all_its_numbers(tmp_path: Path) -> None:
    """For a target that is not here: what cannot be timed is not timed."""
    given = CalibrationFrames(
        tensors=tuple(one["image"] for one in frames(16)), digests=frozenset(), uri="memory"
    )
    loaded, recipe = loaded_net(tmp_path), recipe_for("tensorrt")
    verdict = quantize_model(loaded, given, recipe, held_out=Known(0.2), calibrators=("minmax",))
    assert (verdict.precision, verdict.speed_up, verdict.float_s) == ("int8", None, None)
    assert verdict.int8_bytes > 0 and verdict.float_bytes > 0
    assert len(verdict.tried) == 2
    refused = quantize_model(loaded, given, recipe, held_out=Known(3), calibrators=("minmax",))
    assert (refused.precision, refused.is_too_inaccurate) == ("fp32", True)
    assert refused.candidate.losses[0].sqnr_db <= refused.candidate.losses[-1].sqnr_db


def test_pictures_that_were_calibrated_on_do_not_count_as_held_out(tmp_path: Path) -> None:
    """Such a score flatters."""
    given = CalibrationFrames(tensors=(), digests=frozenset({"one", "two"}), uri="memory")
    held_out = Known(0.0, frozenset({"two", "three"}))
    with pytest.raises(ConfigError, match="1 pictures of the evaluation are calibration frames"):
        quantize_model(loaded_net(tmp_path), given, recipe_for("x86"), held_out=held_out)


def test_the_drop_of_top1_counts_pictures_on_which_they_disagree() -> None:
    """Six lost, two won, of a hundred; the margin from the eight alone."""
    before = [True] * 90 + [False] * 10
    after = [False] * 6 + [True] * 84 + [True] * 2 + [False] * 8
    drop = class_drop(before, after)
    assert (drop.before, drop.after) == (0.90, 0.86)
    assert drop.drop_pp == pytest.approx(4.0)
    assert drop.high_pp - drop.drop_pp == pytest.approx(196.0 * math.sqrt(8 - 0.16) / 100, 1e-3)


def test_equal_answers_have_no_drop_and_no_margin() -> None:
    drop = class_drop([True, False] * 20, [True, False] * 20)
    assert (drop.drop_pp, drop.low_pp, drop.high_pp) == (0.0, 0.0, 0.0)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_a_share_holds_it_and_stays_within_zero_and_one(
    case: tuple[int, int],
) -> None:
    """Wilson's: also at none and all."""
    right, count = case
    low, high = wilson_interval(right, count)
    assert 0 <= low <= right / count + 1e-12
    assert right / count - 1e-12 <= high <= 1


def test_the_interval_of_a_share_is_wilsons() -> None:
    """81 of 263: the example of Newcombe, Statistics in Medicine 17, 1998, table I."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_boxes_that_int8_misses_are_a_drop_with_an_interval() -> None:
    """A quarter of the frames has no answer any more."""
    truth = [[Detection(label="person", score=1.0, box=(0.0, 0.0, 10.0, 10.0))] for _ in range(40)]
    after = [boxes if number % 4 else [] for number, boxes in enumerate(truth)]
    drop = detection_drop(truth, after, truth, "person", bootstrap_count=40)
    assert drop.before == pytest.approx(1.0)
    assert 20 < drop.drop_pp < 30
    assert 5 < drop.low_pp < drop.drop_pp < drop.high_pp < 50


def test_labelled_pictures_are_read_and_scored_in_pixels(tmp_path: Path) -> None:
    """YOLO's shares of width and height become corners."""
    write_pictures(tmp_path / "images", pictures(17))
    (tmp_path / "labels").mkdir()
    for number in range(16):
        (tmp_path / "labels" / f"{number:03}.txt").write_text("0 0.5 0.25 0.5 0.25 9 9\n")
    card = builtin_card("yolox")
    given = TensorSpec(name="images", dtype="float32", shape=(1, 3, 64, 64))
    found = detection_set(tmp_path, card, given)
    assert (len(found.pictures), found.label) == (16, "person")
    assert found.truths[0][0].box == (8.0, 4.0, 24.0, 12.0)
    assert found.card.output.score_threshold <= 0.05
    (tmp_path / "labels" / "000.txt").write_text("7 0.5 0.25 0.5 0.25\n")
    with pytest.raises(ConfigError, match="has class 7"):
        detection_set(tmp_path, card, given)


def test_a_folder_without_labels_is_refused_with_the_layout(tmp_path: Path) -> None:
    given = TensorSpec(name="images", dtype="float32", shape=(1, 3, 64, 64))
    with pytest.raises(ConfigError, match="no images folder with one labels folder"):
        detection_set(tmp_path, builtin_card("yolox"), given)
