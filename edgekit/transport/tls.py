"""TLS 1.3 with certificates at both ends, for the hop and for MQTT.

In: paths of PEM files.  Out: contexts, or a ConfigError naming the file.
The same device certificate serves both directions; its common name, or one of its DNS names, is the
device's name. Addresses are not checked: they change, device names do not.
"""

import socket
import ssl
from pathlib import Path
from typing import Any

from edgekit.errors import ConfigError, TrustError


def tls_contexts(
    certificate: Path | str, key: Path | str, authority: Path | str
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The pair (server context, client context) of one device.

    Raises: ConfigError if a file is missing, is not PEM, or key and certificate differ.
    """
    contexts = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )
    for context in contexts:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        _load_own(context, Path(certificate), Path(key))
        _load_authority(context, Path(authority))
    # No resumption tickets: nobody resumes here, and they would arrive among the first answers.
    contexts[0].num_tickets = 0
    return contexts


def _load_own(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    for what, path in (("certificate", certificate), ("key", key)):
        _require_file(what, path)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"the key {key} does not belong to the certificate {certificate}",
                hint="give the pair that was made together",
            ) from None
        raise ConfigError(
            f"{certificate} and {key} are not a PEM certificate and an unencrypted PEM key "
            f"({error.reason or error})",
            hint="check the two paths",
        ) from None
    except OSError as error:
        raise ConfigError(
            f"cannot read {certificate} or {key}: {error.strerror}",
            hint="check that the agent's user may read both",
        ) from None


def _no_password() -> str:
    """Instead of asking on the terminal; the load then fails with a clear error."""
    return ""


def _load_authority(context: ssl.SSLContext, authority: Path) -> None:
    _require_file("authority", authority)
    try:
        context.load_verify_locations(authority)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"the authority {authority} is not a PEM certificate: {error.strerror or error}",
            hint="give the certificate of the authority that signed the device certificates",
        ) from None


def _require_file(what: str, path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"there is no {what} file {path}", hint="check the path")


def check_peer_name(sock: socket.socket, device: str) -> None:
    """The peer's certificate, if there is one, must carry the name that the peer gave.

    Raises: TrustError naming both.
    """
    if not isinstance(sock, ssl.SSLSocket):
        return
    certificate: dict[str, Any] = dict(sock.getpeercert() or {})
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
    for entry in certificate.get("subject", ()):
        names += [value for kind, value in entry if kind == "commonName"]
    if device not in names:
        raise TrustError(
            f"the peer calls itself {device!r}, but its certificate names {names}",
            hint="give each device the certificate made for it",
        )
