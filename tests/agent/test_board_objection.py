"""When a board had better not be measured."""

from edgekit.agent.board_profile import objection_to_measuring
from edgekit.spec.agent_config import AgentConfig, RuntimeConfig

PLAIN = AgentConfig(device="a", fleet="f", broker="mqtt://b", store="s")


def test_an_idle_board_may_be_measured_also_after_a_failed_deployment() -> None:
    """Nothing runs there that could be disturbed."""
    assert not objection_to_measuring(PLAIN, state="idle", serving="")
    assert not objection_to_measuring(PLAIN, state="failed", serving="")


def test_a_board_that_serves_or_is_about_to_is_named_with_what_it_serves() -> None:
    """The stream comes first."""
    assert "d1" in objection_to_measuring(PLAIN, state="serving", serving="d1")
    assert "d1" in objection_to_measuring(PLAIN, state="preparing", serving="d1")
    for state in ("preparing", "ready"):
        assert "about to" in objection_to_measuring(PLAIN, state=state, serving="")  # type: ignore[arg-type]


def test_an_agent_that_stands_for_a_slower_board_is_not_measured_as_that_board() -> None:
    """The profiler would see the machine beneath."""
    slow = AgentConfig(
        device="a", fleet="f", broker="mqtt://b", store="s", runtime=RuntimeConfig(dilation=4.0)
    )
    assert "dilation = 4" in objection_to_measuring(slow, state="idle", serving="")
