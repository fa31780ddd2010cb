"""``edgekit link``: measure the link to another device, or be the other end."""

import re
import socket
import ssl
import threading
from pathlib import Path

import click

from edgekit.cli.render import byte_progress, print_json, say, show_table, warn
from edgekit.errors import ConfigError
from edgekit.profiler.link import DURATION_CAP_S, DURATION_MIN_S, measure_link
from edgekit.spec.base import save as save_spec
from edgekit.spec.profile import LinkProfile, LinkReport
from edgekit.transport.probe_dial import PROBE_PORT
from edgekit.transport.probe_responder import ProbeResponder
from edgekit.transport.tls import tls_contexts
from edgekit.units import format_duration

_ACTIVATION_BYTES = 500_000
_MBIT = 8e-6
_PLACE = re.compile(
    r"^(?:\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<name>[^:\[\]\s]+))(?::(?P<port>\d+))?$"
)


@click.command("link")
@click.argument("host", required=False, metavar="[HOST[:PORT]]")
@click.option("--serve", is_flag=True, help="Be the other end: answer probes until Ctrl-C.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help=f"With --serve: TCP and UDP port; 0: any free one.  [default: {PROBE_PORT}]",
)
@click.option("--bind", help="With --serve: address to listen on.  [default: 0.0.0.0]")
@click.option("--name", default=socket.gethostname, help="Of this device.  [default: host name]")
@click.option(
    "--duration",
    "duration_s",
    default=5.0,
    show_default=True,
    type=click.FloatRange(DURATION_MIN_S, DURATION_CAP_S),
    help="Seconds to measure for.",
)
@click.option(
    "--save", type=click.Path(path_type=Path), help="Write the report here (.toml or .json)."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--certificate", help="PEM file of this device; with --key and --authority: TLS.")
@click.option("--key", help="PEM file.")
@click.option("--authority", help="PEM file of the authority that signed both ends.")
def command(
    host: str | None,
    serve: bool,
    port: int | None,
    bind: str | None,
    name: str,
    duration_s: float,
    save: Path | None,
    as_json: bool,
    certificate: str | None,
    key: str | None,
    authority: str | None,
) -> None:
    """Measure bandwidth each way, round trip and loss of the link to HOST.

    Start the other end there first: edgekit link --serve.
    """
    server_tls, client_tls = _tls(certificate, key, authority)
    if serve:
        _forbid({"HOST": host, "--save": save, "--json": as_json or None}, "with --serve")
        _serve(bind or "0.0.0.0", PROBE_PORT if port is None else port, name, server_tls)
        return
    _forbid({"--port": port, "--bind": bind}, "without --serve; write HOST:PORT")
    place = _place(host)
    if save is not None:
        _check_folder(save)
    with byte_progress(enabled=not as_json) as progress:
        report = measure_link(
            *place, name=name, duration_s=duration_s, tls=client_tls, progress=progress
        )
    if save is not None:
        save_spec(report, save)
    if as_json:
        print_json(report)
    else:
        _show(report)


def _serve(host: str, port: int, name: str, tls: ssl.SSLContext | None) -> None:
    responder = ProbeResponder(host, port, name=name, tls=tls, on_session=say)
    try:
        bound = responder.address
        say(f"answering link probes on {bound[0]} port {bound[1]}, TCP and UDP (Ctrl-C ends it)")
        if tls is None:
            say("without certificates whoever reaches this port may load the link")
        threading.Event().wait()
    except KeyboardInterrupt:
        say("ended")
    finally:
        responder.close()


def _place(text: str | None) -> tuple[str, int]:
    if text is None:
        raise ConfigError(
            "no host to measure the link to",
            hint="write edgekit link HOST, or edgekit link --serve",
        )
    match = _PLACE.match(text)
    if match is None and text.count(":") > 1 and "[" not in text:
        return text, PROBE_PORT  # a bare IPv6 address
    port = int((match and match["port"]) or PROBE_PORT)
    if match is None or not 0 < port < 65536:
        raise ConfigError(
            f"{text!r} is not a host, or a host and a port",
            hint=f"write it like edge-b.local, 10.0.0.7:{PROBE_PORT} or [fe80::1]:{PROBE_PORT}",
        )
    return match["six"] or match["name"], port


def _forbid(values: dict[str, object], when: str) -> None:
    for name, value in values.items():
        if value is not None:
            raise ConfigError(f"{name} means nothing {when}", hint=f"leave {name} out")


def _check_folder(path: Path) -> None:
    """Before measuring, not after."""
    if not path.parent.is_dir() or path.is_dir():
        raise ConfigError(f"cannot write {path}", hint="give a file name in a folder that exists")


def _tls(
    certificate: str | None, key: str | None, authority: str | None
) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    if certificate and key and authority:
        return tls_contexts(certificate, key, authority)
    if certificate or key or authority:
        raise ConfigError(
            "--certificate, --key and --authority belong together",
            hint="give all three, or none for a link without encryption",
        )
    return None, None


def _show(report: LinkReport) -> None:
    columns = (
        "link", "Mbit/s", "MB/s", "spread", "by trains", "by bulk", "rtt p50", "rtt p99", "loss",
        "500 kB take",
    )  # fmt: skip
    show_table(
        "payload that one TCP connection carries", columns, [_row(one) for one in report.link]
    )
    for note in report.note:
        warn(f"note: {note}")


def _row(link: LinkProfile) -> tuple[str, ...]:
    return (
        f"{link.source} to {link.target}",
        _mbit(link.bandwidth_bytes_per_s),
        f"{link.bandwidth_bytes_per_s / 1e6:.2f}",
        f"{link.spread:.1%}",
        _mbit(link.train_bytes_per_s),
        _mbit(link.bulk_bytes_per_s),
        format_duration(link.rtt_p50_s),
        format_duration(link.rtt_p99_s),
        f"{link.loss:.1%}",
        format_duration(link.transfer_s(_ACTIVATION_BYTES)),
    )


def _mbit(bytes_per_s: float) -> str:
    return f"{_MBIT * bytes_per_s:.1f}" if bytes_per_s else "-"
