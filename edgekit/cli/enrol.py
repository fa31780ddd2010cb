"""``edgekit enrol``: certificates for the devices of a fleet."""

from pathlib import Path

import click

from edgekit.cli.render import print_json, say
from edgekit.errors import ConfigError
from edgekit.fleet.certificates import FleetAuthority
from edgekit.spec.base import load
from edgekit.spec.fleet import Fleet


@click.command("enrol")
@click.argument("fleet", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New folder to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the paths as JSON.")
def command(fleet: Path, out: Path, as_json: bool) -> None:
    """Make an authority and one certificate per device of FLEET (fleet.toml).

    Copy OUT/DEVICE to that board and name its three files under [hop] in agent.toml. The
    authority's key is not kept: to add a device later, enrol the whole fleet again.
    """
    loaded = load(fleet, Fleet)
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty", hint="name a new folder with --out")
    authority = FleetAuthority(loaded.name)
    written = {}
    for device in loaded.device:
        try:
            hop = authority.enrol(device.name, out / device.name)
        except OSError as error:
            raise ConfigError(
                f"cannot write {out / device.name}: {error.strerror}", hint="choose another --out"
            ) from None
        written[device.name] = {
            "certificate": hop.certificate,
            "key": hop.key,
            "authority": hop.authority,
        }
        if not as_json:
            say(f"{device.name}: {out / device.name} (certificate.pem, key.pem, authority.pem)")
    if as_json:
        print_json(written)
