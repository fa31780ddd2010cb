"""The link to whichever device comes next: one watch, moved along when that device moves.

In: name and address of the next device.  Out: what is known of the way there, for telemetry.
It is the agent's ``LinkMeter`` (edgekit/agent/link_meter.py), made for it by the command line: an
agent imports no stopwatch.
"""

import ssl
import threading
from collections.abc import Callable

from edgekit.profiler.link_watch import LinkWatch
from edgekit.spec.messages import LinkTelemetry
from edgekit.transport.probe_remote import RemoteLinkProbe

_SHARE = 0.001
"""Of the link: with 10 s between looks, a train that another frame may meet lasts 10 ms."""


class WatchedLink:
    """Watches the link from ``name`` to one device at a time. Thread-safe."""

    def __init__(self, *, name: str, period_s: float, tls: ssl.SSLContext | None = None) -> None:
        self._name, self._period_s, self._tls = name, period_s, tls
        self._lock = threading.Lock()
        self._target = ""
        self._probe: RemoteLinkProbe | None = None
        self._watch: LinkWatch | None = None

    def watch(self, target: str, host: str, port: int, *, carried_bytes: Callable[[], int]) -> None:
        """Look at the link to ``target`` from now on; only its address if that is known already."""
        with self._lock:
            if self._probe is not None and target == self._target:
                self._probe.set_peer(host, port)
                return
        self.unwatch()
        probe = RemoteLinkProbe(host, port, name=self._name, tls=self._tls, peer_name=target)
        watch = LinkWatch(
            probe, interval_s=self._period_s, share=_SHARE, carried_bytes=carried_bytes
        )
        with self._lock:
            self._target, self._probe, self._watch = target, probe, watch
        watch.start()

    def unwatch(self) -> None:
        """Look no more, and know no more. Returns within a second."""
        with self._lock:
            watch, self._probe, self._watch = self._watch, None, None
        if watch is not None:
            watch.close()

    def latest(self) -> LinkTelemetry | None:
        """What is known of the link; None while none is watched."""
        with self._lock:
            watch = self._watch
        return watch.telemetry() if watch is not None else None
