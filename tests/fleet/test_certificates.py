"""Certificates of one fleet: neighbours trust each other, strangers and impostors are refused."""

import json
import socket
import stat
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekit.cli.enrol import command
from edgekit.errors import TrustError
from edgekit.fleet.certificates import FleetAuthority
from edgekit.spec.agent_config import HopConfig
from edgekit.spec.base import save
from edgekit.spec.fleet import local_fleet
from edgekit.transport.tls import check_peer_name, tls_contexts


def handshake(upstream: HopConfig, downstream: HopConfig, name: str) -> None:
    """A TLS handshake over a socket pair; ``name`` is what the downstream end calls itself."""
    one, other = socket.socketpair()
    _, client = tls_contexts(upstream.certificate, upstream.key, upstream.authority)
    server, _ = tls_contexts(downstream.certificate, downstream.key, downstream.authority)

    def serve() -> None:
        try:
            with server.wrap_socket(other, server_side=True) as secure:
                secure.recv(1)
        except OSError:
            other.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(one) as secure:
            check_peer_name(secure, name)
            secure.send(b"x")
    finally:
        one.close()
        thread.join(5.0)


def test_two_devices_of_one_fleet_trust_each_other(tmp_path: Path) -> None:
    """The files that enrol writes are the files that the hop reads."""
    authority = FleetAuthority("yard")
    handshake(authority.enrol("a", tmp_path / "a"), authority.enrol("b", tmp_path / "b"), "b")


def test_a_device_of_another_fleet_is_refused(tmp_path: Path) -> None:
    """Another authority, even with the same device name."""
    ours = FleetAuthority("yard").enrol("a", tmp_path / "a")
    theirs = FleetAuthority("yard").enrol("b", tmp_path / "b")
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        handshake(ours, theirs, "b")


def test_a_device_that_takes_another_s_name_is_refused(tmp_path: Path) -> None:
    """A stolen board must not pose as another one."""
    authority = FleetAuthority("yard")
    a, b = authority.enrol("a", tmp_path / "a"), authority.enrol("b", tmp_path / "b")
    with pytest.raises(TrustError, match="calls itself 'c'"):
        handshake(a, b, "c")


def test_keys_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    """The authority's key is on no disk at all."""
    hop = FleetAuthority("yard").enrol("a", tmp_path)
    assert stat.S_IMODE(Path(hop.key).stat().st_mode) == 0o600
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["authority.pem", "certificate.pem", "key.pem"]


def test_the_command_enrols_a_fleet_once(tmp_path: Path) -> None:
    """A second run must not replace certificates that boards already have."""
    save(local_fleet(2), tmp_path / "fleet.toml")
    arguments = [str(tmp_path / "fleet.toml"), "--out", str(tmp_path / "pki"), "--json"]
    done = CliRunner().invoke(command, arguments)
    assert set(json.loads(done.output)) == {"edge-a", "edge-b"}
    assert "not empty" in str(CliRunner().invoke(command, arguments).exception)
