"""The link probe against links of known speed: two network namespaces, a cable, a shaper each end.

The shaper is ``tbf``. It counts whole Ethernet frames (1514 bytes for a full one); the probe states
TCP payload (1448 bytes of it), so what it must find is 0.9564 of the rate that was set. A token
bucket lets its first 32 kB through at the speed of the wire: trains must be longer, and are.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

HERE, THERE = "10.77.31.1", "10.77.31.2"
PAYLOAD_SHARE = 1448 / 1514
_LIMIT_S = 60.0


def ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True, timeout=20)


@dataclass
class Cable:
    """A veth pair between two namespaces."""

    here: str
    there: str

    def within(self, namespace: str, *arguments: str) -> list[str]:
        return ["ip", "netns", "exec", namespace, *arguments]

    def device(self, namespace: str) -> str:
        return f"ek{namespace[-1]}{os.getpid()}"

    def lay(self) -> None:
        ends = (self.here, self.there)
        for namespace in ends:
            ip("netns", "add", namespace)
        ip("link", "add", self.device(self.here), "netns", self.here, "type", "veth",
           "peer", "name", self.device(self.there), "netns", self.there)  # fmt: skip
        for namespace, address in zip(ends, (HERE, THERE), strict=True):
            ip("-n", namespace, "addr", "add", f"{address}/24", "dev", self.device(namespace))
            ip("-n", namespace, "link", "set", "lo", "up")
            ip("-n", namespace, "link", "set", self.device(namespace), "up")

    def shape(self, mbit: int, *, burst: str = "32kb") -> None:
        """Both ends send no faster than this, with 50 ms of queue."""
        for namespace in (self.here, self.there):
            command = self.within(
                namespace, "tc", "qdisc", "replace", "dev", self.device(namespace), "root",
                "tbf", "rate", f"{mbit}mbit", "burst", burst, "latency", "50ms",
            )  # fmt: skip
            subprocess.run(command, check=True, capture_output=True, timeout=20)

    def remove(self) -> None:
        for namespace in (self.here, self.there):
            ip("netns", "del", namespace, check=False)


@pytest.fixture(scope="module")
def cable() -> Iterator[Cable]:
    """Removed whatever happens; its names carry the process id, so two runs do not meet."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if not (shutil.which("ip") and shutil.which("tc")):
        pytest.skip("needs ip and tc (iproute2)")
    made = Cable(f"ek-{os.getpid()}-a", f"ek-{os.getpid()}-b")
    try:
        try:
            made.lay()
            made.shape(100)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"cannot make a shaped link here: {error.stderr.decode().strip()}")
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def served(cable: Cable) -> Iterator[Cable]:
    """With a responder at the far end."""
    command = cable.within(
        cable.there, sys.executable, "-m", "edgekit", "link", "--serve", "--name", "there"
    )
    responder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert responder.stdout is not None
        assert "answering" in responder.stdout.readline()
        yield cable
    finally:
        responder.kill()
        responder.communicate(timeout=20)


def start_probe(cable: Cable, *arguments: str) -> "subprocess.Popen[str]":
    command = cable.within(
        cable.here, sys.executable, "-m", "edgekit", "link", THERE, "--name", "here", "--json",
        *arguments,
    )  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def probe(cable: Cable, *arguments: str) -> dict:
    process = start_probe(cable, *arguments)
    try:
        output, errors = process.communicate(timeout=_LIMIT_S)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    document: dict = json.loads(output)
    assert [(one["source"], one["target"]) for one in document["link"]] == [
        ("here", "there"),
        ("there", "here"),
    ]
    return document


def assert_found(document: dict, mbit: int) -> None:
    for one in document["link"]:
        found_mbit = 8e-6 * one["bandwidth_bytes_per_s"]
        assert found_mbit == pytest.approx(PAYLOAD_SHARE * mbit, rel=0.05), document
        assert one["loss"] < 0.1


@pytest.mark.parametrize("mbit", [10, 50, 100, 500])
def test_the_probe_finds_the_rate_of_a_shaped_link_both_ways(served: Cable, mbit: int) -> None:
    """Within 5 %, on a computer that does other things too."""
    served.shape(mbit)
    assert_found(probe(served, "--duration", "3"), mbit)


def test_a_token_bucket_ten_times_as_deep_does_not_show(served: Cable) -> None:
    """Half of a first train fits into 300 kB; the probe sends longer ones."""
    served.shape(50, burst="300kb")
    assert_found(probe(served, "--duration", "3"), 50)


def test_where_a_firewall_blocks_datagrams_bulk_transfers_measure_and_it_says_so(
    served: Cable,
) -> None:
    served.shape(50)
    rule = ("rule", "add", "prio", "100", "ipproto", "udp", "prohibit")
    ip("-n", served.there, *rule)
    try:
        document = probe(served, "--duration", "3")
    finally:
        ip("-n", served.there, "rule", "del", "prio", "100")
    assert "does a firewall block UDP port 7605" in document["note"][0]
    for one in document["link"]:
        assert one["method"] == "bulk transfers"
        assert 0 < one["rtt_p50_s"] < 1
        # A computer that is busy slows bulk transfers down; then it says so.
        is_busy = any("busy" in note for note in document["note"])
        found = 8e-6 * one["bandwidth_bytes_per_s"] / (PAYLOAD_SHARE * 50)
        assert 0.9 < found < 1.1 or is_busy


def test_a_link_lost_in_a_probe_is_one_clear_error_and_no_file(
    served: Cable, tmp_path: Path
) -> None:
    """And the responder serves the next probe as if nothing had been."""
    served.shape(50)
    process = start_probe(served, "--duration", "20", "--save", str(tmp_path / "link.toml"))
    try:
        wait_for_traffic(served)
        ip("-n", served.here, "link", "set", served.device(served.here), "down")
        output, errors = process.communicate(timeout=_LIMIT_S)
    finally:
        process.kill()
        ip("-n", served.here, "link", "set", served.device(served.here), "up")
    assert process.returncode == 6
    assert not output
    assert errors.count("\n") == 1, errors
    assert f"the link to {THERE}:7605 was lost during" in errors
    assert not list(tmp_path.iterdir())
    assert_found(probe(served, "--duration", "3"), 50)


def test_a_probe_that_is_interrupted_leaves_no_file(served: Cable, tmp_path: Path) -> None:
    process = start_probe(served, "--duration", "20", "--save", str(tmp_path / "link.toml"))
    try:
        wait_for_traffic(served)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=_LIMIT_S)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert not list(tmp_path.iterdir())


def wait_for_traffic(cable: Cable) -> None:
    """Until a measurement is under way."""
    started = sent_bytes(cable)
    deadline_s = time.monotonic() + _LIMIT_S
    while sent_bytes(cable) - started < 200_000:
        assert time.monotonic() < deadline_s, "the probe sends nothing"
        time.sleep(0.05)


def sent_bytes(cable: Cable) -> int:
    command = ["ip", "-n", cable.here, "-s", "-j", "link", "show", "dev", cable.device(cable.here)]
    answer = subprocess.run(command, check=True, capture_output=True, timeout=20)
    with contextlib.suppress(KeyError, IndexError):
        return int(json.loads(answer.stdout)[0]["stats64"]["tx"]["bytes"])
    raise AssertionError(f"ip tells no statistics: {answer.stdout!r}")
