"""The testbed of a machine without root: plain processes, each with processors of its own.

In:  a Fleet.  Out: the same interface as ``testbed.Testbed``; links are those of this machine, and
``is_linked`` says so, so that nobody mistakes one for the other.
"""

import os
from types import TracebackType
from typing import Protocol

from edgekit.errors import ConfigError
from edgekit.spec.fleet import Fleet


class Bed(Protocol):
    """Where devices live. Real: Testbed; without root: PlainBed."""

    fleet: Fleet
    is_linked: bool
    """Whether the links are those of the fleet file."""

    @property
    def host_address(self) -> str:
        """Where devices reach this machine: the broker's host."""

    def address(self, device: str) -> str:
        """Where other devices reach ``device``."""

    def prefix(self, device: str) -> list[str]:
        """What to put before a command so that it runs on ``device``."""


class PlainBed:
    """Processes with affinity."""

    is_linked = False

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def __enter__(self) -> "PlainBed":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing was made."""

    @property
    def host_address(self) -> str:
        """This machine."""
        return "127.0.0.1"

    def address(self, device: str) -> str:
        """This machine too."""
        processor_of(self.fleet, device)
        return "127.0.0.1"

    def prefix(self, device: str) -> list[str]:
        """Nothing: agents pin themselves (``processor_of``)."""
        processor_of(self.fleet, device)
        return []


def processor_of(fleet: Fleet, device: str) -> int:
    """The processor that ``device`` has to itself, or shares where there are fewer than devices.

    Raises: ConfigError if the fleet has no such device.
    """
    names = [one.name for one in fleet.device]
    if device not in names:
        raise ConfigError(
            f"the testbed has no device {device!r}", hint=f"use one of {', '.join(names)}"
        )
    processors = sorted(os.sched_getaffinity(0))
    return processors[names.index(device) % len(processors)]
