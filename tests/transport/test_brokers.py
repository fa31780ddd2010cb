"""Brokers as processes: they start, stop, die with their parent, and say what is missing."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hop_world import wait_until

from edgekit.errors import ConfigError
from edgekit.transport.broker import EmbeddedBroker
from edgekit.transport.mosquitto import MosquittoBroker
from edgekit.transport.mqtt import MqttSession

ROOT = Path(__file__).parents[2]
KINDS = [EmbeddedBroker, MosquittoBroker]


def made(
    kind: type[EmbeddedBroker] | type[MosquittoBroker], port: int = 0
) -> EmbeddedBroker | MosquittoBroker:
    broker = kind(port=port)
    try:
        return broker.__enter__()
    except ConfigError as error:
        if "no mosquitto" in error.what:
            pytest.skip(str(error))
        raise


@pytest.mark.integration
@pytest.mark.parametrize("kind", KINDS)
def test_a_broker_is_ready_when_it_is_there_and_gone_when_it_is_closed(
    kind: type[EmbeddedBroker] | type[MosquittoBroker], capfd: pytest.CaptureFixture[str]
) -> None:
    broker = made(kind)
    session = MqttSession(broker.url, client_id="one")
    session.connect()
    assert session.state == "connected"
    pid, port = broker.pid, broker.port
    session.close()
    broker.close()
    broker.close()
    assert pid
    assert not psutil.pid_exists(pid)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
    assert capfd.readouterr().err == ""


@pytest.mark.integration
@pytest.mark.parametrize("kind", KINDS)
def test_a_port_in_use_is_named(kind: type[EmbeddedBroker] | type[MosquittoBroker]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            made(kind, port)


@pytest.mark.integration
@pytest.mark.parametrize("kind", KINDS)
def test_a_broker_dies_with_its_parent(kind: type[EmbeddedBroker] | type[MosquittoBroker]) -> None:
    """A demo that is killed must not leave a broker that holds the port."""
    made(kind).close()
    script = f"""
import time
from {kind.__module__} import {kind.__name__}
broker = {kind.__name__}().__enter__()
print(broker.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: not psutil.pid_exists(pid))


def test_without_amqtt_the_install_command_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "amqtt" else real(name)
    )
    with pytest.raises(ConfigError, match=r"pip install 'edgekit\[broker\]'"):
        EmbeddedBroker().__enter__()


def test_without_mosquitto_the_install_command_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(ConfigError, match="apt install mosquitto"):
        MosquittoBroker().__enter__()


def test_a_device_needs_neither_amqtt_nor_a_builder(tmp_path: Path) -> None:
    """Everything in transport but the embedded broker's own process imports on a bare board."""
    modules = [
        f"edgekit.transport.{path.stem}"
        for path in (ROOT / "edgekit" / "transport").glob("*.py")
        if path.stem not in {"__init__", "broker_process"}
    ]
    script = f"""
import builtins, importlib, sys
for name in ("amqtt", "torch", "onnx", "onnxruntime", "cv2", "cryptography"):
    sys.modules[name] = None
for name in {modules!r}:
    importlib.import_module(name)
"""
    subprocess.run(
        [sys.executable, "-c", script],
        check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
