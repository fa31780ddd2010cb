"""A real agent measures its board for a real operator over Mosquitto; kill -9, Ctrl-C on the way.

The measuring is real and short (--budget), and goes on although this machine is busy (--anyway).
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.fleet.processes import LocalAgents
from edgekit.fleet.watch import FleetWatcher
from edgekit.runtime.ort import runtime_name
from edgekit.spec.agent_config import AgentConfig, HopConfig
from edgekit.spec.base import load
from edgekit.spec.messages import DeviceStatus
from edgekit.spec.profile import DeviceProfile
from edgekit.spec.topics import Topics
from edgekit.transport.mqtt import MqttSession

pytestmark = [pytest.mark.integration, pytest.mark.timeout(170)]

_LIMIT_S = 100.0
_BUDGET_S = 25.0
"""Enough for some kernels after ceilings and overheads, also on a machine that is busy."""


class Board:
    """One agent called board-a, and an operator who has its status."""

    def __init__(self, broker: str, folder: Path) -> None:
        self.folder, self.fleet = folder, f"profile-{os.getpid()}-{time.monotonic_ns()}"
        self.broker = broker
        self.config = AgentConfig(
            device="board-a", fleet=self.fleet, broker=broker, store=str(folder / "store"),
            hop=HopConfig(host="127.0.0.1"),
        )  # fmt: skip
        self.agents = LocalAgents([self.config], folder, restart=False)
        self.mqtt = MqttSession(broker, client_id=self.fleet)
        self.mqtt.connect()
        self.watcher = FleetWatcher(self.mqtt, Topics(fleet=self.fleet))
        self.out = folder / "out" / "board-a.toml"

    def status(self) -> DeviceStatus:
        found = self.watcher.status("board-a")
        assert found is not None
        return found

    def wait_online(self) -> None:
        assert self.watcher.wait_for(
            lambda: (s := self.watcher.status("board-a")) is not None and s.state == "idle", 30.0
        )

    def ask(self, *arguments: str) -> "subprocess.Popen[str]":
        """The operator's command, begun; its own profiles are not those of whoever tests."""
        environment = dict(os.environ, XDG_CONFIG_HOME=str(self.folder / "xdg"))
        return subprocess.Popen(
            [sys.executable, "-m", "edgekit", "fleet", *arguments,
             "--broker", self.broker, "--fleet", self.fleet],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
            cwd=self.folder,
        )  # fmt: skip

    def profile(self, budget_s: float) -> "subprocess.Popen[str]":
        return self.ask(
            "profile", "board-a", "--quick", "--anyway", "--budget", str(budget_s),
            "--out", str(self.out),
        )  # fmt: skip

    @property
    def journal(self) -> Path:
        return self.folder / "store" / "profile" / ".board-a.toml.quick.journal"

    def wait_measured(self, line_count: int) -> int:
        """Wait until so many kernels are in the journal; how many are."""
        ends_s = time.monotonic() + _LIMIT_S
        while time.monotonic() < ends_s:
            count = len(self.journal.read_bytes().splitlines()) - 1 if self.journal.exists() else 0
            if count >= line_count:
                return count
            time.sleep(0.1)
        raise AssertionError("nothing is being measured")


@pytest.fixture
def board(mosquitto_url: str, tmp_path: Path) -> Iterator[Board]:
    made = Board(mosquitto_url, tmp_path)
    try:
        with made.agents:
            made.wait_online()
            yield made
    finally:
        made.mqtt.close()


def ended(asked: "subprocess.Popen[str]") -> tuple[int, str, str]:
    try:
        output, errors = asked.communicate(timeout=_LIMIT_S)
    finally:
        asked.kill()
    return asked.returncode, output, errors


def children_of(pid: int) -> list[int]:
    """Processes that the agent started."""
    done = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in done.stdout.split()]


def is_alive(pid: int) -> bool:
    """Not gone, and not a zombie either."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_board_is_measured_over_mqtt_and_its_profile_saved_whole(board: Board) -> None:
    """And the list says that it is known."""
    code, output, errors = ended(board.profile(_BUDGET_S))
    assert code == 0, errors
    profile = load(board.out, DeviceProfile)
    assert (profile.name, profile.runtime) == ("board-a", runtime_name())
    assert profile.kernel and profile.error
    assert f"saved {board.out}" in output
    digest = hashlib.sha256(board.out.read_bytes()).hexdigest()
    assert board.watcher.wait_for(lambda: board.status().profile_sha256 == digest, 10.0)
    (board.folder / "device_profiles").mkdir()
    (board.folder / "device_profiles" / "board-a.toml").write_bytes(board.out.read_bytes())
    code, output, errors = ended(board.ask("list", "--json"))
    (entry,) = json.loads(output)["devices"]
    assert (entry["device"], entry["online"], entry["profile"]) == ("board-a", True, "measured")
    assert entry["runtime"] == runtime_name() and not entry["stale"]


def test_an_agent_killed_while_it_measures_is_named_and_the_next_run_goes_on(board: Board) -> None:
    """kill -9: nothing is saved, nobody measures on, and no kernel is measured twice."""
    asked = board.profile(60.0)
    board.wait_measured(10)
    children = children_of(board.agents.pid("board-a"))
    assert children
    board.agents.kill("board-a")
    code, _, errors = ended(asked)
    assert code == 7 and "went offline" in errors and "goes on" in errors
    assert not board.out.exists()
    ends_s = time.monotonic() + 30.0
    while any(is_alive(pid) for pid in children):
        assert time.monotonic() < ends_s, "the profiler outlived its agent"
        time.sleep(0.1)
    before = board.journal.read_bytes()
    board.agents.start("board-a")
    board.wait_online()
    again = board.profile(_BUDGET_S)
    board.wait_measured(len(before.splitlines()))  # one more, as the first line is no kernel
    assert board.journal.read_bytes().startswith(before), "the journal began afresh"
    code, _, errors = ended(again)
    assert code == 0, errors
    assert load(board.out, DeviceProfile).kernel
    assert not board.journal.exists()


def test_ctrl_c_at_the_operator_stops_the_board(board: Board) -> None:
    """What was measured is kept for the next time."""
    asked = board.profile(60.0)
    board.wait_measured(10)
    assert board.status().profiling
    second, _, errors = ended(board.profile(8.0))
    assert second == 7 and "measured already" in errors
    asked.send_signal(signal.SIGINT)
    code, _, _ = ended(asked)
    assert code == 130
    assert board.watcher.wait_for(lambda: not board.status().profiling, 30.0)
    assert board.journal.exists()
    assert not children_of(board.agents.pid("board-a"))
