"""The emulated fleet: a context manager that is the machine room.

In:  a Fleet.  Out: inside the context its devices can be lived in (``prefix``), found
(``address``) and their links changed (``set_bandwidth``); outside it nothing is left, and what an
owner that was killed left behind is cleared away by the next.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from types import TracebackType

from edgekit.errors import ConfigError, DeviceError
from edgekit.spec.fleet import Fleet
from edgekit.units import parse_size
from tests.testbed import kernel, ownership
from tests.testbed.layout import Layout, Wire, layout_of
from tests.testbed.limits import MemoryLimit, leftovers, limit_memory

_NETS = range(77, 97)
_RELAY = "tests.testbed.relay"
_ROOT = Path(__file__).parents[2]


class Testbed:
    """Namespaces, links and limits of ``fleet``, from ``__enter__`` to ``__exit__``."""

    __test__ = False
    is_linked = True

    def __init__(self, fleet: Fleet) -> None:
        kernel.check_possible()
        self.fleet = fleet
        self.layout: Layout = layout_of(fleet, key=uuid.uuid4().hex)
        self._limits: dict[str, MemoryLimit] = {}
        self._relay: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Testbed":
        clean()
        try:
            with ownership.alone():
                self.layout = layout_of(self.fleet, key=uuid.uuid4().hex, net=_free_net())
                ownership.claim(self.layout.tag)
                kernel.make(self.layout)
            self._start_relay()
            if not self.fleet.link:
                self._join_all()
            for device in self.fleet.device:
                if device.memory:
                    name = self.layout.seat(device.name).namespace
                    self._limits[device.name] = limit_memory(name, parse_size(device.memory))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End whatever still runs inside, then remove it all. Calling it again does nothing."""
        if self._relay is not None:
            self._relay.kill()
            self._relay.wait()
            self._relay = None
        remove(self.layout.tag)

    @property
    def host_address(self) -> str:
        """Where devices reach this machine: the broker's host."""
        return self.layout.host_address

    def address(self, device: str) -> str:
        """Where other devices reach ``device``."""
        return self.layout.seat(device).address

    def prefix(self, device: str) -> list[str]:
        """What to put before a command so that it runs on ``device``."""
        words = kernel.inside(self.layout.seat(device))
        limit = self._limits.get(device)
        return limit.under(words) if limit is not None else words

    def set_bandwidth(self, source: str, target: str, bytes_per_s: float) -> None:
        """Change what the link carries from ``source`` to ``target`` from now on."""
        wire = self._wire(source, target)
        kernel.limit(self.layout, wire, wire.ends.index(source), bytes_per_s)

    def cut(self, source: str, target: str) -> None:
        """Pull the cable between two devices: nothing arrives any more, nobody is told."""
        wire = self._wire(source, target)
        for end in (0, 1):
            kernel.drop_all(self.layout, wire, end)

    def mend(self, source: str, target: str) -> None:
        """Plug it in again, as the fleet file says."""
        wire = self._wire(source, target)
        for end in (0, 1):
            kernel.limit(self.layout, wire, end, wire.bytes_per_s[end])

    def _wire(self, source: str, target: str) -> Wire:
        for wire in self.layout.wires:
            if set(wire.ends) == {source, target}:
                return wire
        raise ConfigError(
            f"no link joins {source} and {target}", hint="add a [[link]] to the fleet file"
        )

    def _join_all(self) -> None:
        """Without a single link, every device reaches every other at full speed."""
        for seat in self.layout.seats:
            for other in self.layout.seats:
                if other is not seat:
                    kernel.run(
                        "ip", "-n", seat.namespace, "route", "add", other.address,
                        "via", other.uplink_address, "src", seat.address,
                    )  # fmt: skip

    def _start_relay(self) -> None:
        delayed = [wire for wire in self.layout.wires if wire.delay_s]
        if not delayed:
            return
        wires = [
            {
                "namespaces": [self.layout.seat(device).namespace for device in wire.ends],
                "interfaces": wire.interfaces,
                "delay_s": wire.delay_s,
            }
            for wire in delayed
        ]
        self._relay = subprocess.Popen(
            [sys.executable, "-m", _RELAY, json.dumps(wires)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            start_new_session=True,
        )
        assert self._relay.stdout is not None
        assert self._relay.stderr is not None
        if self._relay.stdout.readline().strip() != "ready":
            said = self._relay.stderr.read().strip().splitlines()
            raise DeviceError(
                f"the delay relay did not start: {said[-1] if said else 'it said nothing'}",
                hint="see whether /dev/net/tun exists (modprobe tun)",
            )
        for wire in delayed:
            kernel.connect(self.layout, wire)


def clean() -> list[str]:
    """Remove testbeds whose owner was killed. Returns: their tags."""
    gone = ownership.orphans()
    for tag in gone:
        remove(tag)
    return gone


def remove(tag: str) -> None:
    """Remove all of one testbed, processes inside first."""
    for name in kernel.namespaces():
        if name.startswith(f"{tag}-"):
            _end_members(name)
    kernel.unmake(tag)
    for folder in leftovers(tag):
        MemoryLimit(folder).remove()
    ownership.release(tag)


def _end_members(namespace: str) -> None:
    """Kill whatever still runs in a namespace; deleting it would leave them in the dark."""
    for word in kernel.run("ip", "netns", "pids", namespace).split():
        if int(word) != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(word), signal.SIGKILL)


def _free_net() -> int:
    """The second number of 10.N.0.0/16, of those that no interface of this machine has."""
    taken = kernel.run("ip", "-o", "-4", "addr", "show")
    for net in _NETS:
        if f" 10.{net}." not in taken:
            return net
    raise DeviceError(
        f"10.{_NETS.start}.0.0 to 10.{_NETS.stop - 1}.0.0 are all in use",
        hint="run `python -m tests.testbed clean`",
    )
