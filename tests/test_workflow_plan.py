"""What a plan says of what nobody measured."""

import msgspec

from edgekit.spec.accuracy import AccuracyReport
from edgekit.workflow_plan import unmeasured_codecs
from tests.plan_values import alone, candidate, farm, hop, plan_report, stage


def sent(codec: str) -> object:
    return candidate(
        "frames",
        [stage("gateway", 10)],
        [hop("camera", "gateway", 2, carries="frame", codec=codec)],
    )


def test_a_lossy_way_to_send_frames_is_not_passed_off_as_lossless() -> None:
    """JPEG costs small objects most; without a measurement the plan takes it for nothing, and says
    so."""
    (note,) = unmeasured_codecs(plan_report(chosen=sent("jpeg-90")), None)
    assert "jpeg-90" in note and "edgekit accuracy" in note
    shared = msgspec.structs.replace(farm(), members=(alone(), sent("webp-80")))
    assert "webp-80" in unmeasured_codecs(plan_report(chosen=shared), None)[0]


def test_nothing_is_said_of_what_loses_nothing_or_was_measured() -> None:
    for codec in ("raw", "png"):
        assert unmeasured_codecs(plan_report(chosen=sent(codec)), None) == ()
    assert unmeasured_codecs(plan_report(chosen=None), None) == ()
    known: AccuracyReport = object()  # type: ignore[assignment]
    assert unmeasured_codecs(plan_report(chosen=sent("jpeg-90")), known) == ()
