"""Who this agent process is to the fleet: a run id, and what is said when it vanishes.

In: its configuration.  Out: names and the last will.
"""

import secrets

from edgekit.spec.agent_config import AgentConfig
from edgekit.spec.base import to_json
from edgekit.spec.messages import DeviceStatus
from edgekit.spec.topics import Topics


def new_run_id() -> str:
    """A name for this agent process, different after every restart."""
    return secrets.token_hex(4)


def offline_will(config: AgentConfig, run: str) -> tuple[str, bytes]:
    """Topic and payload that the broker publishes when this agent vanishes."""
    status = DeviceStatus(
        device=config.device,
        state="offline",
        run=run,
        problem=f"{config.device} vanished without a good-bye: power, network, or its agent died",
    )
    return Topics(fleet=config.fleet).status(config.device), to_json(status, indent=0)
