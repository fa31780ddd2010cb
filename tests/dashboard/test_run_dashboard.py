"""The server around the page: how it starts, refuses and ends."""

import signal
import socket
import subprocess
import sys

import pytest

from edgekit.errors import ConfigError, LinkError

pytest.importorskip("nicegui", reason="the page needs the dashboard extra")
app = pytest.importorskip("edgekit.dashboard.app")

_LIMIT_S = 60


def _edgekit(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "edgekit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)


def _python(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)


def test_a_taken_port_is_refused_before_anything_is_begun() -> None:
    """With the number, and what to try."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f":{port}") as caught:
            app.run_dashboard(mqtt_url="mqtt://127.0.0.1:1", fleet="yard", port=port)
    assert "--port" in caught.value.hint


@pytest.mark.parametrize("port", [-1, 65536])
def test_an_impossible_port_is_refused(port: int) -> None:
    """Not an OverflowError from the depths."""
    with pytest.raises(ConfigError):
        app.run_dashboard(mqtt_url="mqtt://127.0.0.1:1", fleet="yard", port=port)


def test_a_fleet_that_cannot_be_a_topic_is_refused() -> None:
    """It would subscribe to something else."""
    with pytest.raises(ConfigError, match="fleet"):
        app.run_dashboard(mqtt_url="mqtt://127.0.0.1:1", fleet="a/b", port=0)


def test_a_broker_that_is_down_is_said_and_leaves_no_socket() -> None:
    """Before any browser comes."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(LinkError):
        app.run_dashboard(mqtt_url="mqtt://127.0.0.1:1", fleet="yard", port=port)
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.integration
def test_without_nicegui_the_command_names_the_package_to_install() -> None:
    """The base install is for boards; the page is an extra."""
    code = (
        "import sys; sys.modules['nicegui'] = None; sys.argv = ['edgekit', 'dashboard',"
        " '--broker', 'mqtt://127.0.0.1:1', '--fleet', 'yard'];"
        "from edgekit.cli.main import main; main()"
    )
    done = _python(code)
    assert done.returncode == ConfigError.exit_code, done.stderr
    assert "pip install 'edgekit[dashboard]'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.integration
def test_the_page_needs_neither_torch_nor_onnx_nor_a_runtime() -> None:
    """It is a window, not a worker."""
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'cv2'): sys.modules[name] = None\n"
        "import edgekit.dashboard.app"
    )
    done = _python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.integration
def test_the_command_maps_errors_to_exit_codes() -> None:
    """One clear line each."""
    down = _edgekit("dashboard", "--broker", "mqtt://127.0.0.1:1", "--fleet", "yard", "--port", "0")
    assert down.returncode == LinkError.exit_code and "Traceback" not in down.stderr
    bad = _edgekit("dashboard", "--broker", "localhost", "--fleet", "yard", "--port", "0")
    assert bad.returncode == ConfigError.exit_code and "mqtt://" in bad.stderr


@pytest.mark.integration
def test_ctrl_c_ends_the_page_in_good_order(mosquitto_url: str) -> None:
    """Exit code 0: it was asked to end."""
    command = [sys.executable, "-m", "edgekit", "dashboard", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--broker", mosquitto_url, "--fleet", "yard"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and "http://127.0.0.1:" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=_LIMIT_S)
    assert process.returncode == 0 and "Traceback" not in errors, errors


@pytest.mark.integration
def test_the_event_ends_the_page_and_the_process_lives_on(mosquitto_url: str) -> None:
    """As the demo uses it: it has a summary to print afterwards. Served from another thread too."""
    code = """
import sys, threading, urllib.request
from edgekit.dashboard.app import run_dashboard
from edgekit.errors import ConfigError

def serve(stop):
    run_dashboard(mqtt_url=sys.argv[1], fleet="yard", port=0, stop=stop, on_ready=ready)

def ready(url):
    threading.Thread(target=visit, args=(url,)).start()

def visit(url):
    print("page", urllib.request.urlopen(url).status)
    stop.set()

stop = threading.Event()
thread = threading.Thread(target=serve, args=(stop,))
thread.start()
thread.join()
try:
    serve(threading.Event())
except ConfigError as error:
    print("again", error.hint)
print("threads", threading.active_count())
"""
    done = _python(code, mosquitto_url)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "page 200" and lines[1].startswith("again start a second"), lines
    assert lines[2] == "threads 1"
