"""Plans in words: every family has a name, and every loser a reason that names the culprit."""

import msgspec
import pytest

from edgekit.planner.explain import explain, say_binding
from edgekit.planner.wording import (
    cut_name,
    describe,
    headline,
    other_refusals,
    slowest_part,
    why_it_lost,
    why_not,
)
from edgekit.spec.planning import Binding, Goal, Refusal
from tests.plan_values import alone, candidate, farm, frames, hop, pipeline, plan_report, stage


def test_every_family_is_described_in_one_line() -> None:
    """So that a table of them can be read without a legend."""
    assert describe(alone()) == "camera alone"
    assert describe(frames()) == "gateway, frames as jpeg-90 from camera"
    assert describe(pipeline()) == "camera until conv5 -> gateway"
    assert describe(farm()) == ("farm: 25% camera | 75% gateway (jpeg-90)")


def test_a_wide_cut_names_its_first_tensor_and_counts_the_rest() -> None:
    """Names of exported tensors are long."""
    assert cut_name(("a",)) == "a"
    assert cut_name(("a", "b", "c")) == "a and 2 more"


def test_the_headline_has_latency_rate_and_bytes() -> None:
    assert headline(pipeline()) == "20.5 ms (17.3 ms to 24.5 ms), 100.0 fps, 50.0 kB over links"


def test_a_slower_plan_is_told_by_how_much_and_through_what() -> None:
    """The part whose time grew most is the reason."""
    reason = why_it_lost(frames(30), pipeline(), Goal())
    assert reason.startswith("122% more latency (+25.0 ms)")
    assert "camera to gateway takes 29.0 ms more" in reason


def test_under_throughput_the_slowest_part_is_the_reason() -> None:
    """Latency is then beside the point."""
    reason = why_it_lost(frames(30), pipeline(), Goal(objective="throughput"))
    assert reason == "67% fewer answers per second; slowest: camera to gateway, 30.0 ms"


def test_a_broken_limit_comes_before_everything_else() -> None:
    """A plan that is faster but not allowed lost because it is not allowed."""
    goal = Goal(max_latency_s=0.03, min_fps=50)
    assert why_it_lost(alone(), pipeline(), goal) == "latency above the limit of 30.0 ms"
    slow = candidate("whole", [stage("camera", 25)], [])
    assert why_it_lost(slow, pipeline(), goal) == "fewer than 50 fps"


def test_a_tie_is_called_a_tie() -> None:
    """0.1 % is no reason."""
    reason = why_it_lost(pipeline(10.01), pipeline(), Goal())
    assert reason.startswith("as good")
    assert why_it_lost(pipeline(), pipeline(), Goal()) == ""


def test_coding_counts_where_it_is_done() -> None:
    """Encoding keeps the sender busy, not the link."""
    busy = candidate(
        "frames", [stage("gateway", 3)], [hop("camera", "gateway", 2, carries="frame", codec="x")]
    )
    assert slowest_part(busy) == "gateway, 5.0 ms"


def test_an_explanation_covers_devices_hops_neighbours_and_losers() -> None:
    """Everything that somebody would ask next."""
    report = plan_report(
        flips=("above 140 Mbit/s from camera to gateway: gateway, frames as jpeg-90 from camera",),
        refusals=(
            Refusal(
                candidate="camera until conv9 -> gateway", reason="camera.memory: 84 MB realised"
            ),
            Refusal(candidate="camera", reason="latency 95.1 % above the best"),
        ),
        notes=("the link is assumed",),
    )
    text = "\n".join(explain(report))
    for part in (
        "For the shortest latency: camera until conv5 -> gateway.",
        "camera runs 10 operators under S3 in fp32",
        "2.0 flop/byte; its arithmetic binds",
        "Activations from camera to gateway: 50.0 kB as fp32 in 4.0 ms",
        "Answers come no faster than the slowest part allows: camera, 10.0 ms.",
        "Cut at conv6 instead: 5% more latency (+1.0 ms); camera takes 2.0 ms more "
        "(gateway would take 1.0 ms less).",
        "camera alone: 95% more latency",
        "It would change above 140 Mbit/s from camera to gateway",
        "Refused: camera until conv9 -> gateway: camera.memory: 84 MB realised.",
        "Note: the link is assumed.",
    ):
        assert part in text, part


def test_a_limit_that_the_search_says_is_broken_is_the_reason() -> None:
    """Else a plan that is better, but not allowed, would be told to be no better."""
    said = "camera.memory: 3e+07 B, and 1e+07 B is the limit"
    report = plan_report(refusals=(Refusal(candidate="camera", reason=said),))
    assert why_not(alone(), report) == said
    assert why_not(frames(), report).startswith("73% more latency")
    assert why_not(pipeline(), report) == ""
    assert other_refusals(report) == ()


def test_an_explanation_of_a_farm_tells_what_each_member_does() -> None:
    text = "\n".join(explain(plan_report(chosen=farm())))
    assert "camera runs 10 operators" in text and "gateway runs 10 operators" in text
    assert "no member waits for another" in text


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        (Binding(limit="max_latency_s", asked=0.01, best=0.0205, unit="s"), "asked 10.0 ms"),
        (Binding(limit="camera.memory", asked=1e6, best=3e6, unit="bytes"), "comes to 3.0 MB"),
        (Binding(limit="min_fps", asked=90, best=48.8, unit="fps"), "comes to 48.8 fps"),
    ],
)
def test_a_binding_limit_says_what_was_asked_and_what_can_be_had(
    binding: Binding, said: str
) -> None:
    report = msgspec.structs.replace(plan_report(), chosen=None, binding=(binding,))
    assert said in say_binding(binding)
    assert said in "\n".join(explain(report))
