"""The plain server and its client: what goes wrong between them is counted, never hidden."""

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from edgekit.spec.card import ModelCard, OutputCard
from edgekit.spec.messages import Detection
from tests.bench.versus_http import Client, FilmJob, Outcome, ServeJob, as_body, make_server

CARD = ModelCard(name="m", labels=("a",), output=OutputCard(decoder="ultralytics"))
FOUND = Detection(label="a", score=0.5, box=(1, 2, 3, 4))


class FakeInference:
    """Finds the same thing everywhere; refuses what is no picture."""

    def answer(self, jpeg: bytes) -> bytes:
        if not jpeg.startswith(b"\xff\xd8"):
            raise ValueError("this is no picture")
        return msgspec.json.encode([FOUND])


@pytest.fixture
def port() -> Iterator[int]:
    job = ServeJob(model="none", card=CARD, host="127.0.0.1")
    with make_server(job, FakeInference()) as server:  # type: ignore[arg-type]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(3):
        image = np.full((24, 32, 3), 60 * number, np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    return tmp_path


def film(port: int, pictures: Path, options: str, **more: object) -> Outcome:
    job = FilmJob(source=f"images:{pictures}?loop=1&{options}", host="127.0.0.1", port=port, **more)  # type: ignore[arg-type]
    return Client(job).film()


def test_every_frame_is_answered_once_with_its_bytes(port: int, pictures: Path) -> None:
    done = film(port, pictures, "frames=20&mode=every", in_flight=4)
    assert sorted(report.frame for report in done.reports) == list(range(20))
    assert done.accounts.frames_answered == done.accounts.frames_captured == 20
    assert all(report.detections == (FOUND,) for report in done.reports)
    assert all(report.hops[0].bytes > 100 and report.age_ms > 0 for report in done.reports)


def test_a_connection_stays_open_and_bad_requests_are_refused(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    statuses = []
    for path, body in (("/infer", b"no picture"), ("/", b"\xff\xd8"), ("/infer", b"\xff\xd8")):
        connection.request("POST", path, body)
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
    connection.close()
    assert statuses == [400, 404, 200]


def test_frames_that_a_server_refuses_are_lost_with_a_reason(port: int, pictures: Path) -> None:
    done = film(port, pictures, "frames=6&mode=every", path="/wrong", in_flight=2)
    assert done.reports == ()
    assert done.accounts.frames_dropped == {"http 404": 6}


def test_a_server_that_never_answers_costs_frames_and_not_the_run(pictures: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = film(
            silent.getsockname()[1], pictures, "frames=2&mode=every", timeout_s=0.3, in_flight=2
        )
    assert done.accounts.frames_dropped == {"timeout": 2}
    assert done.accounts.frames_in_flight == 0


def test_a_form_holds_the_picture_as_it_was() -> None:
    body, kind = as_body(b"\xff\xd8 data \r\n", "form")
    boundary = kind.partition("boundary=")[2].encode()
    _, part, end = body.split(b"--" + boundary)
    assert part.partition(b"\r\n\r\n")[2] == b"\xff\xd8 data \r\n\r\n"
    assert end == b"--\r\n"
    assert as_body(b"x", "raw") == (b"x", "image/jpeg")
