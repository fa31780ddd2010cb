"""Published serving tools in place of the plain server: LitServe and mosec, as their manuals say.

In:  a ServeJob.  Out: a server that takes a JPEG and answers with JSON, "ready PORT" once it does.
Neither is a dependency: what is not installed is skipped, and the tables say so. One worker process
each, no batching: the device has one core. The model's part is the same ``Inference``.
LitServe (github.com/Lightning-AI/LitServe): POST /predict, a form.
mosec (github.com/mosecorg/mosec): POST /inference, the bytes.
"""

import importlib.util
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from edgekit.spec.base import save
from tests.bench.versus_http import ServeJob, as_body, wait_for

JOB = "EDGEKIT_VERSUS_JOB"
"""Environment variable: path of the ServeJob, for the tools' worker processes."""
_ANSWERING_S = 60.0


@dataclass(frozen=True)
class Tool:
    """How a server is asked."""

    module: str
    path: str
    body: Literal["raw", "form"]


TOOLS = {
    "http": Tool("http", "/infer", "raw"),
    "litserve": Tool("litserve", "/predict", "form"),
    "mosec": Tool("mosec", "/inference", "raw"),
}


def why_absent(tool: str) -> str:
    """Why a tool cannot be run here, or an empty string."""
    if importlib.util.find_spec(TOOLS[tool].module) is None:
        return f"{tool} is not installed (pip install {tool})"
    return ""


def name_of(tool: str) -> str:
    """The tool with its version."""
    return "http.server" if tool == "http" else f"{tool} {version(tool)}"


def serve(job: ServeJob) -> None:
    """Run the tool's server; says so once it answers."""
    port = job.port or _free_port(job.host)
    path = Path(os.environ[JOB])
    save(job, path)
    threading.Thread(target=_announce, args=(job, port), daemon=True).start()
    if job.tool == "litserve":
        from tests.bench.versus_litserve import run
    else:
        from tests.bench.versus_mosec import run
    run(job.host, port)


def _announce(job: ServeJob, port: int) -> None:
    wait_for("127.0.0.1", port)
    tool = TOOLS[job.tool]
    _, jpeg = cv2.imencode(".jpg", np.full((64, 64, 3), 114, np.uint8))
    body, kind = as_body(jpeg.tobytes(), tool.body)
    deadline_s = time.monotonic() + _ANSWERING_S
    while time.monotonic() < deadline_s:
        connection = HTTPConnection("127.0.0.1", port, timeout=5.0)
        try:
            connection.request("POST", tool.path, body, {"Content-Type": kind})
            if connection.getresponse().status == 200:
                print(f"ready {port}", flush=True)
                return
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.2)
    print(f"{job.tool} does not answer", file=sys.stderr, flush=True)


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as sock:
        return int(sock.getsockname()[1])
