"""Broker URLs: mqtt://[user:password@]host[:1883] and mqtts://[user:password@]host[:8883].

In: the text a person wrote.  Out: its parts, or a ConfigError saying what is wrong with it.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from edgekit.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerUrl:
    """mqtt://[user:password@]host[:1883] or mqtts://[user:password@]host[:8883]."""

    host: str
    port: int
    is_tls: bool
    user: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        """Without the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'s' if self.is_tls else ''}://{host}:{self.port}"


def parse_broker_url(url: str) -> BrokerUrl:
    """The parts of a broker URL. Raises: ConfigError saying what is wrong with it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _bad_url(url, str(error)) from None
    if parts.scheme not in {"mqtt", "mqtts"}:
        raise _bad_url(url, "it must begin with mqtt:// or mqtts://")
    if not parts.hostname or re.search(r"\s", url):
        raise _bad_url(url, "the host is missing")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise _bad_url(url, "nothing may follow the port")
    if port == 0:
        raise _bad_url(url, "port 0 is none")
    is_tls = parts.scheme == "mqtts"
    return BrokerUrl(
        host=parts.hostname,
        port=port or (8883 if is_tls else 1883),
        is_tls=is_tls,
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )


def _bad_url(url: str, why: str) -> ConfigError:
    shown = re.sub(r"//[^@/]*@", "//…@", url)
    return ConfigError(
        f"broker {shown!r} is not a broker URL: {why}", hint="write it like mqtt://localhost:1883"
    )
