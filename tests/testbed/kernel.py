"""Make and unmake a layout in the kernel, with the ip and tc commands.

In:  a Layout.  Out: namespaces, addresses, routes, limited interfaces; or a DeviceError and nothing
left behind.  Needs root.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence

from edgekit.errors import DeviceError
from tests.testbed.layout import Layout, Seat, Wire

_PAYLOAD_BYTES = 1448
"""Of a full TCP segment. ``tbf`` counts what an interface carries, a fleet file what arrives."""
_IP_PACKET_BYTES, _ETHERNET_BYTES = 1500, 14
_BURST_S = 2e-3
_BURST_MIN_BYTES = 8 * 1024
_BURST_MAX_BYTES = 256 * 1024
_QUEUE_S = 0.1


def check_possible() -> None:
    """Raises: DeviceError saying what this machine lacks."""
    if os.geteuid() != 0:
        raise DeviceError(
            "the testbed needs root for network namespaces",
            hint="run it with sudo, or with --plain for processes without emulated links",
        )
    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if missing:
        raise DeviceError(
            f"the testbed needs the commands {', '.join(missing)}", hint="apt install iproute2"
        )


def run(*words: str) -> str:
    """A command, which must succeed. Raises: DeviceError with what it said."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise DeviceError(
            f"`{' '.join(words)}` failed: {said[-1] if said else done.returncode}",
            hint="run `python -m tests.testbed clean`, and see whether this kernel has namespaces",
        )
    return done.stdout


def make(layout: Layout) -> None:
    """Everything but the tunnels of delayed wires, which their relay makes."""
    run("ip", "link", "add", layout.bridge, "type", "bridge")
    run("ip", "addr", "add", f"{layout.host_address}/24", "dev", layout.bridge)
    run("ip", "link", "set", layout.bridge, "up")
    for seat in layout.seats:
        _make_seat(layout, seat)
    for wire in layout.wires:
        if not wire.delay_s:
            _make_pair(layout, wire)


def unmake(tag: str) -> None:
    """Remove all that carries ``tag``; what is not there is no error."""
    for name in namespaces():
        if name.startswith(f"{tag}-"):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    for line in run("ip", "-o", "link", "show").splitlines():
        name = line.split(":")[1].strip().split("@")[0]
        if name.startswith(tag):
            subprocess.run(["ip", "link", "del", name], capture_output=True, check=False)


def namespaces() -> list[str]:
    """Names of all network namespaces."""
    lines = run("ip", "netns", "list").splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def inside(seat: Seat, *words: str) -> list[str]:
    """A command line that runs ``words`` where the device lives."""
    return ["ip", "netns", "exec", seat.namespace, *words]


def connect(layout: Layout, wire: Wire) -> None:
    """Addresses, limits and routes of a wire whose interfaces exist."""
    for end, other in ((0, 1), (1, 0)):
        seat, far = layout.seat(wire.ends[end]), layout.seat(wire.ends[other])
        name = wire.interfaces[end]
        peer = wire.addresses[other]
        run(*_ip(seat, "addr", "add", f"{wire.addresses[end]}", "peer", peer, "dev", name))
        run(*_ip(seat, "link", "set", name, "mtu", "1500", "up"))
        run(*_ip(seat, "route", "add", far.address, "via", peer, "dev", name, "src", seat.address))
        limit(layout, wire, end, wire.bytes_per_s[end])


def limit(layout: Layout, wire: Wire, end: int, bytes_per_s: float) -> None:
    """Set what leaves ``end`` of a wire, also while it is in use."""
    # A tunnel carries no Ethernet headers.
    full_bytes = _IP_PACKET_BYTES + (0 if wire.delay_s else _ETHERNET_BYTES)
    on_wire = bytes_per_s * full_bytes / _PAYLOAD_BYTES
    burst = int(min(max(on_wire * _BURST_S, _BURST_MIN_BYTES), _BURST_MAX_BYTES))
    run(
        "tc", "-n", layout.seat(wire.ends[end]).namespace, "qdisc", "replace",
        "dev", wire.interfaces[end], "root", "tbf", "rate", f"{int(on_wire * 8)}bit",
        "burst", str(burst), "latency", f"{int(_QUEUE_S * 1e3)}ms",
    )  # fmt: skip


def drop_all(layout: Layout, wire: Wire, end: int) -> None:
    """Let nothing leave ``end`` of a wire, until ``limit`` is called again."""
    run(
        "tc", "-n", layout.seat(wire.ends[end]).namespace, "qdisc", "replace",
        "dev", wire.interfaces[end], "root", "blackhole",
    )  # fmt: skip


def _ip(seat: Seat, *words: str) -> Sequence[str]:
    return ("ip", "-n", seat.namespace, *words)


def _make_seat(layout: Layout, seat: Seat) -> None:
    run("ip", "netns", "add", seat.namespace)
    run(*_ip(seat, "link", "set", "lo", "up"))
    run(*_ip(seat, "addr", "add", f"{seat.address}/32", "dev", "lo"))
    run("ip", "link", "add", seat.uplink, "type", "veth", "peer", "name", "uplink",
        "netns", seat.namespace)  # fmt: skip
    run("ip", "link", "set", seat.uplink, "master", layout.bridge, "up")
    run(*_ip(seat, "addr", "add", f"{seat.uplink_address}/24", "dev", "uplink"))
    run(*_ip(seat, "link", "set", "uplink", "up"))


def _make_pair(layout: Layout, wire: Wire) -> None:
    one, other = (layout.seat(device) for device in wire.ends)
    run("ip", "link", "add", wire.interfaces[0], "netns", one.namespace, "type", "veth",
        "peer", "name", wire.interfaces[1], "netns", other.namespace)  # fmt: skip
    connect(layout, wire)
