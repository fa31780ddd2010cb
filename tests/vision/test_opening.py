"""From a URI to an open source: what is refused before the first frame, and how it says so."""

import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit.errors import ConfigError, DeviceError
from edgekit.vision.sources import EndOfSource, open_source
from edgekit.vision.sources import device as device_module

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="device files are Linux's")


@on_linux
def test_an_absent_camera_is_refused_with_the_ones_that_exist(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Path, "glob", lambda *_: iter([Path("/dev/video7"), Path("/dev/video3")]))
    with pytest.raises(DeviceError, match=r"no camera /dev/video93.*/dev/video3, /dev/video7"):
        open_source("93")
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    with pytest.raises(DeviceError, match=r"there is no /dev/video\*"):
        open_source("v4l2:///dev/video93")


@on_linux
def test_a_camera_without_permission_says_which_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "video0").write_bytes(b"")
    monkeypatch.setattr(device_module.os, "access", lambda *_: False)
    with pytest.raises(DeviceError, match="group video"):
        open_source(f"v4l2:{tmp_path}/video0")


@on_linux
def test_a_device_file_that_gives_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "video0").write_bytes(b"no camera")
    with pytest.raises(DeviceError, match="gives no video"):
        open_source(f"v4l2:{tmp_path}/video0")


def test_an_unknown_scene_is_refused_with_the_list() -> None:
    with pytest.raises(ConfigError, match=r"no scene 'moon'.*yard"):
        open_source("scene:moon")


def test_a_scene_gives_any_frame_again_with_its_truth() -> None:
    uri = "scene:yard?seed=3&size=160x100&mode=every"
    source = open_source(uri)
    frames = [source.read() for _ in range(4)]
    assert [frame.number for frame in frames] == [0, 1, 2, 3]
    assert all(frame.truth is not None for frame in frames)
    again = open_source(uri, start_frame=2).read()
    assert again.number == 2
    assert again.truth == frames[2].truth
    np.testing.assert_array_equal(again.image, frames[2].image)
    source.close()
    with pytest.raises(EndOfSource):
        source.read()


def test_a_stream_that_cannot_be_reached_is_refused_without_showing_its_password() -> None:
    with pytest.raises(DeviceError, match=r"admin:\*\*\*@127.0.0.1") as caught:
        open_source("rtsp://admin:geheim@127.0.0.1:9/live")
    assert "geheim" not in str(caught.value)


class MjpegHandler(http.server.BaseHTTPRequestHandler):
    """Twelve pictures per connection, as a network camera sends them."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=b")
        self.end_headers()
        for number in range(12):
            image = np.full((48, 64, 3), 20 * number, np.uint8)
            data = cv2.imencode(".jpg", image)[1].tobytes()
            head = f"--b\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            self.wfile.write(head.encode() + data + b"\r\n")

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def mjpeg_url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), MjpegHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/camera?channel=1"
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


@pytest.mark.integration
def test_a_network_camera_that_drops_the_connection_is_connected_again(mjpeg_url: str) -> None:
    source = open_source(f"{mjpeg_url}#frames=30")
    assert source.info.live
    assert source.info.kind == "stream"
    assert [source.read().number for _ in range(30)] == list(range(30))
    with pytest.raises(EndOfSource):
        source.read()
    source.close()
