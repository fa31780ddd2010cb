"""An MQTT broker for one machine, in its own process, so that nothing else can stall it.

In: a host and a port (0: any).  Out: a running broker and its URL; it dies with its parent.
For demonstrations and tests; a real fleet runs Mosquitto or EMQX with the same topics. What runs in
the process, and where it differs from those: broker_process.py.
"""

import importlib.util
import select
import subprocess
import sys
from types import TracebackType

from edgekit.errors import ConfigError
from edgekit.transport.mqtt import MqttSession

_PROGRAM = "edgekit.transport.broker_process"
_START_LIMIT_S = 30.0
_STOP_LIMIT_S = 3.0


class EmbeddedBroker:
    """A context manager: the broker runs inside the ``with`` block, and ``url`` leads to it."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._host, self._port = host, port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Broker URL for clients on this machine, once running."""
        host = "127.0.0.1" if self._host in {"0.0.0.0", ""} else self._host
        return f"mqtt://{host}:{self._port}"

    @property
    def port(self) -> int:
        """The port it listens on, once running."""
        return self._port

    @property
    def pid(self) -> int | None:
        """Process id of the broker, if it runs."""
        return self._process.pid if self._process else None

    def __enter__(self) -> "EmbeddedBroker":
        """Start, and wait until a client can connect.

        Raises: ConfigError if amqtt is missing or the port is taken.
        """
        if importlib.util.find_spec("amqtt") is None:
            raise ConfigError(
                "the embedded broker needs amqtt, which is not installed",
                hint="run `pip install 'edgekit[broker]'`, or give --broker mqtt://HOST",
            )
        self._process = subprocess.Popen(
            [sys.executable, "-m", _PROGRAM, self._host, str(self._port)],
            stdin=subprocess.PIPE,  # its end of file tells the broker that we are gone
            stdout=subprocess.PIPE,
        )
        try:
            self._port = self._reported_port(self._process)
            probe = MqttSession(self.url, client_id="edgekit-broker-probe")
            probe.connect(_START_LIMIT_S)
            probe.close()
        except BaseException:
            self.close()
            raise
        return self

    def _reported_port(self, process: subprocess.Popen[bytes]) -> int:
        """The broker's first line is the port it listens on, or why it does not."""
        assert process.stdout is not None
        is_readable, _, _ = select.select([process.stdout], [], [], _START_LIMIT_S)
        line = process.stdout.readline().decode(errors="replace").strip() if is_readable else ""
        if line.isdigit():
            return int(line)
        why = line or ("it ended at once" if is_readable else f"no sign in {_START_LIMIT_S:g} s")
        raise ConfigError(
            f"the embedded broker cannot listen on {self._host}:{self._port}: {why}",
            hint="use another port, 0 for any, or give --broker mqtt://HOST",
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
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()
