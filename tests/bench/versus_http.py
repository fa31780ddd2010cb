"""What a user would write without EdgeKit: the whole model behind POST /infer, JPEG in, JSON out.

::

    camera: source -> JPEG -> HTTP/1.1, kept alive, N requests in flight
    server: a thread for each connection -> decode -> preprocess -> model, one at a time -> boxes

Written to be as good as such a server gets with the standard library, and fair: the same pictures,
JPEG quality, preprocessing, session, slowdown (``DilatedSession``), decoder and processor as agents
have; the model's device has one core, so inferences take turns while others decode. The camera
side reads through the agents' own Capture, so that "every" and "live" mean the same: a live source
drops what nobody took in time. What fails is not sent again, but counted by reason.
The client also speaks to the serving tools of ``versus_peers``: as a form, where they ask for one.

    python -m tests.bench.versus_http serve JOB.json     (prints "ready PORT")
    python -m tests.bench.versus_http film JOB.json      (writes its Outcome)
"""

import http.client
import http.server
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import cv2
import msgspec
import numpy as np

from edgekit.agent.capture import Capture
from edgekit.agent.ledger import Ledger
from edgekit.runtime.dilated import DilatedSession
from edgekit.runtime.ort import OrtSession
from edgekit.runtime.session import Session
from edgekit.spec.base import Spec, load, save
from edgekit.spec.card import ModelCard
from edgekit.spec.messages import AnswerReport, Detection, HopTime, Quantiles, StreamTelemetry
from edgekit.vision.answers import detections_of
from edgekit.vision.preprocess import preprocess
from edgekit.vision.sources import Frame, open_source

FIELD = "image"
_BOUNDARY = "edgekit-versus-boundary"
_POLL_S = 0.1
_START_S = 30.0


class ServeJob(Spec, frozen=True, kw_only=True):
    """What a server runs."""

    model: str
    card: ModelCard
    host: str
    port: int = 0
    """0: any free one."""
    dilation: float = 1.0
    processor: int = 0
    tool: str = "http"


class FilmJob(Spec, frozen=True, kw_only=True):
    """What a client films, and where answers are asked for."""

    source: str
    host: str
    port: int
    path: str = "/infer"
    body: Literal["raw", "form"] = "raw"
    quality: int = 90
    in_flight: int = 6
    timeout_s: float = 10.0
    processor: int = 0
    camera: str = "camera"
    server: str = "server"
    out: str = ""


class Outcome(Spec, frozen=True, kw_only=True):
    """What became of a source."""

    reports: tuple[AnswerReport, ...]
    accounts: StreamTelemetry


