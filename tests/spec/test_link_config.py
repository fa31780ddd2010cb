"""[link] of agent.toml, and what a profile command may carry."""

import pytest

from edgekit.errors import ConfigError
from edgekit.spec.agent_config import AgentConfig
from edgekit.spec.base import parse_json, parse_toml
from edgekit.spec.messages import Command

BASE = b'device = "a"\nfleet = "f"\nbroker = "mqtt://b"\nstore = "s"\n'


def test_links_are_watched_unless_that_is_switched_off() -> None:
    """An agent.toml from before [link] is as good as ever."""
    link = parse_toml(BASE, AgentConfig, origin="agent.toml").link
    assert (link.enabled, link.port, link.period_s) == (True, 0, 10.0)
    off = parse_toml(BASE + b"[link]\nenabled = false\n", AgentConfig, origin="agent.toml")
    assert not off.link.enabled


@pytest.mark.parametrize("line", [b"port = 70000", b"port = -1", b"period_s = 0.0", b"hz = 1"])
def test_a_link_section_that_cannot_be_names_the_file_and_the_field(line: bytes) -> None:
    """It is edited by hand."""
    with pytest.raises(ConfigError, match=r"agent\.toml.*(link|hz)"):
        parse_toml(BASE + b"[link]\n" + line, AgentConfig, origin="agent.toml")


def test_a_budget_that_cannot_be_is_refused() -> None:
    """Commands come from the network."""
    payload = b'{"id":"x","verb":"profile","profile":{"budget_s":1e9}}'
    with pytest.raises(ConfigError, match="budget_s"):
        parse_json(payload, Command, origin="topic")
