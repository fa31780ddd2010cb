"""The grammar of source URIs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import ConfigError
from edgekit.vision.sources.uri import (
    CameraOptions,
    SceneOptions,
    parse_size_px,
    parse_source_uri,
    with_option,
)


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("clip.mp4").write_bytes(b"x")
    Path("odd?name=1.mp4").write_bytes(b"x")
    return "clip.mp4"


@pytest.mark.parametrize(
    ("uri", "kind", "target"),
    [
        ("0", "camera", "0"),
        ("12?fps=30", "camera", "12"),
        ("v4l2:///dev/video0", "camera", "/dev/video0"),
        ("v4l2:/dev/video2?size=640x480", "camera", "/dev/video2"),
        ("file:clip.mp4", "file", "clip.mp4"),
        ("FILE:clip.mp4", "file", "clip.mp4"),
        ("file:absent.mp4", "file", "absent.mp4"),
        ("file:///tmp/a b.mp4", "file", "/tmp/a b.mp4"),
        ("clip.mp4", "file", "clip.mp4"),
        ("clip.mp4?loop=1", "file", "clip.mp4"),
        ("odd?name=1.mp4", "file", "odd?name=1.mp4"),
        ("file:odd?name=1.mp4", "file", "odd?name=1.mp4"),
        ("file:odd?name=1.mp4?loop=1", "file", "odd?name=1.mp4"),
        ("images:folder?fps=2", "images", "folder"),
        ("scene:yard?seed=1&size=640x400&fps=30", "scene", "yard"),
        ("rtsp://cam/live?channel=1&mode=live", "stream", "rtsp://cam/live?channel=1&mode=live"),
        ("http://cam:80/mjpg#frames=3", "stream", "http://cam:80/mjpg"),
        ("https://host/clip.mp4#loop=1", "file", "https://host/clip.mp4"),
        ("https://host/clip.mp4?token=a.b", "file", "https://host/clip.mp4?token=a.b"),
    ],
)
def test_a_uri_is_taken_apart(clip: str, uri: str, kind: str, target: str) -> None:
    parsed = parse_source_uri(uri)
    assert (parsed.kind, parsed.target) == (kind, target)


@pytest.mark.parametrize(
    "prefix", ["0?", "file:a.mp4?", "images:a?", "scene:yard?", "rtsp://cam/x?fps=9#"]
)
def test_every_kind_takes_the_common_options(prefix: str) -> None:
    options = parse_source_uri(f"{prefix}mode=live&pace=1&loop=1&fps=12.5&frames=7").options
    assert (options.mode, options.pace, options.loop) == ("live", True, True)
    assert (options.fps, options.frames) == (12.5, 7)


def test_scenes_and_cameras_have_options_of_their_own() -> None:
    scene = parse_source_uri("scene:yard?seed=5").options
    assert isinstance(scene, SceneOptions)
    assert (scene.seed, scene.size) == (5, "640x400")
    camera = parse_source_uri("0?size=1280x720").options
    assert isinstance(camera, CameraOptions)
    assert parse_size_px(camera.size) == (1280, 720)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "neither an existing file.*scene:yard"),
        ("nowhere.mp4", "neither an existing file.*file:clip.mp4"),
        (".", "neither an existing file"),
        ("ftp://host/clip.mp4", "unknown scheme 'ftp'.*rtsp://"),
        ("C:/clip.mp4", "unknown scheme 'C'"),
        ("file:", "names nothing"),
        ("v4l2://", "names nothing"),
        ("rtsp://", "names no host"),
        ("rtsp:///path", "names no host"),
        ("rtsp://?x", "names no host"),
        ("0?speed=2", "unknown field `speed`.*mode, pace, loop, fps, frames, arrivals, size"),
        ("file:a.mp4?seed=1", "unknown field `seed`.*mode, pace, loop, fps, frames, arrivals\\."),
        ("file:a.mp4?mode=fast", "mode"),
        ("file:a.mp4?mode=live&pace=0", "mode=live cannot have pace=0"),
        ("file:a.mp4?frames=0", "frames"),
        ("file:a.mp4?frames=ten", "frames"),
        ("file:a.mp4?fps=nan", "fps"),
        ("file:a.mp4?fps=-1", "fps"),
        ("file:a.mp4?fps=inf", "fps"),
        ("file:a.mp4?loop", "'loop' is not NAME=VALUE"),
        ("file:a.mp4?loop=1&loop=0", "given twice"),
        ("scene:yard?size=640", "size '640'"),
        ("scene:yard?size=0x0", "size"),
        ("scene:yard?size=99999x400", "size"),
        ("scene:yard?seed=-1", "seed"),
    ],
)
def test_mistakes_are_named_and_what_exists_is_listed(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_source_uri(uri)


SCHEMES = ["", "file:", "images:", "scene:yard?", "rtsp://", "http://h/", "v4l2:", "0?"]
OPTIONS = [
    "mode=",
    "fps=",
    "frames=",
    "size=",
    "seed=",
    "loop=",
    "pace=",
    "&",
    "#",
    "?",
    "%",
    "=",
    "@",
]


@given(
    st.one_of(
        st.text(max_size=40),
        st.lists(
            st.one_of(st.sampled_from(SCHEMES + OPTIONS), st.text(max_size=6)), max_size=8
        ).map("".join),
    )
)
def test_any_text_is_a_source_or_a_config_error(text: str) -> None:
    """Whatever is typed or comes from a file: no other exception."""
    try:
        parsed = parse_source_uri(text)
    except ConfigError as error:
        assert error.hint
        return
    assert parsed.target
    if isinstance(parsed.options, SceneOptions):
        parse_size_px(parsed.options.size)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://admin:geheim@cam:554/x", "rtsp://admin:***@cam:554/x"),
        ("http://u:p%40ss@cam/x?a=b@c#frames=1", "http://u:***@cam/x?a=b@c#frames=1"),
        ("rtsp://cam/x", "rtsp://cam/x"),
    ],
)
def test_a_password_is_hidden_from_people_and_telemetry(uri: str, shown: str) -> None:
    parsed = parse_source_uri(uri)
    assert parsed.uri == shown
    assert parsed.target == uri.partition("#")[0]


def test_an_error_about_an_address_does_not_show_its_password() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_source_uri("rtsp://admin:geheim@cam/x#speed=1")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "with_frames"),
    [
        ("0", "0?frames=9"),
        ("clip.mp4", "clip.mp4?frames=9"),
        ("odd?name=1.mp4", "odd?name=1.mp4?frames=9"),
        ("file:odd?name=1.mp4?loop=1", "file:odd?name=1.mp4?loop=1&frames=9"),
        ("file:clip.mp4?loop=1", "file:clip.mp4?loop=1&frames=9"),
        ("scene:yard?frames=2&seed=1", "scene:yard?seed=1&frames=9"),
        ("rtsp://cam/x?frames=2", "rtsp://cam/x?frames=2#frames=9"),
        ("rtsp://cam/x#fps=5", "rtsp://cam/x#fps=5&frames=9"),
    ],
)
def test_an_option_is_added_where_the_source_takes_it(
    clip: str, uri: str, with_frames: str
) -> None:
    changed = with_option(uri, "frames", "9")
    assert changed == with_frames
    parsed = parse_source_uri(changed)
    assert parsed.options.frames == 9
    assert parsed.target == parse_source_uri(uri).target
