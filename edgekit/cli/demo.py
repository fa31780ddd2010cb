"""``edgekit demo``: the main job on one machine."""

import threading
from pathlib import Path

import click

from edgekit.cli.options import fleet_from, parse_inputs
from edgekit.cli.render import byte_progress, render_summary, say
from edgekit.errors import ConfigError
from edgekit.spec.agent_config import Optimization
from edgekit.spec.base import to_json, write_atomically
from edgekit.vision.sources import parse_source_uri, with_option
from edgekit.workflow import DemoOptions, Serve, run_demo

_SCENE = "scene:yard?seed=7&size=640x400&fps=15"


@click.command("demo")
@click.option(
    "--model", type=click.Path(path_type=Path), help="ONNX or .pt; default: samples/yard."
)
@click.option("--source", help=f"0, file:clip.mp4, rtsp://…, images:DIR; default: {_SCENE}.")
@click.option(
    "--cut", "cuts", multiple=True, help="auto (default), none, or TENSOR[,TENSOR]; one per border."
)
@click.option(
    "--devices",
    default="2",
    show_default=True,
    help="How many equal devices, or names with speeds: camera=1,gateway=4.",
)
@click.option("--fleet", type=click.Path(path_type=Path), help="fleet.toml instead of --devices.")
@click.option("--decoder", help="Card for a bare ONNX file: yolox, nanodet, …")
@click.option("--input", "inputs", multiple=True, help="NAME=1x3x416x416 for dynamic shapes.")
@click.option("--broker", help="mqtt://host:1883; default: an embedded broker.")
@click.option("--headless", is_flag=True, help="No page; end with the source.")
@click.option("--frames", type=click.IntRange(min=1), help="Stop after N frames.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the summary.")
@click.option("--detections", type=click.Path(path_type=Path), help="Write a JSON line a frame.")
@click.option("--save", type=click.Path(path_type=Path), help="Write a video with the boxes.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the page.")
@click.option("--port", default=8080, show_default=True, help="Port of the page.")
@click.option("--threads", default=1, show_default=True, help="Runtime threads per device.")
@click.option(
    "--optimization",
    type=click.Choice(["none", "basic", "extended", "all"]),
    default="all",
    show_default=True,
    help="ONNX Runtime level; extended makes the split bit-equal to the whole.",
)
@click.option("--pin", is_flag=True, help="Pin device k to processor k.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep bundle, stores and logs.")
def command(
    model: Path | None,
    source: str | None,
    cuts: tuple[str, ...],
    devices: str,
    fleet: Path | None,
    decoder: str | None,
    inputs: tuple[str, ...],
    broker: str | None,
    headless: bool,
    frames: int | None,
    json_path: Path | None,
    detections: Path | None,
    save: Path | None,
    host: str,
    port: int,
    threads: int,
    optimization: Optimization,
    pin: bool,
    folder: Path | None,
) -> None:
    """Build a model for two (emulated) devices, run them, and watch them on a live page."""
    for name, path in (("json", json_path), ("detections", detections), ("save", save)):
        if path is not None and not path.absolute().parent.is_dir():
            raise ConfigError(
                f"--{name} {path}: there is no folder {path.absolute().parent}", hint="create it"
            )
    options = DemoOptions(
        model=model or sample_model(),
        source=_source(source or _SCENE, frames, is_watched=not headless),
        fleet=fleet_from(fleet, devices),
        cut=cuts or ("auto",),
        decoder=decoder,
        input_shapes=parse_inputs(inputs),
        broker=broker,
        optimization=optimization,
        threads=threads,
        pin=pin,
        detections=detections,
        save=save,
        folder=folder,
    )

    serve = None if headless else _page(host, port)  # fails now if nicegui is missing
    with byte_progress(enabled=headless) as progress:
        summary = run_demo(options, say=say, progress=progress, serve=serve)
    if json_path is not None:
        write_atomically(to_json(summary), json_path)
    render_summary(summary)


def sample_model() -> Path:
    """The trained detector that comes with EdgeKit. Raises: ConfigError if it is not installed."""
    package = Path(__file__).parents[1]
    for folder in (package / "_samples" / "yard", package.parent / "samples" / "yard"):
        if (folder / "yard.pt").is_file():
            return folder / "yard.pt"
    raise ConfigError("the sample model is not installed", hint="name one with --model FILE")


def _source(uri: str, frames: int | None, *, is_watched: bool) -> str:
    """``uri`` with its limit; footage that people watch runs at its own pace, not at ours."""
    if frames is not None:
        uri = with_option(uri, "frames", str(frames))
    parsed = parse_source_uri(uri)
    is_footage = parsed.kind in ("file", "images")
    if is_watched and is_footage and parsed.options.pace is None and parsed.options.mode is None:
        uri = with_option(uri, "pace", "1")
    return uri


def _page(host: str, port: int) -> Serve:
    """The live page, to be shown once the fleet runs."""
    from edgekit.dashboard.app import run_dashboard

    def serve(broker_url: str, fleet_name: str, stop: threading.Event) -> None:
        run_dashboard(
            mqtt_url=broker_url,
            fleet=fleet_name,
            host=host,
            port=port,
            on_ready=lambda url: say(f"live page: {url}   (Ctrl-C ends the demo)"),
            stop=stop,
        )

    return serve
