"""mosec around the whole model: one Worker, bytes in and out."""

import os
import sys
from pathlib import Path

import cv2
import mosec

from edgekit.spec.base import load
from tests.bench.versus_http import Inference, ServeJob
from tests.bench.versus_peers import JOB


class Model(mosec.Worker):  # type: ignore[misc]
    """A picture -> boxes."""

    def __init__(self) -> None:
        super().__init__()
        cv2.setNumThreads(1)
        self.inference = Inference(load(Path(os.environ[JOB]), ServeJob))

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> bytes:
        return self.inference.answer(data)

    def serialize(self, data: bytes) -> bytes:
        return data


def run(host: str, port: int) -> None:
    """Serve until killed."""
    sys.argv = ["mosec", "--address", host, "--port", str(port), "--timeout", "20000"]
    server = mosec.Server()
    server.append_worker(Model, num=1)
    server.run()
