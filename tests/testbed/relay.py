"""Delay every packet of some wires: a process of its own between pairs of namespaces.

In:  the wires, as JSON on the command line.  Out: a tun interface at each end, "ready" on standard
output, then packets carried over, each ``delay_s`` after it came.  It ends with its standard input,
so it never outlives the testbed; its interfaces go with it.
The kernel's own netem does this better; many small kernels lack it.
"""

import ctypes
import fcntl
import json
import os
import select
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_PACKET_BYTES = 65536
_QUEUE_MOST = 20_000
"""Packets under way in one direction; more than any limited wire holds."""
_READ_AT_ONCE = 64
_NICENESS = -10
"""A wire does not wait for a processor; the devices that it joins may."""


@dataclass
class Lane:
    """One direction of one wire."""

    source: int
    """File descriptors of the two interfaces."""
    target: int
    delay_s: float
    under_way: deque[tuple[float, bytes]] = field(default_factory=deque)

    def take(self) -> None:
        """Read what waits at the source."""
        for _ in range(_READ_AT_ONCE):
            try:
                packet = os.read(self.source, _PACKET_BYTES)
            except OSError:  # nothing left, or the interface is going down
                return
            if len(self.under_way) < _QUEUE_MOST:
                self.under_way.append((time.monotonic() + self.delay_s, packet))

    def give(self, now_s: float) -> None:
        """Write what is due."""
        while self.under_way and self.under_way[0][0] <= now_s:
            packet = self.under_way.popleft()[1]
            try:
                os.write(self.target, packet)
            except OSError:  # down, or full: a wire may lose packets
                return


def enter(namespace: str) -> None:
    """Move this thread into a network namespace. Raises: OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/run/netns/{namespace}").open("rb") as handle:
        if libc.setns(handle.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter namespace {namespace}")


def open_tun(namespace: str, name: str) -> int:
    """A new tun interface ``name`` in ``namespace``. Returns: its file descriptor."""
    enter(namespace)
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    wanted = struct.pack("16sH14x", name.encode(), _IFF_TUN | _IFF_NO_PI)
    fcntl.ioctl(handle, _TUNSETIFF, wanted)
    return handle


def carry(lanes: list[Lane], until: int) -> None:
    """Carry packets until the file descriptor ``until`` is closed at its other end."""
    by_source = {lane.source: lane for lane in lanes}
    while True:
        due_s = min((lane.under_way[0][0] for lane in lanes if lane.under_way), default=None)
        wait_s = None if due_s is None else max(0.0, due_s - time.monotonic())
        # Not epoll: its timeouts are whole milliseconds.
        ready, _, _ = select.select([until, *by_source], [], [], wait_s)
        if until in ready and not os.read(until, 1):
            return
        for handle in ready:
            if handle in by_source:
                by_source[handle].take()
        now_s = time.monotonic()
        for lane in lanes:
            lane.give(now_s)


def main() -> None:
    """Open both ends of each wire, say so, carry packets."""
    os.nice(_NICENESS)
    lanes = []
    for wire in json.loads(sys.argv[1]):
        ends = [
            open_tun(space, name)
            for space, name in zip(wire["namespaces"], wire["interfaces"], strict=True)
        ]
        lanes += [
            Lane(ends[0], ends[1], wire["delay_s"]),
            Lane(ends[1], ends[0], wire["delay_s"]),
        ]
    print("ready", flush=True)
    carry(lanes, sys.stdin.fileno())


if __name__ == "__main__":
    main()
