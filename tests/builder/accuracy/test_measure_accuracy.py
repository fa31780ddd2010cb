"""What `edgekit accuracy` measures, that it goes on where it stopped, and how it says so."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekit.builder.accuracy.measure import measure_accuracy
from edgekit.builder.accuracy.request import AccuracyRequest, chosen_cuts, ranges_between
from edgekit.builder.plan_inputs import variants_of
from edgekit.builder.quantize import calibration_frames, image_input
from edgekit.builder.quantize.frames import Picture, digest_of
from edgekit.builder.quantize.score import ClassSet
from edgekit.cli.accuracy_plot import drawn
from edgekit.cli.accuracy_show import strategy_words
from edgekit.errors import ConfigError, PlanError
from edgekit.runtime.ort import OrtSession
from edgekit.spec.accuracy import AccuracyReport, ShardLoss
from edgekit.spec.card import InputCard
from tests.builder.quantize.quantize_nets import loaded_net, pictures, write_pictures

CARD = InputCard(resize="stretch", scale=1 / 255)


def same(picture: Picture) -> Picture:
    return picture


def black(picture: Picture) -> Picture:
    return np.zeros_like(picture)


def asked(folder: Path, **fields: object) -> AccuracyRequest:
    """A small classifier; the truth is what it says itself in fp32."""
    loaded = loaded_net(folder / "model", seed=1)
    variants = variants_of(loaded)
    held_out = pictures(24, seed=7)
    spec = image_input(loaded)
    session = OrtSession(loaded.path)
    labels = [
        int(next(iter(session.run({spec.name: _fed(one)}).values())).argmax()) for one in held_out
    ]
    given: dict[str, object] = {
        "loaded": loaded, "card": None, "evaluation": "classes:made", "target": "x86",
        "calibration": calibration_frames(
            f"images:{write_pictures(folder / 'cal', pictures(16, seed=1))}", CARD, spec
        ),
        "held_out": ClassSet(
            pictures=held_out, labels=labels, card=CARD, model_input=spec,
            digests=frozenset(map(digest_of, held_out)),
        ),
        "calibrators": ("minmax",), "variants": variants,
        "cuts": chosen_cuts(variants, ["r0", "c1"], 0), "codecs": ("fp16", "uint8+zstd"),
        "precisions": ("int8", "fp16"), "frames": {"same": same, "black": black},
        "machine": "a board", "versions": {"edgekit": "1"},
    } | fields  # fmt: skip
    return AccuracyRequest(**given)  # type: ignore[arg-type]


def _fed(picture: Picture) -> np.ndarray:
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[None].astype(np.float32) / 255)


def measured(
    request: AccuracyRequest, known: AccuracyReport | None = None
) -> tuple[AccuracyReport, list[str]]:
    told: list[str] = []
    say: Callable[[str, int, int], None] = lambda text, done, total: told.append(text)  # noqa: E731
    kept: list[AccuracyReport] = []
    report = measure_accuracy(request, known, keep=kept.append, progress=say)
    assert not kept or kept[-1] == report
    return report, told


def test_every_part_codec_and_frame_gets_a_row_once(tmp_path: Path) -> None:
    """Measured again with the finished report, nothing is run; with a half one, the rest is."""
    request = asked(tmp_path)
    report, _ = measured(request)
    ends = {(one.precision, one.after, one.until) for one in report.shard}
    assert ends == {
        ("int8", "", ""), ("int8", "", "r0"), ("int8", "", "c1"), ("int8", "r0", ""),
        ("int8", "c1", ""), ("int8", "r0", "c1"), ("fp16", "", ""),
    }  # fmt: skip
    codecs = {(one.cut, one.codec) for one in report.codec}
    assert {(cut, name) for cut in ("r0", "c1") for name in ("fp16", "uint8+zstd")} <= codecs
    assert {("r0", "qdq"), ("r0", "qdq+zstd"), ("r0", "qdq+lz4")} <= codecs
    integers = next(one for one in report.codec if (one.cut, one.codec) == ("r0", "qdq"))
    assert integers.wire_bytes == integers.element_count == 8 * 32 * 32
    assert [one.codec for one in report.frame] == ["same", "black"]
    assert report.baseline_percent == 100.0
    again, told = measured(request, report)
    assert again == report and not told
    half = msgspec.structs.replace(report, shard=report.shard[:3], frame=())
    rest, told = measured(request, half)
    assert {one.key for one in rest.shard} == {one.key for one in report.shard}
    assert not any("codecs at" in text for text in told)


def test_what_is_lost_is_what_is_scored(tmp_path: Path) -> None:
    """Frames that arrive as they were lose nothing; black ones lose most answers."""
    request = asked(tmp_path, precisions=(), codecs=(), cuts=())
    report, _ = measured(request)
    unchanged, nothing = report.frame
    assert (unchanged.drop_pp, unchanged.low_pp, unchanged.high_pp) == (0.0, 0.0, 0.0)
    assert nothing.drop_pp > 10 and nothing.low_pp <= nothing.drop_pp <= nothing.high_pp
    assert not report.shard and not report.codec


def test_measurements_of_other_data_or_of_another_target_are_not_gone_on_with(
    tmp_path: Path,
) -> None:
    """Rows of two kinds in one file could not be compared."""
    request = asked(tmp_path, precisions=(), codecs=(), cuts=())
    report, _ = measured(request)
    for field in ("target", "calibration_sha256", "evaluation_sha256"):
        other = msgspec.structs.replace(report, **{field: "x86-vnni"})
        with pytest.raises(ConfigError, match="other data or for another target"):
            measured(request, other)


def test_pictures_that_were_calibrated_on_are_refused(tmp_path: Path) -> None:
    """They would flatter."""
    request = asked(tmp_path)
    seen = replace(request.calibration, digests=frozenset(sorted(request.held_out.digests)[:2]))
    with pytest.raises(ConfigError, match="2 of the held-out pictures"):
        measured(replace(request, calibration=seen))


def test_cuts_are_those_named_or_spread(tmp_path: Path) -> None:
    """In model order, whatever order they were named in."""
    variants = variants_of(loaded_net(tmp_path / "model"))
    assert chosen_cuts(variants, ["c1", "r0"], 9) == (("r0",), ("c1",))
    assert len(chosen_cuts(variants, [], 2)) == 2 and not chosen_cuts(variants, [], 0)
    with pytest.raises(PlanError, match="no activation"):
        chosen_cuts(variants, ["nowhere"], 0)
    parts = ranges_between(variants[0].workload, (("r0",), ("c1",)))
    assert parts[0] == ((), ()) and parts[-1] == (("r0",), ("c1",))


def row(strategy: str, low_pp: float, high_pp: float) -> ShardLoss:
    middle = (low_pp + high_pp) / 2
    return ShardLoss(
        strategy=strategy, precision="int8", work_share=1.0, drop_pp=middle, low_pp=low_pp,
        high_pp=high_pp,
    )  # fmt: skip


def test_strategies_are_said_to_differ_only_where_their_intervals_part(tmp_path: Path) -> None:
    """Else everything is folded, and that is said with the number."""
    report, _ = measured(asked(tmp_path, precisions=(), codecs=(), cuts=(), frames={}))
    alike = msgspec.structs.replace(report, shard=(row("S3", 0.0, 1.0), row("S3+Ss", 0.3, 1.1)))
    (line,) = strategy_words(alike, 2)
    assert "differ by at most 0.20 pp" in line and "everything is folded" in line
    apart = msgspec.structs.replace(report, shard=(row("S3", 2.0, 3.0), row("S3+Ss", 0.0, 1.0)))
    (line,) = strategy_words(apart, 2)
    assert line.startswith("the strategies differ in int8 of the whole model: S3 2.50 pp")
    assert "no block" in strategy_words(report, 1)[0]
    assert drawn(apart, "png").startswith(b"\x89PNG")
