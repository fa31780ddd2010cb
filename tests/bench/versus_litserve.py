"""LitServe around the whole model: its own API class, as its manual has it for pictures."""

import os
from pathlib import Path
from typing import Any

import cv2
import litserve
import msgspec

from edgekit.spec.base import load
from tests.bench.versus_http import FIELD, Inference, ServeJob
from tests.bench.versus_peers import JOB


class Api(litserve.LitAPI):  # type: ignore[misc]
    """A form with a picture -> boxes."""

    def setup(self, device: Any) -> None:
        cv2.setNumThreads(1)
        self.inference = Inference(load(Path(os.environ[JOB]), ServeJob))

    def decode_request(self, request):  # type: ignore[no-untyped-def]
        # LitServe reads annotations as FastAPI does; without one it gives the form.
        data: bytes = request[FIELD].file.read()
        return data

    def predict(self, jpeg: bytes) -> bytes:
        return self.inference.answer(jpeg)

    def encode_response(self, output: bytes) -> Any:
        return msgspec.json.decode(output)


def run(host: str, port: int) -> None:
    """Serve until killed."""
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1)
    server.run(
        host=host, port=port, num_api_servers=1, log_level="error", generate_client_file=False
    )
