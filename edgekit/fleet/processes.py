"""Agents as processes of this machine: the emulated fleet of a demo, a test or a benchmark.

In: one AgentConfig per device.  Out: running agents, each with its folder, log and store; one that
dies is started again, as systemd does on a board.
"""

import contextlib
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from edgekit.errors import DeviceError
from edgekit.spec.agent_config import AgentConfig
from edgekit.spec.base import save

logger = logging.getLogger(__name__)

_RESTART_AFTER_S = 2.0
_CHECK_S = 0.2
_STOP_TIMEOUT_S = 8.0


class LocalAgents:
    """A context manager: inside it the agents run; leaving it ends them."""

    def __init__(
        self,
        configs: Sequence[AgentConfig],
        folder: Path,
        *,
        restart: bool = True,
        prefix: Callable[[str], Sequence[str]] = lambda device: (),
    ) -> None:
        """``prefix``: by device, the words that start its command, such as ``ip netns exec``; they
        must end in an exec, so that signals reach the agent.
        """
        self._configs = {config.device: config for config in configs}
        self._folder = folder
        self._restart, self._prefix = restart, prefix
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def __enter__(self) -> "LocalAgents":
        for device in self._configs:
            self.start(device)
        if self._restart:
            self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            _end(process)

    def start(self, device: str) -> None:
        """Start the agent of ``device`` (again)."""
        home = self._folder / device
        home.mkdir(parents=True, exist_ok=True)
        config = home / "agent.toml"
        save(self._configs[device], config)
        # --with-parent: the agent ends when our end of its standard input closes, even if we
        # are killed, so that a demo never leaves agents behind.
        command = [sys.executable, "-m", "edgekit", "-v", "agent", "--with-parent"]
        with self.log_path(device).open("ab") as log:
            self._processes[device] = subprocess.Popen(
                [*self._prefix(device), *command, "--config", str(config)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us: we end them in order
            )

    def log_path(self, device: str) -> Path:
        """Where the agent of ``device`` writes what it does."""
        return self._folder / device / "agent.log"

    def pid(self, device: str) -> int:
        """Process id of the agent of ``device``."""
        return self._processes[device].pid

    def kill(self, device: str) -> None:
        """Kill an agent as a power cut would."""
        self._processes[device].kill()
        self._processes[device].wait()

    def check_alive(self) -> None:
        """Raises: DeviceError with the end of its log if an agent has ended."""
        for device, process in self._processes.items():
            if process.poll() is not None:
                lines = self.log_path(device).read_text(errors="replace").splitlines()
                last = lines[-1] if lines else "it wrote nothing"
                raise DeviceError(
                    f"the agent of {device} ended with code {process.returncode}: {last}",
                    hint=f"read {self.log_path(device)}",
                )

    def _watch(self) -> None:
        dead_since_s: dict[str, float] = {}
        while not self._stopping.wait(_CHECK_S):
            for device, process in list(self._processes.items()):
                if process.poll() is None:
                    dead_since_s.pop(device, None)
                    continue
                since_s = dead_since_s.setdefault(device, time.perf_counter())
                if time.perf_counter() - since_s >= _RESTART_AFTER_S:
                    logger.warning("the agent of %s died; starting it again", device)
                    dead_since_s.pop(device)
                    self.start(device)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
