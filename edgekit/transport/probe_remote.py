"""The probe port over the network: one session per look, so a restart of either end is no news.

In: a responder's address, which may change.  Out: samples of the direction from here to there.
"""

import ssl
import threading

from edgekit.errors import LinkError
from edgekit.transport.probe import ECHO_BYTES, ProbeSession
from edgekit.transport.probe_messages import TRAIN_CAP_COUNT
from edgekit.transport.probe_port import LinkSample

_ECHO_COUNT = 5
_ECHO_INTERVAL_S = 0.02
_TRAIN_MIN_COUNT = 8
_FRAME_EXTRA_BYTES = 66
"""Ethernet, IP and TCP headers of one frame, about."""
_SESSION_COST_BYTES = 1500
"""About what greeting, asking and leaving send."""


class RemoteLinkProbe:
    """The LinkProbe of the link to one responder. ``look`` and ``set_peer`` from any thread.

    With ``peer_name`` only a responder that calls itself so is measured: an address may have gone
    to another device.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        name: str,
        tls: ssl.SSLContext | None = None,
        peer_name: str = "",
    ) -> None:
        self._name, self._tls, self._wanted_name = name, tls, peer_name
        self._lock = threading.Lock()
        self._peer, self._peer_name = (host, port), peer_name or host

    def set_peer(self, host: str, port: int) -> None:
        """Where the responder listens from the next look on."""
        with self._lock:
            self._peer = (host, port)

    @property
    def ends(self) -> tuple[str, str]:
        """Names of this end and the other: what it called itself last."""
        return self._name, self._peer_name

    def look(self, *, train_bytes: int) -> LinkSample:
        """A few echoes and one train of at least 8 packets; 3 s at most unless the link is lost.

        No train at all for ``train_bytes`` 0.

        Where datagrams do not pass, round trips come from the control connection and the bandwidth
        cannot be told.
        Raises: LinkError if the responder cannot be reached, refuses, or the link broke.
        """
        with self._lock:
            host, port = self._peer
        with ProbeSession(host, port, name=self._name, tls=self._tls) as session:
            if self._wanted_name not in ("", session.peer_name):
                raise LinkError(
                    f"{host}:{port} is {session.peer_name}, not {self._wanted_name}",
                    hint="wait until the device that moved says where it is",
                )
            self._peer_name = session.peer_name
            echoes = session.measure_echoes(_ECHO_COUNT, interval_s=_ECHO_INTERVAL_S)
            cost_bytes = _SESSION_COST_BYTES + _ECHO_COUNT * (ECHO_BYTES + _FRAME_EXTRA_BYTES)
            if not echoes.round_trips_s:
                pings = session.measure_pings(_ECHO_COUNT)
                return LinkSample(
                    round_trips_s=pings.round_trips_s,
                    echo_count=_ECHO_COUNT,
                    bandwidth_bytes_per_s=0.0,
                    sent_bytes=2 * cost_bytes,
                )
            if not train_bytes:
                return LinkSample(
                    round_trips_s=echoes.round_trips_s,
                    echo_count=_ECHO_COUNT,
                    bandwidth_bytes_per_s=0.0,
                    sent_bytes=cost_bytes,
                )
            frame_bytes = session.packet_bytes + _FRAME_EXTRA_BYTES
            count = min(max(_TRAIN_MIN_COUNT, train_bytes // frame_bytes), TRAIN_CAP_COUNT)
            train = session.send_train(count)
        return LinkSample(
            round_trips_s=echoes.round_trips_s,
            echo_count=_ECHO_COUNT,
            bandwidth_bytes_per_s=train.bandwidth_bytes_per_s if train.is_conclusive else 0.0,
            sent_bytes=cost_bytes + train.sending.packet_count * frame_bytes,
        )