class Inference:
    """JPEG bytes -> JSON of detections, with the whole model on a core of its own."""

    def __init__(self, job: ServeJob) -> None:
        self._card = job.card
        session: Session = OrtSession(Path(job.model))
        if job.dilation > 1.0:
            session = DilatedSession(session, factor=job.dilation)
        self._session = session
        self._input = session.inputs[0]
        self._turn = threading.Lock()
        height_px, width_px = self._input.shape[2:]
        self._height_px, self._width_px = int(height_px), int(width_px)
        self._run(np.zeros((self._height_px, self._width_px, 3), np.uint8))

    def answer(self, jpeg: bytes) -> bytes:
        """Raises: ValueError if it is no picture."""
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError("this is no picture")
        return msgspec.json.encode(self._run(np.asarray(image, np.uint8)))

    def _run(self, image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> list[Detection]:
        tensor = preprocess(
            image, self._card.input, height_px=self._height_px, width_px=self._width_px
        )
        with self._turn:
            outputs = self._session.run({self._input.name: tensor})
        found = detections_of(
            outputs,
            self._card,
            model_input=self._input,
            source_height_px=image.shape[0],
            source_width_px=image.shape[1],
        )
        return list(found)


def make_server(job: ServeJob, inference: Inference) -> http.server.ThreadingHTTPServer:
    """Listening; ``serve_forever`` is for the caller."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1
        """Head and body leave together."""

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            data = self.rfile.read(length)
            if self.path != "/infer":
                self._reply(404, b"{}")
                return
            try:
                self._reply(200, inference.answer(data))
            except ValueError as error:
                self._reply(400, msgspec.json.encode({"error": str(error)}))

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

        def _reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    return Server((job.host, job.port), Handler)


class Client:
    """Films a source and asks for an answer to each frame."""

    def __init__(self, job: FilmJob) -> None:
        self._job = job
        self._ledger = Ledger()
        self._capture = Capture(open_source(job.source), self._ledger)
        self._reports: list[AnswerReport] = []
        self._changed = threading.Lock()

    def film(self) -> Outcome:
        """Until the source ends and nothing is under way."""
        wait_for(self._job.host, self._job.port)
        workers = [threading.Thread(target=self._work) for _ in range(self._job.in_flight)]
        self._capture.start()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self._capture.stop()
        accounts = self._ledger.snapshot(time.perf_counter())
        return Outcome(
            reports=tuple(self._reports),
            accounts=StreamTelemetry(
                stream="bench",
                source=self._capture.uri,
                frames_captured=accounts.captured,
                frames_answered=accounts.answered,
                frames_dropped=accounts.dropped,
                frames_in_flight=accounts.in_flight,
                fps=accounts.fps,
                latency_ms=Quantiles.of(one.age_ms for one in self._reports),
                ended=True,
            ),
        )

    def _work(self) -> None:
        connection = self._connection()
        while True:
            ended = self._ledger.snapshot(time.perf_counter()).source_ended
            frame = self._capture.take(_POLL_S)
            if frame is None:
                if ended:
                    break
                continue
            problem = self._ask(connection, frame)
            if problem:
                self._ledger.drop(frame.number, problem)
                connection.close()
                connection = self._connection()
        connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        job = self._job
        return _Prompt(job.host, job.port, timeout=job.timeout_s)

    def _ask(self, connection: http.client.HTTPConnection, frame: Frame) -> str:
        """Send, receive, enter. Returns: why it failed."""
        started_s = time.perf_counter()
        _, jpeg = cv2.imencode(".jpg", frame.image, [cv2.IMWRITE_JPEG_QUALITY, self._job.quality])
        encoded_s = time.perf_counter()
        body, kind = as_body(jpeg.tobytes(), self._job.body)
        try:
            connection.request("POST", self._job.path, body, {"Content-Type": kind})
            response = connection.getresponse()
            data = response.read()
        except TimeoutError:
            return "timeout"
        except ConnectionRefusedError:
            return "refused"
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__
        if response.status != 200:
            return f"http {response.status}"
        now_ns = time.perf_counter_ns()
        age_s = (now_ns - frame.captured_ns) / 1e9
        if self._ledger.answer(frame.number, now_s=now_ns / 1e9, latency_s=age_s):
            detections = msgspec.json.decode(data, type=tuple[Detection, ...])
            self._enter(frame, detections, age_s, len(body), 1e3 * (encoded_s - started_s))
        return ""

    def _enter(
        self,
        frame: Frame,
        found: tuple[Detection, ...],
        age_s: float,
        nbytes: int,
        encode_ms: float,
    ) -> None:
        hop = HopTime(
            source=self._job.camera,
            target=self._job.server,
            bytes=nbytes,
            ms=0.0,
            encode_ms=round(encode_ms, 3),
        )
        with self._changed:
            self._reports.append(
                AnswerReport(
                    stream="bench",
                    run="http",
                    frame=frame.number,
                    detections=found,
                    captured_unix_s=frame.captured_unix_s,
                    age_ms=round(1e3 * age_s, 3),
                    hops=(hop,),
                )
            )


class _Prompt(http.client.HTTPConnection):
    """A connection that sends small packets at once."""

    def connect(self) -> None:
        super().connect()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def as_body(jpeg: bytes, kind: str) -> tuple[bytes, str]:
    """The body of a request, and its content type."""
    if kind == "raw":
        return jpeg, "image/jpeg"
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{FIELD}"; filename="frame.jpg"'
        "\r\nContent-Type: image/jpeg\r\n\r\n"
    )
    tail = f"\r\n--{_BOUNDARY}--\r\n"
    return head.encode() + jpeg + tail.encode(), f"multipart/form-data; boundary={_BOUNDARY}"


def wait_for(host: str, port: int) -> None:
    """Until somebody listens there. Raises: OSError after half a minute."""
    deadline_s = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection((host, port), timeout=1.0).close()
            return
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.1)


def with_parent(end: Callable[[], None]) -> None:
    """Call ``end`` once our standard input closes: nobody is left who would stop us."""

    def watch() -> None:
        # Not sys.stdin: a process forked meanwhile would wait for its lock for ever.
        while os.read(0, 1):
            pass
        end()

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """One role."""
    role, path = sys.argv[1:]
    cv2.setNumThreads(1)
    with_parent(lambda: os._exit(0))
    if role == "film":
        film = load(Path(path), FilmJob)
        os.sched_setaffinity(0, {film.processor})
        save(Client(film).film(), Path(film.out))
        return
    job = load(Path(path), ServeJob)
    os.sched_setaffinity(0, {job.processor})
    if job.tool != "http":
        from tests.bench.versus_peers import serve

        serve(job)
        return
    with make_server(job, Inference(job)) as server:
        print(f"ready {server.server_address[1]}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
