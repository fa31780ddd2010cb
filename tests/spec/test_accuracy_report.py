"""What was measured becomes what the planner is charged, and survives being saved."""

import math
from pathlib import Path

import msgspec
import pytest

from edgekit.errors import ConfigError
from edgekit.spec.accuracy import (
    AccuracyReport,
    CodecLoss,
    FloatOperators,
    FrameLoss,
    ShardLoss,
)
from edgekit.spec.base import load, save
from edgekit.spec.planning import RAW_FP32


def codec_loss(codec: str, cut: str, drop_pp: float, **fields: float) -> CodecLoss:
    given = {
        "low_pp": drop_pp - 0.5, "high_pp": drop_pp + 0.5, "element_count": 1000,
        "wire_bytes": 1000.0, "encode_s": 1e-3, "decode_s": 2e-3,
    } | fields  # fmt: skip
    return CodecLoss(codec=codec, cut=cut, drop_pp=drop_pp, **given)  # type: ignore[arg-type]


REPORT = AccuracyReport(
    model="net", model_sha256="ab" * 32, metric="top-1", baseline_percent=91.5,
    evaluation="classes:pictures", evaluation_count=200, evaluation_sha256="cd" * 32,
    calibration="images:some", calibration_count=16, calibration_sha256="ef" * 32, target="x86",
    machine="a board", versions={"edgekit": "1"},
    shard=(
        ShardLoss(strategy="S3", precision="int8", work_share=1.0, drop_pp=0.6, low_pp=0.1,
                  high_pp=1.2),
        ShardLoss(strategy="S3", precision="int8", until="t1", work_share=0.5, drop_pp=-0.4,
                  low_pp=-0.9, high_pp=-0.1),
    ),
    codec=(
        codec_loss("uint8", "t1", 0.2), codec_loss("uint8", "t2,t3", 0.9, wire_bytes=3000.0),
        codec_loss("qdq", "t1", 0.0, high_pp=0.0), codec_loss("qdq", "t9", 0.0, element_count=0),
    ),
    frame=(FrameLoss(codec="jpeg-90", drop_pp=-0.3, low_pp=-1.0, high_pp=0.4),),
    in_float=(FloatOperators(strategy="S3", calibrator="minmax", operators=("head", "decode")),),
)  # fmt: skip


def test_a_report_survives_being_saved_as_toml(tmp_path: Path) -> None:
    """It is written after every row, and gone on with."""
    save(REPORT, tmp_path / "accuracy.toml")
    assert load(tmp_path / "accuracy.toml", AccuracyReport) == REPORT


def test_a_drop_counts_at_the_upper_end_of_its_interval_unless_asked_otherwise() -> None:
    """A planner picks among dozens: the luckiest of noisy figures would win."""
    assert [one.drop_pp for one in REPORT.table().drop] == [1.2, 0.0]
    assert [one.drop_pp for one in REPORT.table("as-measured").drop] == [0.6, 0.0]
    assert REPORT.frame_drop_pp("jpeg-90") == 0.4
    assert REPORT.frame_drop_pp("jpeg-90", "as-measured") == 0.0
    assert REPORT.frame_drop_pp("webp-80") is None


def test_a_codec_at_a_cut_that_was_not_measured_loses_what_it_loses_at_worst() -> None:
    """And takes its mean bytes; raw activations are always there, what no integers cross is not."""
    raw, stepped, integers = REPORT.codecs()
    assert raw == RAW_FP32
    assert stepped.drop_at("t1") == pytest.approx(0.7)
    assert stepped.drop_at("t2,t3") == stepped.drop_at("elsewhere") == pytest.approx(1.4)
    assert stepped.bytes_per_element == 2.0 and stepped.by_cut == {"t1": 1.0, "t2,t3": 3.0}
    assert stepped.encode_bytes_per_s == pytest.approx(4 * 2000 / 2e-3)
    assert integers.is_integer and integers.drop_at("elsewhere") == 0.0
    assert math.isinf(integers.encode_bytes_per_s) and list(integers.by_cut) == ["t1"]


@pytest.mark.parametrize("field", ["drop_pp", "low_pp", "high_pp"])
def test_a_loss_that_is_no_number_is_refused(field: str) -> None:
    """AP of a set without a single box is none."""
    with pytest.raises(ConfigError, match="accuracy drop"):
        msgspec.structs.replace(REPORT.frame[0], **{field: math.nan})
