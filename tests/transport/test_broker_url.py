"""Broker URLs: every part that may be given, and a clear word about every mistake."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import ConfigError
from edgekit.transport.broker_url import BrokerUrl, parse_broker_url


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mqtt://localhost", BrokerUrl(host="localhost", port=1883, is_tls=False)),
        ("mqtt://10.0.0.5:2883/", BrokerUrl(host="10.0.0.5", port=2883, is_tls=False)),
        ("mqtts://broker.local", BrokerUrl(host="broker.local", port=8883, is_tls=True)),
        ("mqtt://[fd00::1]:1884", BrokerUrl(host="fd00::1", port=1884, is_tls=False)),
        (
            "mqtts://yard:p%40ss%3A1@h:1",
            BrokerUrl(host="h", port=1, is_tls=True, user="yard", password="p@ss:1"),
        ),
    ],
)
def test_a_url_gives_its_parts(text: str, expected: BrokerUrl) -> None:
    assert parse_broker_url(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("localhost:1883", "begin with mqtt://"),
        ("http://localhost", "begin with mqtt://"),
        ("", "begin with mqtt://"),
        ("mqtt://", "host is missing"),
        ("mqtt://my host", "host is missing"),
        ("mqtt://host:99999", "Port"),
        ("mqtt://host:no", "Port"),
        ("mqtt://host:0", "port 0"),
        ("mqtt://host/topic", "nothing may follow"),
        ("mqtt://[fd00::1", "IPv6"),
    ],
)
def test_a_bad_url_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_broker_url(text)


def test_the_password_is_never_shown() -> None:
    """Neither in sentences for people nor in errors that end up in logs."""
    assert "secret" not in str(parse_broker_url("mqtt://user:secret@host"))
    with pytest.raises(ConfigError) as caught:
        parse_broker_url("mqtt://user:secret@host/path")
    assert "secret" not in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_a_url_or_a_config_error(text: str) -> None:
    for candidate in (text, "mqtt://" + text):
        try:
            parse_broker_url(candidate)
        except ConfigError as error:
            assert "mqtt://localhost:1883" in error.hint
