"""The system's Mosquitto as a broker for tests and for fleets on one machine.

In: a port (0: any).  Out: a running broker on the loopback interface, or on the one that is
named, and its URL.
Keeps nothing on disk: what it retained is gone when it stops. Dies with its parent.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from edgekit.errors import ConfigError, LinkError
from edgekit.transport.mqtt import MqttSession

_LOOPBACK = "127.0.0.1"
_START_LIMIT_S = 10.0
_STOP_LIMIT_S = 3.0
_CONFIGURATION = """\
listener {port} {host}
allow_anonymous true
persistence false
max_queued_messages 10000
set_tcp_nodelay true
log_dest stderr
log_type error
log_type warning
"""
# The shell becomes the broker; the watcher it leaves behind ends the broker when our end of its
# standard input is closed: by close(), or because this process died.
_WATCHED = (
    'exec 3<&0; (cat <&3 >/dev/null; kill $$ 2>/dev/null) & exec "$1" -c "$2" 3<&- </dev/null'
)


class MosquittoBroker:
    """A context manager: the broker runs inside the ``with`` block, and ``url`` leads to it."""

    def __init__(self, port: int = 0, *, host: str = _LOOPBACK) -> None:
        self._port, self._host = port, host
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def url(self) -> str:
        """Broker URL for MqttSession, once running."""
        return f"mqtt://{self._host}:{self._port}"

    @property
    def port(self) -> int:
        """The port it listens on, once running."""
        return self._port

    @property
    def pid(self) -> int | None:
        """Process id of the broker, once running."""
        return self._process.pid if self._process else None

    def __enter__(self) -> "MosquittoBroker":
        """Start, and wait until a client can connect.

        Raises: ConfigError if Mosquitto is missing or cannot listen on the port.
        """
        # Debian installs it where only root looks.
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
        program = shutil.which("mosquitto", path=path)
        if program is None:
            raise ConfigError(
                "there is no mosquitto on this machine",
                hint="run `apt install mosquitto`, or use the embedded broker",
            )
        self._port = _usable_port(self._host, self._port)
        self._folder = tempfile.TemporaryDirectory(prefix="edgekit-mosquitto-")
        try:
            self._process = _start(program, Path(self._folder.name), self._host, self._port)
            self._wait_until_ready(self._process, Path(self._folder.name))
        except BaseException:
            self.close()
            raise
        return self

    def _wait_until_ready(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        deadline_s = time.monotonic() + _START_LIMIT_S
        while process.poll() is None and time.monotonic() < deadline_s:
            probe = MqttSession(self.url, client_id="edgekit-broker-probe")
            try:
                probe.connect(1.0)
            except LinkError:
                time.sleep(0.02)
            else:
                return
            finally:
                probe.close()
        words = (folder / "log").read_text(errors="replace").strip().splitlines()
        raise ConfigError(
            f"mosquitto does not serve {self.url}: {words[-1] if words else 'it says nothing'}",
            hint="run `mosquitto -v` to see what it needs",
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the broker."""
        self.close()

    def close(self) -> None:
        """Stop the broker; what it retained is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            if process.stdin:
                process.stdin.close()
            try:
                process.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._folder is not None:
            self._folder.cleanup()


def _usable_port(host: str, port: int) -> int:
    """``port``, or a free one if it is 0. Raises: ConfigError if somebody listens on it."""
    try:
        with socket.create_server((host, port)) as probe:
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"mosquitto cannot listen on {host}:{port}: {why}",
            hint="use another port, or 0 for any",
        ) from None


def _start(program: str, folder: Path, host: str, port: int) -> subprocess.Popen[bytes]:
    configuration = folder / "mosquitto.conf"
    configuration.write_text(_CONFIGURATION.format(port=port, host=host))
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            ["/bin/sh", "-c", _WATCHED, "sh", program, str(configuration)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
